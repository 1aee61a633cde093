"""The edit set as files: the one that people work on, then one a released update, in order.

An update is a file of edits and retractions in `edits.updates`, named by its number and content,
that is only ever added: what was computed of the files before it stays right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serac_core.edits.jsonl import RawRecord, edit_record, read_records
from serac_core.edits.merge import is_retraction
from serac_core.edits.record import Edit

_NAME = re.compile(r"(\d{6})-[0-9a-f]{12}\.jsonl")


@dataclass(frozen=True)
class EditFiles:
    """The files of an edit set, in the order in which they count."""

    source: Path
    updates: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.source, *self.updates)


def edit_files(source: str | Path, updates: str | Path | None = None) -> EditFiles:
    """The edit set of a source and a folder of updates, which need not be there."""
    folder = Path(updates) if updates is not None else None
    found = folder.iterdir() if folder is not None and folder.is_dir() else ()
    return EditFiles(
        Path(source), tuple(sorted(path for path in found if _NAME.fullmatch(path.name)))
    )


def next_update(files: EditFiles, content: bytes) -> str:
    """The name of the file that an update of this content gets."""
    last = int(files.updates[-1].name[:6]) if files.updates else 0
    return f"{last + 1:06}-{hashlib.sha256(content).hexdigest()[:12]}.jsonl"


def file_digests(files: EditFiles) -> tuple[str, ...]:
    """SHA-256 of each file's content, in hex.

    Raises
    ------
    UnreadableEdits
    """
    digests = []
    for path in files.paths:
        try:
            with path.open("rb") as handle:
                digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
        except OSError:
            read_records(path)  # which says what is wrong with it
            raise
    return tuple(digests)


def prefix_keys(digests: Sequence[str], *settings: str) -> list[str]:
    """A key for the first file, the first two, and so on: what was computed of them, under these
    settings, is kept by it."""
    digest = hashlib.sha256("\x1f".join(settings).encode())
    keys = []
    for one in digests:
        digest.update(one.encode())
        keys.append(digest.hexdigest()[:32])
    return keys


def said(edit: Edit) -> dict[str, Any]:
    """What an edit says, whatever its status and date: two records that say the same are one."""
    return {k: v for k, v in edit_record(edit).items() if k not in ("status", "created_at")}


def read_file_records(files: EditFiles) -> list[RawRecord]:
    """The records of all files, their lines numbered on from file to file.

    A record of a later file that an earlier one holds already is left out: people may take a
    released update over into their own file.

    Raises
    ------
    UnreadableEdits
    """
    records = read_records(files.source)
    if not files.updates:
        return records
    held = {_id_of(record): record for record in records}
    first = _count_lines(files.source)
    for path in files.updates:
        for record in read_records(path):
            name = _id_of(record)
            if name is not None and name in held and _same(held[name], record):
                continue
            placed = RawRecord(first + record.line, record.value)
            records.append(placed)
            held.setdefault(name, placed)
        first += _count_lines(path)
    return records


def _id_of(record: RawRecord) -> str | None:
    if not isinstance(record.value, dict) or is_retraction(record.value):
        return None
    try:
        return Edit.model_validate(record.value).id
    except ValueError:
        return None


def _same(first: RawRecord, second: RawRecord) -> bool:
    one, other = (Edit.model_validate(record.value) for record in (first, second))
    return said(one) == said(other) and one.status == other.status


def _count_lines(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(1 for _ in handle)
