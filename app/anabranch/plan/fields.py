"""Reports header fields of a document that cannot be set: reserved names, and values that are not valid in HTTP."""

from anabranch.config.problems import Problems
from anabranch.core.field import OURS_IN_RESPONSES, name_fault, value_fault
from anabranch.core.negotiation import MediaType


def report_response_header(at: tuple[str | int, ...], name: str, value: str, problems: Problems) -> None:
    """Report what is wrong with a field of an endpoint's responses."""
    report_header(at, name, value, problems)
    if name.lower() in OURS_IN_RESPONSES:
        problems.add(at, f"the header {name.lower()} of a response is set by the gateway itself", at_key=True)
    if name.lower() == "content-type":
        try:
            MediaType.parse(value)
        except ValueError:
            problems.add(at, "is not a media type such as application/json", value=value)


def report_header(at: tuple[str | int, ...], name: str, value: str, problems: Problems) -> None:
    """Report what is wrong with a header field that the document sets at `at`."""
    if (fault := name_fault(name)) is not None:
        problems.add(at, fault, at_key=True, hint="set `host` on the upstream" if name.lower() == "host" else "")
    if (fault := value_fault(value)) is not None:
        problems.add(at, fault)
