"""What an operator is told at the start, although the gateway can run."""

from anabranch.core.environment import environment
from anabranch.document.compile import Compiled
from anabranch.errors import Problem
from anabranch.settings import Settings, unknown_settings


def warnings_of(compiled: Compiled, settings: Settings) -> list[Problem]:
    """What the operator may not have intended in the environment, the document, and both together."""
    found = [*unknown_settings(environment()), *compiled.warnings]
    journal = compiled.plan.journal
    is_recording = settings.from_journal is None and any(endpoint.is_recorded for endpoint in compiled.plan.endpoints)
    if is_recording and journal.keep_age_s is None and journal.keep_size is None and settings.journal_keep_size is None:
        found.append(
            Problem(
                file="settings",
                line=0,
                column=0,
                path="ANABRANCH_JOURNAL_KEEP_SIZE",
                message="nothing bounds the journal, so it grows until its disk is full",
                hint="set it, or `keep_size` or `keep_age` in the document's `journal`",
                is_warning=True,
            )
        )
    return found
