"""Reading and writing edits as JSON Lines: one edit a line, UTF-8, gzip by the name `.gz`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from serac_core.edits.atomic import UnwritableOutput, write_atomically
from serac_core.edits.record import Edit
from serac_core.errors import SeracError

__all__ = [
    "RawRecord",
    "UnreadableEdits",
    "UnwritableOutput",
    "edit_record",
    "open_bytes",
    "parse_edit",
    "read_edits",
    "read_records",
    "record_line",
    "write_edits",
]

_FIELDS = tuple(Edit.model_fields)


class UnreadableEdits(SeracError):
    """A file of edits is missing, isn't JSON Lines, or a line is no edit."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One line as JSON gives it, before any rule; `value` is a dict in a sound file."""

    line: int
    value: Any


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def open_bytes(path: Path) -> Iterator[bytes]:
    """The lines of a file as bytes, ungzipped when its name ends in `.gz`."""
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield from packed
    else:
        with path.open("rb") as plain:
            yield from plain


def read_records(path: str | Path) -> list[RawRecord]:
    """Read a JSON Lines file into raw values; blank lines are skipped.

    Raises
    ------
    UnreadableEdits
        The file is missing or unreadable, or a line isn't UTF-8 or JSON; the message names
        file, line, column, rule and remedy.
    """
    path = Path(path)
    records: list[RawRecord] = []
    number = 0
    try:
        for number, raw in enumerate(open_bytes(path), start=1):
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
            if text:
                records.append(RawRecord(number, _DECODER.decode(text)))
    except FileNotFoundError:
        raise UnreadableEdits(
            f"{path}: no such file", remedy="check the path; edits are JSON Lines, one a line"
        ) from None
    except UnicodeDecodeError as error:
        raise UnreadableEdits(
            f"{path}: line {number}, byte {error.start + 1}: not UTF-8 ({error.reason})",
            remedy="save the file as UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise UnreadableEdits(
            f"{path}: line {number}, column {error.colno}: not JSON: {error.msg}",
            remedy="mend the line: every line is one complete JSON object; "
            "other formats come in through `serac edits import`",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableEdits(
            f"{path}: after line {number}: not readable: {error}",
            remedy="check that the file is complete and that you may read it",
        ) from error
    except (ValueError, RecursionError) as error:
        rule = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UnreadableEdits(
            f"{path}: line {number}: not JSON: {rule}",
            remedy="mend the line: every line is one complete JSON object",
        ) from error
    return records


def parse_edit(record: RawRecord, path: str | Path) -> Edit:
    """The edit of one raw record; raises :class:`UnreadableEdits` naming line, field and rule."""
    try:
        return Edit.model_validate(record.value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole line"
        value = json.dumps(first["input"], default=str)
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise UnreadableEdits(
            f"{path}: line {record.line}: {field}: {first['msg']} (got {shown})",
            remedy=f"`serac edits validate {path}` lists every such record",
        ) from error


def read_edits(path: str | Path) -> list[Edit]:
    """Read the edits of a file, in the order of its lines.

    Raises
    ------
    UnreadableEdits
        The file is unreadable or a line is no edit; names file, line, field and rule.
    """
    return [parse_edit(record, path) for record in read_records(path)]


def read_active_edits(paths: Iterable[str | Path]) -> list[Edit]:
    """The active edits of several files, each id once: the last record that has it, where the
    first stood.

    Raises
    ------
    UnreadableEdits
    """
    edits = {e.id: e for path in paths for e in read_edits(path) if e.status == "active"}
    return list(edits.values())


def edit_record(edit: Edit) -> dict[str, Any]:
    """The edit as a JSON object: known fields in the record's order, the empty ones left out,
    then the unknown ones by name."""
    data = edit.model_dump(mode="json")
    known = {name: data[name] for name in _FIELDS if data[name] not in (None, [])}
    for probes in ("locality", "portability"):
        for probe in known.get(probes, ()):
            if probe["ground_truth"] is None:
                del probe["ground_truth"]
    extra = {name: data[name] for name in sorted(edit.model_extra or ())}
    return {**known, **extra}


def record_line(record: Mapping[str, Any]) -> bytes:
    """One line of JSON Lines, newline included; what UTF-8 can't hold is escaped."""
    try:
        return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n").encode()


def write_edits(path: str | Path, edits: Iterable[Edit]) -> None:
    """Write edits in the given order, whole or not at all; same edits, same bytes.

    Raises
    ------
    UnwritableOutput
        The file can't be written; what was there is unchanged.
    """
    write_atomically(path, (record_line(edit_record(edit)) for edit in edits))
