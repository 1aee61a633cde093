"""The inbox of a checkout: files of edits on their way into a release.

A file stays where it is until what it says is published or found wrong; a run that is killed
before leaves it to the next one, which finds what is already released and changes nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serac_core.edits.atomic import write_atomically
from serac_core.edits.intake import Rejection, write_reasons
from serac_core.edits.jsonl import record_line
from serac_core.errors import SeracError

DONE = "done"
_ENDINGS = (".jsonl", ".jsonl.gz")


class NoSuchUpdate(SeracError):
    """A file of edits that was named is not there."""


@dataclass(frozen=True)
class Incoming:
    """A file that a run takes edits from.

    Attributes
    ----------
    path:
        Where people put it.
    taken:
        The run's copy, which nobody changes meanwhile.
    in_inbox:
        Whether the run may move it away.
    """

    path: Path
    taken: Path
    in_inbox: bool


def inbox_files(inbox: Path) -> list[Path]:
    """The files of an inbox, by name; hidden ones are taken to be still written."""
    if not inbox.is_dir():
        return []
    return sorted(
        path
        for path in inbox.iterdir()
        if path.is_file() and path.name.endswith(_ENDINGS) and not path.name.startswith(".")
    )


def drop_retractions(inbox: Path, ids: Sequence[str]) -> Path:
    """Put a file that retracts edits into an inbox; the same ids are the same file.

    Raises
    ------
    UnwritableOutput
    """
    content = b"".join(record_line({"id": name, "status": "retracted"}) for name in ids)
    path = inbox / f"retract-{hashlib.sha256(content).hexdigest()[:12]}.jsonl"
    write_atomically(path, [content])
    return path


def collect(files: Iterable[Path], inbox: Path, folder: Path) -> list[Incoming]:
    """Copy files into a run's folder, in their order.

    Raises
    ------
    NoSuchUpdate
    """
    collected = []
    for number, path in enumerate(files):
        taken = folder / f"{number:04}" / path.name
        taken.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, taken)
        except OSError as error:
            raise NoSuchUpdate(
                f"{path}: {error.strerror or error}",
                remedy="name a file of edits, one JSON object a line",
            ) from error
        collected.append(Incoming(path, taken, path.absolute().parent == inbox.absolute()))
    return collected


def put_away(
    incoming: Sequence[Incoming], rejections: Sequence[Rejection], inbox: Path, rejected: Path
) -> dict[Path, Path]:
    """Move the files of an ended run: those with bad records to `rejected`, their reasons beside
    them, the others to `done` in the inbox. A file that was replaced meanwhile stays.

    Returns
    -------
    dict
        Where each rejected file lies, by the run's copy of it.
    """
    of_file = {rejection.file: rejection for rejection in rejections}
    places = {}
    for file in incoming:
        rejection = of_file.get(file.taken)
        if rejection is not None:
            place = _free_place(rejected, file.taken)
            write_reasons(rejection, rejected, place.name)
            shutil.copyfile(file.taken, place)
            places[file.taken] = place
        elif file.in_inbox:
            place = _free_place(inbox / DONE, file.taken)
            shutil.copyfile(file.taken, place)
        if file.in_inbox:
            with suppress(FileNotFoundError):
                if _digest(file.path) == _digest(file.taken):
                    file.path.unlink()
    return places


def _free_place(folder: Path, file: Path) -> Path:
    """Where a file goes in a folder: by its name, or by name and content if another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / file.name
    if not place.exists() or _digest(place) == _digest(file):
        return place
    return folder / f"{_digest(file)[:12]}-{file.name}"


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
