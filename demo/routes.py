"""A Python route for what a document cannot express: it has to choose a flight.

`fan` calls the upstreams of the document, with their bulkheads, retries and breakers. A failed required call ends the request with the
gateway's problem. A failed optional call returns None, and the response says `Gateway-Complete: ?0`.
"""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel

from anabranch import Fan, segment

router = APIRouter(tags=["trips"])

MAX_FLIGHTS = 1000
WEATHER_TIMEOUT_S = 0.3


class Flight(BaseModel):
    """A departure. `sched_dep_time`: local, as hour * 100 + minute."""

    id: int
    date: str
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    sched_dep_time: int
    dep_delay: int | None
    time_hour: datetime
    minute: int
    cancelled: bool

    @property
    def departs_at(self) -> datetime:
        """Scheduled departure."""
        return self.time_hour + timedelta(minutes=self.minute)


class Airport(BaseModel):
    """Where a flight starts or ends."""

    faa: str
    name: str
    tzone: str | None


class Weather(BaseModel):
    """Weather in the hour of departure. `temp`: Fahrenheit. `wind_speed`: miles an hour. `visib`: miles."""

    temp: float | None
    wind_speed: float | None
    visib: float | None


class NextTrip(BaseModel):
    """A plane's next departure from New York after a flight. Parts that are not available are null."""

    flight: Flight
    next: Flight
    hours_between: float
    origin: Airport | None
    destination: Airport | None
    weather: Weather | None


@router.get(
    "/trips/{flight_id}/next",
    summary="Where the plane of a flight went next",
    responses={404: {"description": "There is no such flight, or its plane did not leave New York again in January 2013"}},
)
async def next_trip(flight_id: Annotated[int, Path(ge=1)], fan: Fan) -> NextTrip:
    """The plane's next departure from any of the three airports, excluding cancelled flights."""
    flight = Flight.model_validate(await fan.get("flights", f"/flights/{flight_id}", name="flight"))
    if flight.tailnum is None:
        raise HTTPException(404, "the plane of this flight is not known")
    rotation = {"tailnum": flight.tailnum, "cancelled": False, "limit": MAX_FLIGHTS}
    found = await fan.get("flights", "/flights", query=rotation, name="rotation")
    following = earliest_after(flight, [Flight.model_validate(one) for one in found["flights"]])
    if following is None:
        raise HTTPException(404, "the plane did not leave New York again in January 2013")
    origin, destination, weather = await fan.gather(
        fan.call("airports", f"/airports/{segment(following.origin)}", optional=True, name="origin"),
        fan.call("airports", f"/airports/{segment(following.dest)}", optional=True, name="destination"),
        fan.call(
            "weather",
            "/weather",
            query={"origin": following.origin, "at": following.time_hour.isoformat()},
            timeout=WEATHER_TIMEOUT_S,
            optional=True,
        ),
    )
    between = following.departs_at - flight.departs_at
    return NextTrip(
        flight=flight,
        next=following,
        hours_between=round(between.total_seconds() / 3600, 2),
        origin=origin,
        destination=destination,
        weather=weather,
    )


def earliest_after(flight: Flight, candidates: list[Flight]) -> Flight | None:
    """The first of the candidates that is scheduled to leave after `flight`."""
    later = [candidate for candidate in candidates if candidate.departs_at > flight.departs_at]
    return min(later, key=lambda candidate: candidate.departs_at, default=None)
