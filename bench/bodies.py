"""The JSON bodies of the services: realistic, not repetitive, and the same bytes in every run and process.

Sizes are those of the workloads: 0.2, 0.9 and 2.2 kB, ten parts of about 1 kB, and 1 MB.
"""

import json
import random
from typing import Any, Final

JSON = Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


_GIVEN: Final = _words(
    "Ada, Bo, Chidi, Dora, Emre, Fatou, Goran, Hana, Ines, Jonas, Kaito, Leila, Mirek, Noor, Olga, Pilar, Quinn, Rosa, Søren, Tariq, Uma, Vera"
)
_FAMILY: Final = _words(
    "Abel, Brandt, Costa, Dvořák, Eriksen, Fuchs, García, Haddad, Ito, Jansen, Keller, López, Müller, Novak, Okafor, Petit, Rossi, Sato"
)
_CITIES: Final = _words(
    "Aarhus, Bergen, Cork, Düsseldorf, Évora, Faro, Ghent, Haarlem, Izmir, Jaén, Kraków, Lyon, Málaga, Nantes, Odense, Porto, Rijeka, Sofia"
)
_GOODS: Final = _words(
    "anchor, battery, cable, drill, encoder, filter, gasket, hinge, inverter, jack, kettle, lamp, motor, nozzle, oscillator, pump, relay"
)
_NOTES: Final = _words(
    "left with the neighbour, call first, ring twice, fragile, second floor, no lift, invoice by post, gift, back door, "
    "sign for it, keep dry, this side up, partly out of stock, exchange, weighed again, held at customs, priority"
)


def encode(value: JSON) -> bytes:
    """Compact UTF-8 JSON, as services send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def user() -> JSON:
    """About 0.2 kB."""
    return {
        "id": 48_151,
        "name": "Søren García",
        "email": "soren.garcia@example.com",
        "tier": "gold",
        "is_active": True,
        "balance": 1042.75,
        "city": "Düsseldorf",
        "created_at": "2021-04-17T08:31:09Z",
        "referrer": None,
    }


def orders() -> JSON:
    """About 2.2 kB: a user's recent orders."""
    return _grown(random.Random(2), {"user_id": 48_151, "total": 311, "orders": []}, "orders", 2_200)


def weather() -> JSON:
    """About 0.9 kB: an hourly forecast."""
    draw = random.Random(3)
    hours = [
        {
            "time": f"2026-03-0{1 + hour // 24}T{hour % 24:02}:00Z",
            "temperature_c": round(draw.uniform(-4, 19), 1),
            "wind_mps": round(draw.uniform(0, 14), 2),
            "humidity": draw.randrange(30, 99),
        }
        for hour in range(0, 30, 3)
    ]
    return {"station": "EDDL", "updated_at": "2026-03-01T05:50:12Z", "hours": hours}


def part(number: int) -> JSON:
    """About 1 kB. `number`: which of the ten parts of a page."""
    return _grown(random.Random(100 + number), {"part": number, "items": []}, "items", 1_000)


def report(number: int) -> JSON:
    """About 1 MB. `batch` comes before the large array, `summary` after it."""
    draw = random.Random(1_000 + number)
    head = {"batch": f"{draw.getrandbits(64):016x}", "rows": []}
    value = _grown(draw, head, "rows", 1_000_000)
    value["summary"] = {"count": len(value["rows"]), "worth": round(sum(row["worth"] for row in value["rows"]), 2), "is_final": True}
    return value


def account() -> JSON:
    """The first call of the chain: refers to the customer."""
    return {"id": 17, "customer_id": "c-2903", "opened_at": "2019-11-05", "limit": 25_000}


def customer() -> JSON:
    """The second call: refers to the region."""
    return {"id": "c-2903", "name": "Leila Dvořák", "region": "eu-north", "orders": 87, "rating": 4.6}


def region() -> JSON:
    """The third call."""
    return {"id": "eu-north", "title": "Nordics", "currency": "DKK", "warehouses": ["Aarhus", "Odense", "Bergen"], "vat": 0.25}


PRODUCTS: Final = 20


def shop_orders() -> JSON:
    """About 2.5 kB: twenty lines of orders, each with the number of its product."""
    draw = random.Random(4)
    items = [
        {"id": f"{draw.getrandbits(64):016x}", "product_id": 4_000 + number, "quantity": draw.randrange(1, 9), "note": draw.choice(_NOTES)}
        for number in draw.sample(range(PRODUCTS), PRODUCTS)
    ]
    return {"customer": "Leila Dvořák", "items": items}


def product(number: int) -> JSON:
    """About 0.3 kB. `number`: which of `PRODUCTS`."""
    draw = random.Random(2_000 + number)
    return {
        "id": 4_000 + number,
        "name": f"{draw.choice(_GOODS)} {draw.randrange(10, 99)}",
        "price": round(draw.uniform(1, 400), 2),
        "stock": {city: draw.randrange(300) for city in draw.sample(_CITIES, 6)},
        "tags": draw.sample(_GOODS, 3),
        "is_heavy": draw.random() < 0.3,
        "description": " ".join(draw.choice(_NOTES) for _ in range(4)),
    }


def _grown(draw: random.Random, value: dict[str, JSON], key: str, size_bytes: int) -> dict[str, JSON]:
    """Add random rows to the array at `key` until the encoded value has about `size_bytes`."""
    size = len(encode(value))
    while size < size_bytes:
        row = _row(draw)
        value[key].append(row)
        size += len(encode(row)) + 1
    return value


def _row(draw: random.Random) -> JSON:
    """One order, 150 to 330 bytes."""
    return {
        "id": f"{draw.getrandbits(80):020x}",
        "customer": f"{draw.choice(_GIVEN)} {draw.choice(_FAMILY)}",
        "city": draw.choice(_CITIES),
        "worth": round(draw.uniform(3, 900), 2),
        "is_paid": draw.random() < 0.8,
        "coupon": None if draw.random() < 0.7 else f"{draw.getrandbits(24):06X}",
        "position": [round(draw.uniform(35, 65), 5), round(draw.uniform(-9, 30), 5)],
        "lines": [
            {"sku": f"{draw.choice(_GOODS)}-{draw.randrange(10_000)}", "count": draw.randrange(1, 20)} for _ in range(draw.randrange(1, 4))
        ],
        "note": draw.choice(_NOTES),
    }
