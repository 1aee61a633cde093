"""The edits that are served, made from the edit set that people work on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from serac_core.edits.atomic import folder_aside
from serac_core.edits.edit_files import (
    EditFiles,
    edit_files,
    file_digests,
    prefix_keys,
    read_file_records,
)
from serac_core.edits.jsonl import edit_record, read_records, record_line
from serac_core.edits.kept import keeping, reading_kept
from serac_core.edits.merge import age_key, edit_set, is_retraction, merge, read_edit_set
from serac_core.edits.record import Edit

LIVE_FILE = "edits.jsonl"

_FOLDER = "live-edits"
_FORMAT = "1"
_GONE_FILE = "gone.json"
_KEPT = 4
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


def build_live(
    source: str | Path,
    out: str | Path,
    first: int = 0,
    *,
    updates: str | Path | None = None,
    cache_dir: Path | None = None,
) -> int:
    """Write `out/edits.jsonl`: active edits, superseded and retracted ones left out.

    Those of the source oldest first (by `created_at`, then by id), whatever the order of its lines;
    then those of each update likewise. So the newest edit stands last, and an update adds lines at
    the end and takes others out. The same edit set gives the same bytes.

    Parameters
    ----------
    first:
        How many of them to write at most; 0: all. What is superseded or retracted by any edit
        of the set is left out first, so a narrower width is the beginning of a wider one.
    updates:
        Folder of the updates that count after the source.
    cache_dir:
        Where results are kept, so that an update is applied to what is there; the result is the
        same without.

    Returns
    -------
    int
        How many edits are live.

    Raises
    ------
    UnreadableEdits
        The source isn't an edit set.
    ConflictingEdits
        Two live edits contradict each other, or an id is unknown or used twice.
    UnwritableOutput
        `out` can't be written; what was there stays.
    """
    files = edit_files(source, updates)
    lines = _live_lines(files, cache_dir)[: first or None]
    with folder_aside(out) as folder:
        _write_lines(folder / LIVE_FILE, lines)
    return len(lines)


def _live_lines(files: EditFiles, cache_dir: Path | None) -> list[bytes]:
    if cache_dir is None:
        return _merged(files)[0]
    keys = prefix_keys(file_digests(files), _FORMAT)
    lines, gone = _kept_lines(files, keys, cache_dir) or _merged(files)
    with keeping(cache_dir / _FOLDER / keys[-1], _KEPT) as folder:
        _write_lines(folder / LIVE_FILE, lines)
        (folder / _GONE_FILE).write_text(json.dumps(sorted(gone)), encoding="utf-8")
    return lines


def _kept_lines(
    files: EditFiles, keys: Sequence[str], cache_dir: Path
) -> tuple[list[bytes], set[str]] | None:
    """What is kept of most of the files, with the updates after them; None for nothing kept."""
    for known in range(len(keys), 0, -1):
        with reading_kept(cache_dir / _FOLDER / keys[known - 1]) as kept, suppress(OSError):
            gone = set(json.loads((kept / _GONE_FILE).read_text(encoding="utf-8")))
            lines = (kept / LIVE_FILE).read_bytes().splitlines(keepends=True)
            for path in files.updates[known - 1 :]:
                lines, gone = _updated(lines, gone, path)
            return lines, gone
    return None


def _merged(files: EditFiles) -> tuple[list[bytes], set[str]]:
    """The lines of the live edits, and the ids of all that were retracted or superseded."""
    records = read_file_records(files)
    edits = {edit.id: edit for edit in merge(edit_set(records, files.source))}
    gone = {e.id for e in edits.values() if e.status == "retracted"}
    gone |= {e.supersedes for e in edits.values() if e.supersedes is not None}
    lines: list[bytes] = []
    for path in files.paths:
        named = [e.id for e in read_edit_set(path).edits] if files.updates else list(edits)
        of_file = [edits.pop(name) for name in dict.fromkeys(named) if name in edits]
        lines += _served(of_file, gone)
    return lines, gone


def _updated(lines: list[bytes], gone: set[str], update: Path) -> tuple[list[bytes], set[str]]:
    """The same after an update that was found valid."""
    records = read_records(update)
    added = edit_set((r for r in records if not is_retraction(r.value)), update).edits
    going = {record.value["id"] for record in records if is_retraction(record.value)}
    going |= {edit.id for edit in added if edit.status == "retracted"}
    going |= {edit.supersedes for edit in added if edit.supersedes is not None}
    gone = gone | going
    names = [line_id(line) for line in lines]
    held = set(names)
    kept = [line for line, name in zip(lines, names, strict=True) if name not in going]
    return kept + _served((e for e in added if e.id not in held), gone), gone


def _served(edits: Iterable[Edit], gone: set[str]) -> list[bytes]:
    served = sorted((edit for edit in edits if edit.id not in gone), key=age_key)
    return [record_line(edit_record(edit)) for edit in served]


def line_id(line: bytes) -> str:
    """The id of an edit in a line that this module or :func:`write_edits` wrote."""
    match = _ID.match(line)
    return str(json.loads(match[1]) if match else json.loads(line)["id"])


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as handle:
        handle.writelines(lines)
