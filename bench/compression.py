"""Measures the compression of responses: `python -m bench.compression` prints the table of docs/negotiation.md.

Each row is one body of JSON as aggregates have it; each cell the milliseconds of CPU time for one body and the size of the result.
"""

import random
from time import process_time

import orjson

from anabranch.edge.compress import CODINGS

SIZES = {1024: 400, 8 * 1024: 100, 32 * 1024: 50, 64 * 1024: 30, 128 * 1024: 20, 512 * 1024: 5, 2048 * 1024: 2}
WORDS = ("flight", "carrier", "delayed", "on time", "JFK", "LAX", "Boeing 737", "gate closed")


def body(size: int) -> bytes:
    """JSON text of at least `size` bytes: numbers, times and a few words that repeat."""
    chance = random.Random(1)
    items: list[dict[str, object]] = []
    text = b""
    while len(text) < size:
        items += [
            {
                "id": chance.randrange(10**6),
                "delay": chance.random() * 100,
                "time": f"2026-11-28T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z",
                "note": " ".join(chance.choices(WORDS, k=4)),
            }
            for _ in range(max(1, (size - len(text)) // 120))
        ]
        text = orjson.dumps(items)
    return text


def main() -> None:
    print("| body | " + " | ".join(f"`{name}` | size" for name in CODINGS) + " |\n| ---: |" + " ---: | ---: |" * len(CODINGS))
    for size, times in SIZES.items():
        text = body(size)
        cells = []
        for coding in CODINGS.values():
            began = process_time()
            for _ in range(times):
                compressed = coding.compress(text)
            cells.append(f"{(process_time() - began) / times * 1000:.2f} ms | {len(compressed) / len(text):.0%}")
        print(f"| {len(text):,} bytes | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
