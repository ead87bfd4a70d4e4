"""The flights service: every departure from Newark, Kennedy and LaGuardia in January 2013.

    GET  /flights/{id}           one flight
    GET  /flights?carrier=&origin=&dest=&tailnum=&flight=&date=&cancelled=&limit=
    POST /flights/search         the same filters as a JSON object
    GET  /flights/summary        the same filters: how many flights, how many cancelled, how late

In addition to the columns of the file, a flight has `id` (the 1-based number of its row), `date` (day of departure, New York) and
`cancelled` (it has no departure time). Times are local, as hour * 100 + minute; `time_hour` is the scheduled hour in UTC.
"""

from statistics import fmean
from typing import Final

from demo.service import Request, Service, found, matching, page, serve
from demo.table import JSON, Parse, Row, Table, boolean, day, read

WHOLE_NUMBERS: Final = (
    "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay", "flight", "air_time",
    "distance", "hour", "minute",
)  # fmt: skip
FILTERS: Final[dict[str, Parse]] = {
    "carrier": str,
    "origin": str,
    "dest": str,
    "tailnum": str,
    "flight": int,
    "date": day,
    "cancelled": boolean,
}
ON_TIME_MINUTES: Final = 15
"""A departure counts as on time when it is less than this late (the definition of the US Department of Transportation)."""


def load() -> list[Row]:
    return [
        {
            "id": number,
            "date": f"{row['year']}-{row['month']:02}-{row['day']:02}",
            **row,
            "cancelled": row["dep_time"] is None,
        }
        for number, row in enumerate(read("flights", dict.fromkeys(WHOLE_NUMBERS, int)), start=1)
    ]


def summarized(flights: list[Row]) -> JSON:
    """Delays in minutes; null if no flight left or arrived."""
    departed = [flight["dep_delay"] for flight in flights if flight["dep_delay"] is not None]
    arrived = [flight["arr_delay"] for flight in flights if flight["arr_delay"] is not None]
    return {
        "flights": len(flights),
        "cancelled": len(flights) - len(departed),
        "mean_dep_delay": round(fmean(departed), 1) if departed else None,
        "mean_arr_delay": round(fmean(arrived), 1) if arrived else None,
        "on_time_share": round(sum(delay < ON_TIME_MINUTES for delay in departed) / len(departed), 3) if departed else None,
    }


def build() -> Service:
    table = Table(load(), FILTERS)

    def flight(request: Request) -> JSON:
        text = request.path["id"]
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        return found(table.rows[number - 1] if 1 <= number <= len(table.rows) else None, f"flight {text}")

    def flights(request: Request) -> JSON:
        return page(table, request, key="flights")

    def summary(request: Request) -> JSON:
        return summarized(matching(table, request))

    routes = {
        "GET /flights/{id}": flight,
        "GET /flights": flights,
        "POST /flights/search": flights,
        "GET /flights/summary": summary,
    }
    return Service("flights", rows=len(table.rows), routes=routes)


if __name__ == "__main__":
    serve(build())
