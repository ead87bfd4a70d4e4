"""The airports service: airports of the United States, without those of Puerto Rico and the Virgin Islands (as in the source).

GET  /airports/{faa}         one airport, by its FAA code
GET  /airports/{faa}/page    the same for people, in HTML, with the nearest other airports
GET  /airports?tzone=&dst=&limit=
POST /airports/lookup        {"codes": [...]}: the airports that exist, in the requested order, and the unknown codes
"""

from heapq import nsmallest
from html import escape
from math import asin, cos, radians, sin, sqrt
from typing import Final

from demo.service import MAX_LIMIT, HtmlPage, Refusal, Request, Service, found, page, serve
from demo.table import JSON, Parse, Row, Table, read

TYPES: Final[dict[str, Parse]] = {"lat": float, "lon": float, "alt": int, "tz": int}
EARTH_RADIUS_MILES: Final = 3958.8
NEAREST: Final = 5


def miles(one: Row, other: Row) -> float:
    """The great-circle distance between two airports in statute miles, by the haversine formula."""
    latitude, other_latitude = radians(one["lat"]), radians(other["lat"])
    across = sin(radians(other["lon"] - one["lon"]) / 2) ** 2
    chord = sin((other_latitude - latitude) / 2) ** 2 + cos(latitude) * cos(other_latitude) * across
    return 2 * EARTH_RADIUS_MILES * asin(sqrt(chord))


def rendered(airport: Row, others: list[Row]) -> HtmlPage:
    """The page of an airport. `others`: where to look for the nearest airports."""
    near = nsmallest(NEAREST, ((miles(airport, other), other["faa"], other["name"]) for other in others if other is not airport))
    rows = "\n".join(
        f'<tr class="airport"><td class="code">{escape(faa)}</td><td><a href="/airports/{escape(faa)}/page">{escape(name)}</a></td>'
        f'<td class="distance">{distance:.0f} miles</td></tr>'
        for distance, faa, name in near
    )
    name = escape(airport["name"])
    return HtmlPage(f"""<!doctype html>
<html lang="en">
<title>{name}</title>
<h1>{name}</h1>
<p>Elevation: <b id="elevation">{airport["alt"]} feet</b></p>
<h2>Nearest airports</h2>
<table>
{rows}
</table>
</html>
""")


def build() -> Service:
    table = Table(list(read("airports", TYPES)), {"tzone": str, "dst": str})
    by_code = {row["faa"]: row for row in table.rows}

    def airport(request: Request) -> JSON:
        code = request.path["faa"]
        return found(by_code.get(code), f"airport {code}")

    def airports(request: Request) -> JSON:
        return page(table, request, key="airports")

    def airport_page(request: Request) -> HtmlPage:
        return rendered(airport(request), table.rows)

    def lookup(request: Request) -> JSON:
        codes = request.arguments.get("codes")
        if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes) or len(codes) > MAX_LIMIT:
            raise Refusal(400, f"codes must be an array of at most {MAX_LIMIT} strings")
        return {
            "airports": [by_code[code] for code in codes if code in by_code],
            "unknown": [code for code in codes if code not in by_code],
        }

    routes = {
        "GET /airports/{faa}": airport,
        "GET /airports/{faa}/page": airport_page,
        "GET /airports": airports,
        "POST /airports/lookup": lookup,
    }
    return Service("airports", rows=len(table.rows), routes=routes)


if __name__ == "__main__":
    serve(build())
