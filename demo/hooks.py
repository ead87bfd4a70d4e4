"""Functions that the demo's document runs as steps. The gateway checks arguments and results against the annotations, and shows them in
/docs."""

import random
from statistics import fmean, quantiles

from pydantic import BaseModel, Field

ON_TIME_MINUTES = 15


class Flight(BaseModel):
    """The delays of a flight in minutes; null if it was cancelled."""

    dep_delay: int | None
    arr_delay: int | None


class DelaySummary(BaseModel):
    """How late departures were, in minutes."""

    flights: int = Field(description="Number of flights")
    cancelled: int
    on_time_share: float | None = Field(description="Share of departures less than 15 minutes late; null when none left")
    median: float | None
    worst_tenth: float | None = Field(description="One in ten departures was at least this late")


class MeanDelay(BaseModel):
    """The mean arrival delay in minutes, and its 95% confidence interval from `low` to `high`. Null if no flight has arrived."""

    flights: int
    mean: float | None
    low: float | None
    high: float | None
    resamples: int


def delay_summary(flights: list[Flight]) -> DelaySummary:
    """The delays of a few flights. Takes microseconds, so it runs in a thread."""
    delays = [flight.dep_delay for flight in flights if flight.dep_delay is not None]
    deciles = quantiles(delays, n=10, method="inclusive") if len(delays) > 1 else [float(delay) for delay in delays] * 9
    return DelaySummary(
        flights=len(flights),
        cancelled=len(flights) - len(delays),
        on_time_share=round(sum(delay < ON_TIME_MINUTES for delay in delays) / len(delays), 3) if delays else None,
        median=round(deciles[4], 1) if delays else None,
        worst_tenth=round(deciles[8], 1) if delays else None,
    )


def mean_delay(flights: list[Flight], resamples: int = 5000) -> MeanDelay:
    """Bootstraps the mean: resamples the flights many times. Takes 0.4 s of pure Python for a thousand flights, so it runs in a process."""
    delays = [flight.arr_delay for flight in flights if flight.arr_delay is not None]
    if not delays:
        return MeanDelay(flights=0, mean=None, low=None, high=None, resamples=resamples)
    draw = random.Random(1).choices
    means = sorted(fmean(draw(delays, k=len(delays))) for _ in range(resamples))
    return MeanDelay(
        flights=len(delays),
        mean=round(fmean(delays), 2),
        low=round(means[int(0.025 * resamples)], 2),
        high=round(means[min(int(0.975 * resamples), resamples - 1)], 2),
        resamples=resamples,
    )
