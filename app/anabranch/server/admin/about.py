"""What a process runs, for /admin: to be compared with the other processes, and with what is in version control."""

import os

from anabranch import __version__
from anabranch.document.reload import Reloader
from anabranch.document.services import Services
from anabranch.server.admin.reload import Others


def about(services: Services, reloader: Reloader, others: Others | None) -> dict[str, object]:
    """`worker`: its number; null where there is only one. `document`: the digest that `anabranch check` shows. `code`: of the project's Python
    files as this process imported them; "" for none."""
    return {
        "version": __version__,
        "worker": None if others is None else others.number,
        "process": os.getpid(),
        "document": reloader.state.digest,
        "code": services.code.digest,
    }
