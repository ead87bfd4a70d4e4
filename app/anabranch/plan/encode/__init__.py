"""Bodies of calls in other formats than JSON: one module for each. A module has `MEDIA_TYPE`, `report`, which says what in a template can never be
written, and `encode`, from the JSON text of the rendered template to the body; `multipart` compiles the template itself, because of its files.

Every `encode` raises UnencodableBody with a sentence that has no value in it.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from anabranch.plan.encode import form, multipart, text, xml

Report = Callable[..., None]
"""Takes a message, and the keys and indexes below the body of what it is about."""


class _Format(Protocol):
    @property
    def MEDIA_TYPE(self) -> str:  # noqa: N802 - a constant of a module
        ...

    @property
    def report(self) -> Callable[[Any, Report], None]: ...

    @property
    def encode(self) -> Callable[[bytes], bytes]: ...


FORMATS: Final[dict[str, _Format]] = {"form": form, "text": text, "xml": xml}
"""The formats that are made of the JSON text alone, by the value of `encode`."""

REPORTS: Final[dict[str, Callable[[Any, Report], None]]] = {
    "form": form.report,
    "multipart": multipart.report,
    "text": text.report,
    "xml": xml.report,
}
