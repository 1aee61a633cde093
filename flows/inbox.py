"""Files that people drop into `data/inbox/` of a checkout, told to Prefect as events."""

from __future__ import annotations

from pathlib import Path

from serac_core.progress import Say
from serac_core.workspace.inbox import inbox_files

INBOX = Path("data") / "inbox"
ARRIVED = "serac.inbox.arrived"

_Stamp = tuple[int, int]


class Inbox:
    """Looks into the inbox; a file that two looks find alike has been written to its end.

    A file is announced once for each state it is found in: one that an update left there
    (because it failed) is announced again when it changes, or by the next `serac up`.
    """

    def __init__(self, checkout: Path, say: Say) -> None:
        self._folder = checkout / INBOX
        self._say = say
        self._seen: dict[Path, _Stamp] = {}
        self._announced: dict[Path, _Stamp] = {}

    def look(self) -> list[Path]:
        """The files that have arrived since the last look; they are announced."""
        now = {path: _stamp(path) for path in inbox_files(self._folder)}
        arrived = [
            path
            for path, stamp in sorted(now.items())
            if self._seen.get(path) == stamp and self._announced.get(path) != stamp
        ]
        self._seen = now
        if arrived:
            announce(self._folder, arrived)
            self._announced.update((path, now[path]) for path in arrived)
            self._say(f"inbox: {', '.join(path.name for path in arrived)}")
        return arrived


def announce(folder: Path, files: list[Path]) -> None:
    """Emit the event that starts an update of the edits."""
    from prefect.events import emit_event

    emit_event(
        event=ARRIVED,
        resource={"prefect.resource.id": "serac.inbox", "prefect.resource.name": str(folder)},
        payload={"files": [path.name for path in files]},
    )


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
