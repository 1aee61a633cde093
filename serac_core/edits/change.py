"""Changing the edit set file: add and retract. Lines that aren't touched keep their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import write_atomically
from serac_core.edits.jsonl import (
    RawRecord,
    edit_record,
    open_bytes,
    parse_edit,
    read_records,
    record_line,
)
from serac_core.edits.merge import edit_set, is_retraction, union
from serac_core.edits.record import Edit
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.token_limits import TokenLimit
from serac_core.edits.validation import InvalidEdits, find_violations
from serac_core.errors import SeracError


class UnknownEdit(SeracError):
    """An id that the edit set doesn't hold."""


@dataclass(frozen=True)
class ChangeResult:
    """Ids by what was done; `unchanged` were in the set already. Warnings on what was added."""

    added: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    warnings: tuple[Violation, ...] = ()


@dataclass(frozen=True)
class _EditFile:
    """The file as it stands: its lines as bytes, the records on them, and what they say."""

    path: Path
    lines: list[bytes]
    records: list[RawRecord]
    by_id: Mapping[str, Edit]

    @classmethod
    def read(cls, path: Path) -> _EditFile:
        lines = list(open_bytes(path)) if path.exists() else []
        records = read_records(path) if lines else []
        return cls(path, lines, records, union(edit_set(records, path))[0])

    def retract(self, names: Sequence[str]) -> None:
        """Mark the lines of these edits as retracted."""
        for record in self.records:
            if is_retraction(record.value):
                continue
            name = parse_edit(record, self.path).id
            if name in names:
                retracted = {**record.value, "id": name, "status": "retracted"}
                self.lines[record.line - 1] = record_line(retracted)

    def write(self, appended: Sequence[Edit] = ()) -> None:
        """Put the file in place, whole, with these edits at its end."""
        lines = [line if line.endswith(b"\n") else line + b"\n" for line in self.lines]
        write_atomically(self.path, [*lines, *(record_line(edit_record(e)) for e in appended)])


def retract_edits(path: str | Path, ids: Sequence[str]) -> ChangeResult:
    """Set edits of the file to `retracted`, all or none.

    What a retracted edit superseded doesn't come back; add it again to serve it.

    Raises
    ------
    UnknownEdit
        An id isn't in the file.
    UnreadableEdits, UnwritableOutput
        The file can't be read or written; it is unchanged.
    """
    file = _EditFile.read(Path(path))
    wanted = list(dict.fromkeys(ids))
    if unknown := [name for name in wanted if name not in file.by_id]:
        raise UnknownEdit(
            f"{path}: no edit has the id {', '.join(unknown)}",
            remedy=f"`serac edits list --all {path}` prints the ids; an edit of an update is taken "
            "back by `serac update-edits --retract ID`",
        )
    done = [name for name in wanted if file.by_id[name].status == "active"]
    if done:
        file.retract(done)
        file.write()
    return ChangeResult(
        retracted=tuple(done), unchanged=tuple(name for name in wanted if name not in done)
    )


def _said(edit: Edit) -> dict[str, Any]:
    return {k: v for k, v in edit_record(edit).items() if k not in ("status", "created_at")}


def _known(record: RawRecord, file: _EditFile) -> str | None:
    """The id of an incoming record that the file holds already, with the same content."""
    value = record.value
    if not isinstance(value, dict):
        return None
    if is_retraction(value):
        held = file.by_id.get(value["id"]) if isinstance(value.get("id"), str) else None
        return held.id if held is not None and held.status == "retracted" else None
    try:
        edit = Edit.model_validate(value)
    except ValueError:
        return None
    held = file.by_id.get(edit.id)
    same = held is not None and _said(held) == _said(edit) and held.status == edit.status
    return edit.id if same else None


def add_edits(
    path: str | Path, incoming: Sequence[RawRecord], limits: Sequence[TokenLimit]
) -> ChangeResult:
    """Add edits and retractions to the file, all or none, once none breaks a rule.

    What the set breaks already doesn't count; what it breaks only with the new records does,
    on whichever record. Records that the set holds already are left alone.

    Raises
    ------
    InvalidEdits
        A record breaks a rule of severity error; the message names each.
    UnreadableEdits, UnwritableOutput
        The file can't be read or written; it is unchanged.
    """
    file = _EditFile.read(Path(path))
    known = {record.line: _known(record, file) for record in incoming}
    new = [record for record in incoming if known[record.line] is None]
    last = len(file.lines)
    placed = [RawRecord(last + n, record.value) for n, record in enumerate(new, start=1)]
    before = {(v.line, v.rule, v.field) for v in find_violations(file.records, limits).violations}
    after = find_violations([*file.records, *placed], limits)
    broken = [v for v in after.violations if (v.line, v.rule, v.field) not in before]
    if errors := [v for v in broken if RULES[v.rule].severity == "error"]:
        listed = "".join(
            f"\n  {v.id} (line {v.line}): {v.rule}: {v.field}: {v.value!r} {v.detail}; "
            f"{RULES[v.rule].remedy}"
            for v in errors
        )
        raise InvalidEdits(
            f"{path} is unchanged: with the new records it would break {len(errors)} "
            f"rule(s){listed}",
            remedy="mend the new records and add them again",
        )
    retracted = [r.value["id"] for r in placed if is_retraction(r.value)]
    added = [parse_edit(r, path) for r in placed if not is_retraction(r.value)]
    if placed:
        file.retract(retracted)
        file.write(added)
    return ChangeResult(
        added=tuple(edit.id for edit in added),
        retracted=tuple(retracted),
        superseded=tuple(edit.supersedes for edit in added if edit.supersedes is not None),
        unchanged=tuple(name for name in known.values() if name is not None),
        warnings=tuple(broken),
    )
