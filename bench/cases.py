"""The workloads: path, calls and correct response of each.

The peers implement the same routes in their own language. Every server's response is compared with `expected` before it is measured. The
services are ten addresses of one process (`bench.upstream`), each with its own name, connections and policies in the gateways.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from bench import bodies

JSON = Any
SERVICES: Final = 10
DELAY_S: Final = 0.05
SLOW_S: Final = 1.0
SLOW_SHARE: Final = 0.01
SERVERS: Final = ("anabranch", "textbook", "aiohttp", "node", "krakend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a workload. `name`: its key in the response. `service`: number of the service. `path`: may refer to an earlier call of a
    chain as `{name.field}`. `pick`: keep only these keys."""

    name: str
    service: int
    path: str
    pick: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One row group of the report.

    `path`: path of the requests. `method`: how it is measured. closed: each client sends its next request after its response. half: open
    loop at half of the server's own saturation. hedging: the same, with the slow service, with and without hedging. growth: closed loop,
    over several numbers of endpoints. `clients`: connections. `is_chain`: each call's path depends on the response before. `is_joined`: each of the
    `items` in the answer gets its product. `alone`: path
    requested directly from the upstream, for the row that shows the capacity of load generator and upstream. `peers`: measured by default.
    """

    key: str
    title: str
    path: str
    calls: tuple[Call, ...]
    method: Literal["closed", "half", "hedging", "growth"] = "closed"
    clients: int = 64
    is_chain: bool = False
    alone: str = "/user"
    is_joined: bool = False
    peers: tuple[str, ...] = (*SERVERS, "upstream")


USER: Final = Call(name="user", service=0, path="/user")
ORDERS: Final = Call(name="orders", service=1, path="/orders")
WEATHER: Final = Call(name="weather", service=2, path="/weather")

WORKLOADS: Final = (
    Workload(
        key="A",
        title="group of three small bodies (0.2, 2.2 and 0.9 kB)",
        path="/a",
        calls=(USER, ORDERS, WEATHER),
        peers=(*SERVERS, "floor", "exchange", "wire", "upstream"),
    ),
    Workload(
        key="B",
        title="group of ten bodies of 1 kB",
        path="/b",
        calls=tuple(Call(name=f"part{number}", service=number, path=f"/parts/{number}") for number in range(10)),
        clients=32,
        alone="/parts/0",
    ),
    Workload(
        key="C",
        title="group of three bodies of 1 MB",
        path="/c",
        calls=tuple(Call(name=f"report{number}", service=number, path=f"/reports/{number}") for number in range(3)),
        clients=16,
        alone="/reports/0",
    ),
    Workload(
        key="D",
        title="two fields picked from a body of 1 MB",
        path="/d",
        calls=(Call(name="report", service=0, path="/reports/0", pick=("batch", "summary")),),
        clients=16,
        alone="/reports/0",
        peers=SERVERS,
    ),
    Workload(
        key="E",
        title="chain of three calls, each path made of the answer before",
        path="/e",
        calls=(
            Call(name="account", service=0, path="/accounts/17"),
            Call(name="customer", service=1, path="/customers/{account.customer_id}"),
            Call(name="region", service=2, path="/regions/{customer.region}"),
        ),
        is_chain=True,
        peers=SERVERS,
    ),
    Workload(
        key="F",
        title="group of three from services that take 50 ms, at half of saturation",
        path="/f",
        calls=(
            Call(name="user", service=3, path="/delay/50ms/user"),
            Call(name="orders", service=4, path="/delay/50ms/orders"),
            Call(name="weather", service=5, path="/delay/50ms/weather"),
        ),
        method="half",
        clients=1_000,
        alone="/delay/50ms/user",
        peers=("anabranch", "aiohttp", "node", "krakend", "upstream"),
    ),
    Workload(
        key="G",
        title="group of three, one service takes 1 s for 1% of its answers",
        path="/g",
        calls=(USER, ORDERS, Call(name="weather", service=6, path="/flaky/weather")),
        method="hedging",
        clients=256,
        peers=("anabranch", "node"),
    ),
    Workload(
        key="H",
        title="one call, as endpoints grow",
        path="/h",
        calls=(USER,),
        method="growth",
        peers=("anabranch",),
    ),
    Workload(
        key="I",
        title="twenty lines of orders, with a call for the product of each",
        path="/i",
        calls=(Call(name="orders", service=0, path="/shop/orders"),),
        is_joined=True,
        clients=32,
        peers=("anabranch", "node", "go"),
    ),
    Workload(
        key="J",
        title="the same, with one call for all twenty products",
        path="/j",
        calls=(Call(name="orders", service=0, path="/shop/orders"),),
        is_joined=True,
        peers=("anabranch", "node", "go"),
    ),
)


@cache
def documents() -> dict[str, JSON]:
    """Path to JSON value, for every path that the services answer without delay."""
    return {
        "/user": bodies.user(),
        "/orders": bodies.orders(),
        "/weather": bodies.weather(),
        "/accounts/17": bodies.account(),
        "/customers/c-2903": bodies.customer(),
        "/regions/eu-north": bodies.region(),
        "/shop/orders": bodies.shop_orders(),
        "/shop/products?ids=" + ",".join(str(item["product_id"]) for item in bodies.shop_orders()["items"]): [
            bodies.product(number) for number in range(bodies.PRODUCTS)
        ],
        **{f"/shop/products/{bodies.product(number)['id']}": bodies.product(number) for number in range(bodies.PRODUCTS)},
        **{f"/parts/{number}": bodies.part(number) for number in range(10)},
        **{f"/reports/{number}": bodies.report(number) for number in range(3)},
    }


def expected(workload: Workload) -> JSON:
    """The correct response of a gateway: each call's value under its name."""
    values: dict[str, JSON] = {}
    for call in workload.calls:
        path = call.path.removeprefix("/delay/50ms").replace("/flaky", "")
        if workload.is_chain and "{" in path:
            before, _, rest = path.partition("{")
            name, _, field = rest.rstrip("}").partition(".")
            path = f"{before}{values[name][field]}"
        value = documents()[path]
        if workload.is_joined:
            value = {
                **value,
                "items": [{**item, "product": documents()[f"/shop/products/{item['product_id']}"]} for item in value["items"]],
            }
        values[call.name] = {key: value[key] for key in call.pick} if call.pick else value
    return values
