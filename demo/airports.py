"""The airports service: airports of the United States, without those of Puerto Rico and the Virgin Islands (as in the source).

GET  /airports/{faa}         one airport, by its FAA code
GET  /airports?tzone=&dst=&limit=
POST /airports/lookup        {"codes": [...]}: the airports that exist, in the requested order, and the unknown codes
"""

from typing import Final

from demo.service import MAX_LIMIT, Refusal, Request, Service, found, page, serve
from demo.table import JSON, Parse, Table, read

TYPES: Final[dict[str, Parse]] = {"lat": float, "lon": float, "alt": int, "tz": int}


def build() -> Service:
    table = Table(list(read("airports", TYPES)), {"tzone": str, "dst": str})
    by_code = {row["faa"]: row for row in table.rows}

    def airport(request: Request) -> JSON:
        code = request.path["faa"]
        return found(by_code.get(code), f"airport {code}")

    def airports(request: Request) -> JSON:
        return page(table, request, key="airports")

    def lookup(request: Request) -> JSON:
        codes = request.arguments.get("codes")
        if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes) or len(codes) > MAX_LIMIT:
            raise Refusal(400, f"codes must be an array of at most {MAX_LIMIT} strings")
        return {
            "airports": [by_code[code] for code in codes if code in by_code],
            "unknown": [code for code in codes if code not in by_code],
        }

    routes = {"GET /airports/{faa}": airport, "GET /airports": airports, "POST /airports/lookup": lookup}
    return Service("airports", rows=len(table.rows), routes=routes)


if __name__ == "__main__":
    serve(build())
