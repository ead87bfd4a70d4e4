"""What an operator is told at the start, although the gateway can run."""

from anabranch.core.environment import environment
from anabranch.document.compile import Compiled
from anabranch.errors import Problem
from anabranch.settings import Settings, unknown_settings


def warnings_of(compiled: Compiled, settings: Settings) -> list[Problem]:
    """What the operator may not have intended in the environment, the document, and both together."""
    found = [*unknown_settings(environment()), *compiled.warnings]
    for name, source in compiled.plan.auth.items():
        if source.mtls is not None and settings.tls_client_cert == "none":
            message = f"no client has a certificate for the authentication `{name}`: connections do not ask for one"
            found.append(_about_setting("ANABRANCH_TLS_CLIENT_CERT", message, "set it to optional or required"))
    journal = compiled.plan.journal
    is_recording = settings.from_journal is None and any(endpoint.is_recorded for endpoint in compiled.plan.endpoints)
    if is_recording and journal.keep_age_s is None and journal.keep_size is None and settings.journal_keep_size is None:
        found.append(
            _about_setting(
                "ANABRANCH_JOURNAL_KEEP_SIZE",
                "nothing bounds the journal, so it grows until its disk is full",
                "set it, or `keep_size` or `keep_age` in the document's `journal`",
            )
        )
    return found


def _about_setting(name: str, message: str, hint: str) -> Problem:
    return Problem(file="settings", line=0, column=0, path=name, message=message, hint=hint, is_warning=True)
