"""Formats what a replay found: human-readable, and as JSON."""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from anabranch.replay.replay import EndpointReport, Example

_SHOWN: Final = 20


def as_json(endpoints: Mapping[str, EndpointReport], never_asked: Collection[str], *, has_difference: bool) -> bytes:
    """One object: `same` (nothing differs), `endpoints` by name, and `never_asked` (endpoints without a record)."""
    return msgspec.json.format(
        msgspec.json.encode({"same": not has_difference, "endpoints": endpoints, "never_asked": sorted(never_asked)}), indent=2
    )


def as_text(endpoints: Mapping[str, EndpointReport], never_asked: Collection[str], *, has_difference: bool) -> str:
    """One paragraph for each endpoint, those that differ last, and a summary line."""
    lines: list[str] = []
    for name, report in sorted(endpoints.items(), key=lambda item: (item[1].different > 0, item[0])):
        lines += _endpoint(name, report)
    if never_asked:
        lines.append(f"no records for: {', '.join(sorted(never_asked))}")
    replayed = sum(report.replayed for report in endpoints.values())
    skipped = sum(sum(report.skipped.values()) for report in endpoints.values())
    not_replayed = f", {skipped:,} could not be replayed" if skipped else ""
    if not replayed:
        lines.append(f"nothing was replayed{not_replayed}")
    elif has_difference:
        different = sum(report.different for report in endpoints.values())
        lines.append(f"{different:,} of {_records(replayed)} would be answered differently{not_replayed}")
    else:
        lines.append(f"no difference in {_records(replayed)}{not_replayed}")
    return "\n".join(lines)


def _endpoint(name: str, report: EndpointReport) -> Iterator[str]:
    counts = (
        f"{_records(report.replayed)}, {report.different:,} different" if report.different else f"{_records(report.replayed)}, all the same"
    )
    yield f"{name}: {counts if report.replayed else 'nothing replayed'}"
    if report.is_removed:
        yield "  removed      no endpoint has its path and method"
    for change, example in report.status.items():
        yield _line("status", change, example)
    for change, example in report.complete.items():
        yield _line("complete", change, example)
    for index, (path, kinds) in enumerate(report.fields.items()):
        if index == _SHOWN:
            yield f"  ... and {len(report.fields) - _SHOWN:,} more fields (--format json lists them)"
            break
        for kind, example in kinds.items():
            yield _line(kind, path or "(the whole body)", example)
    if report.more_fields:
        yield "  ... and more fields than a report can list"
    for call, example in report.new_calls.items():
        yield _line("not recorded", f"the call {call}", example)
    for call, example in report.dropped_calls.items():
        yield _line("note", f"the call {call} is no longer made", example)
    for step, example in report.guessed.items():
        yield _line("note", f"the step {step} was given a redacted value, and may differ for that reason alone", example)
    if report.respelled:
        yield f"  note         {_records(report.respelled)} differ only in spelling or order"
    for reason, count in report.skipped.items():
        yield f"  skipped      {_records(count)}: {reason}"


def _line(kind: str, subject: str, example: Example) -> str:
    places = f" ({example.places:,} places)" if example.places > example.records else ""
    shown = ""
    if example.before is not None and example.after is not None and subject != f"{example.before} -> {example.after}":
        shown = f": {example.before} -> {example.after}"
    elif (example.before is None) != (example.after is None):
        shown = f": {example.before or example.after}"
    return f"  {kind:<12} {subject}  {_records(example.records)}{places}, such as {example.record}{shown}"


def _records(count: int) -> str:
    return f"{count:,} record{'s' * (count != 1)}"
