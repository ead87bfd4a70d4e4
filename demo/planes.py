"""The planes service: the aircraft of the FAA registry that flew from New York in 2013.

    GET /planes/{tailnum}                 one plane
    GET /planes?tailnums=N14228,N24211    those with these tail numbers
    GET /planes?manufacturer=&model=&year=&type=&engine=&engines=&limit=

American Airlines (AA) and Envoy Air (MQ) report fleet numbers instead of tail numbers, so most of their planes are missing.
"""

from typing import Final

from demo.service import Request, Service, found, listed, page, serve
from demo.table import JSON, Parse, Table, read

TYPES: Final[dict[str, Parse]] = {"year": int, "engines": int, "seats": int, "speed": int}
FILTERS: Final[dict[str, Parse]] = {"manufacturer": str, "model": str, "year": int, "type": str, "engine": str, "engines": int}


def build() -> Service:
    table = Table(list(read("planes", TYPES)), FILTERS)
    by_tailnum = {row["tailnum"]: row for row in table.rows}

    def plane(request: Request) -> JSON:
        tailnum = request.path["tailnum"]
        return found(by_tailnum.get(tailnum), f"plane {tailnum} in the registry")

    def planes(request: Request) -> JSON:
        if "tailnums" in request.arguments:
            return listed(by_tailnum, request, by="tailnums", key="planes")
        return page(table, request, key="planes")

    return Service("planes", rows=len(table.rows), routes={"GET /planes/{tailnum}": plane, "GET /planes": planes})


if __name__ == "__main__":
    serve(build())
