"""The weather service: hourly observations of January 2013 at Newark, Kennedy and LaGuardia.

    GET  /weather?origin=EWR&at=2013-01-01T10:00:00Z    the observation of the hour that contains `at`
    GET  /weather/daily?origin=EWR&date=2013-01-01      the hours of one day in New York, `{"hours": [...], "total": n}`
    POST /weather/search                                {"origin", "date", "hour", "limit"}, all optional; the same answer

Some hours have no observation (404). In addition to the columns of the file, an observation has `date`, the day in New York.
"""

from datetime import UTC, datetime
from typing import Final

from demo.service import Refusal, Request, Service, found, page, serve
from demo.table import JSON, Parse, Row, Table, day, read

TYPES: Final[dict[str, Parse]] = {
    **dict.fromkeys(("year", "month", "day", "hour", "wind_dir"), int),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"), float),
}
FILTERS: Final[dict[str, Parse]] = {"origin": str, "date": day, "hour": int}


def load() -> list[Row]:
    return [{"date": f"{row['year']}-{row['month']:02}-{row['day']:02}", **row} for row in read("weather", TYPES)]


def utc_hour(text: str) -> str:
    """The UTC hour of an ISO 8601 instant, as `2013-01-01T10:00:00Z`. An instant without an offset is UTC. Raises ValueError."""
    instant = datetime.fromisoformat(text)
    in_utc = instant.astimezone(UTC) if instant.tzinfo else instant
    return in_utc.strftime("%Y-%m-%dT%H:00:00Z")


def build() -> Service:
    table = Table(load(), FILTERS)
    by_hour = {(row["origin"], row["time_hour"]): row for row in table.rows}

    def observation(request: Request) -> JSON:
        origin, hour = request.take("origin", str), request.take("at", utc_hour)
        if origin is None or hour is None:
            raise Refusal(400, "origin and at are required, such as ?origin=EWR&at=2013-01-01T10:00:00Z")
        return found(by_hour.get((origin, hour)), f"observation of {origin} at {hour}")

    def daily(request: Request) -> JSON:
        if request.take("origin", str) is None or request.take("date", day) is None:
            raise Refusal(400, "origin and date are required, such as ?origin=EWR&date=2013-01-01")
        return page(table, Request(arguments={"limit": 24, **request.arguments}), key="hours")

    def search(request: Request) -> JSON:
        return page(table, request, key="hours")

    routes = {"GET /weather": observation, "GET /weather/daily": daily, "POST /weather/search": search}
    return Service("weather", rows=len(table.rows), routes=routes)


if __name__ == "__main__":
    serve(build())
