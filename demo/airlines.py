"""The airlines service: the sixteen carriers that flew from New York in 2013.

GET /airlines/{carrier}      one airline, by its two-letter code
GET /airlines                all of them
GET /airlines?codes=AA,B6    those with these codes
"""

from demo.service import Request, Service, found, listed, page, serve
from demo.table import JSON, Table, read


def build() -> Service:
    table = Table(list(read("airlines", {})), {})
    by_carrier = {row["carrier"]: row for row in table.rows}

    def airline(request: Request) -> JSON:
        carrier = request.path["carrier"]
        return found(by_carrier.get(carrier), f"airline {carrier}")

    def airlines(request: Request) -> JSON:
        if "codes" in request.arguments:
            return listed(by_carrier, request, by="codes", key="airlines")
        return page(table, request, key="airlines")

    return Service("airlines", rows=len(table.rows), routes={"GET /airlines/{carrier}": airline, "GET /airlines": airlines})


if __name__ == "__main__":
    serve(build())
