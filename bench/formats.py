"""Measures what reading a body of each format costs. `python -m bench.formats`. The thresholds of `anabranch.formats` are derived from it."""

from collections.abc import Callable
from statistics import median
from time import thread_time
from typing import Final

from anabranch.formats import form, html, ndjson, octets, text, xml

_ITEM: Final = (
    b'<item id="1"><title>Something to read</title><link>https://x.example/a</link><description>Words and words</description></item>\n'
)
_CARD: Final = b'<div class="card"><h2>Title</h2><p class="price">12 EUR</p><a class="item" href="/i/1">more <b>x</b></a></div>\n'
_SELECT: Final = {
    "cards": html.Selection(
        css=".card", is_many=True, select={"a": html.Selection(css="h2"), "b": html.Selection(css="a.item", attr="href")}
    )
}
CASES: Final[dict[str, tuple[Callable[[bytes, str], bytes], bytes]]] = {
    "text": (text.read, "Gr\u00fc\u00dfe an alle\n".encode() * 20_000),
    "ndjson": (ndjson.read, b'{"id":12345,"name":"something","price":12.50}\n' * 10_000),
    "ndjson, short lines": (ndjson.read, b"{}\n" * 100_000),
    "form": (form.read, b"name=value+x&other=%20y&" * 5_000),
    "xml": (xml.reader(["rss.channel.item"]), b"<rss><channel>" + _ITEM * 2_000 + b"</channel></rss>"),
    "xml, empty elements": (xml.reader(), b"<a>" + b"<b/>" * 50_000 + b"</a>"),
    "html": (html.reader(_SELECT), _CARD * 1_000),
    "html, 3,000 levels": (html.reader({"a": html.Selection(css="div")}), b"<div>" * 3_000),
    "html, 10,000 attributes": (html.reader({"a": html.Selection(css="a")}), b"<a " + b" ".join(b"a%d" % n for n in range(10_000)) + b">"),
    "bytes": (octets.read, bytes(range(256)) * 16_384),
}


def _milliseconds(read: Callable[[bytes, str], bytes], body: bytes) -> float:
    times = []
    for _ in range(5):
        began = thread_time()
        read(body, "text/html" if body.startswith(b"<") else "")
        times.append(thread_time() - began)
    return median(times) * 1000


def main() -> None:
    print(f"{'body':<26}{'kB':>8}{'ms':>8}{'kB in 5 ms':>12}")
    for name, (read, body) in CASES.items():
        spent = _milliseconds(read, body)
        print(f"{name:<26}{len(body) / 1000:>8.0f}{spent:>8.1f}{len(body) / 1000 * 5 / spent:>12.0f}")


if __name__ == "__main__":
    main()
