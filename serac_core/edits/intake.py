"""What comes in as an update: which records of which file are new and sound, and why others aren't.

A record is held to all rules, together with the edits that it can meet. What the set breaks
already doesn't count; what it breaks only with the new record does, on whichever record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serac_core.edits.edit_index import EditIndex, texts_of
from serac_core.edits.held import as_retraction, held_edits, known_id
from serac_core.edits.jsonl import (
    RawRecord,
    UnreadableEdits,
    edit_record,
    read_records,
    record_line,
)
from serac_core.edits.merge import is_retraction
from serac_core.edits.record import Edit
from serac_core.edits.record_rules import CheckedRecord
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.token_limits import TokenLimit
from serac_core.edits.validation import check_records

_PLACED_FROM = 1_000_000_000  # lines of incoming records, beyond those of any edit set


@dataclass(frozen=True)
class Reason:
    """Why a line of an incoming file was rejected.

    Attributes
    ----------
    line:
        In that file; 0: the whole file.
    id:
        "" where the record has none.
    """

    line: int
    id: str
    rule: str
    field: str
    value: str
    detail: str
    remedy: str

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"line {self.line}", self.id)))
        where = where if self.line else "the whole file"
        return f"{where}: {self.rule}: {self.field}: {self.value!r} {self.detail}; {self.remedy}"


@dataclass(frozen=True)
class Rejection:
    """A file with records that were rejected."""

    file: Path
    reasons: tuple[Reason, ...]
    accepted: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.file.name,
            "accepted": list(self.accepted),
            "reasons": [asdict(reason) for reason in self.reasons],
        }

    def as_text(self) -> str:
        """The same for people."""
        lines = [f"{self.file.name}: {len(self.reasons)} reason(s)", *map(str, self.reasons)]
        if self.accepted:
            lines.append(f"released all the same: {', '.join(self.accepted)}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Intake:
    """What the incoming files came to.

    Attributes
    ----------
    records:
        The lines of the update, in the order of files and lines; empty when nothing is new.
    added, superseded, retracted, unchanged:
        Ids. `superseded` and `retracted` are those that were served until now or not; `unchanged`
        ones the set says already.
    """

    records: tuple[dict[str, Any], ...] = ()
    added: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()

    def only_retractions(self) -> Intake:
        """The same without what is new."""
        kept = tuple(value for value in self.records if is_retraction(value))
        return replace(self, records=kept, added=(), superseded=())

    def rows(self) -> list[dict[str, str]]:
        """What became of each edit, as table rows."""
        rows = [
            {"edit": name, "what": what, "why": ""}
            for what in ("added", "superseded", "retracted", "unchanged")
            for name in getattr(self, what)
        ]
        return rows + [
            {"edit": f"{rejection.file.name}: {reason.id}", "what": "rejected", "why": str(reason)}
            for rejection in self.rejections
            for reason in rejection.reasons
        ]

    @property
    def content(self) -> bytes:
        """The file of the update."""
        return b"".join(map(record_line, self.records))


@dataclass
class _Collected:
    placed: list[RawRecord] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


def take_in(files: Sequence[Path], index: EditIndex, limits: Sequence[TokenLimit]) -> Intake:
    """Hold incoming files, one after the other, to the rules and to the edit set.

    A record that says what the set says already is left out, so that the same file twice changes
    nothing. A record that breaks a rule of severity error is rejected, and what only makes sense
    with it; the others are taken.
    """
    found = _Collected()
    for path in files:
        try:
            incoming = read_records(path)
        except UnreadableEdits as error:
            reason = Reason(0, "", "unreadable", "file", path.name, error.what, error.remedy)
            found.rejections.append(Rejection(path, (reason,)))
            continue
        _take_file(path, incoming, index, limits, found)
    values = [_stored(record.value) for record in found.placed]
    edits = [Edit.model_validate(value) for value in values if not is_retraction(value)]
    return Intake(
        records=tuple(values),
        added=tuple(edit.id for edit in edits),
        superseded=tuple(edit.supersedes for edit in edits if edit.supersedes),
        retracted=tuple(value["id"] for value in values if is_retraction(value)),
        unchanged=tuple(found.unchanged),
        rejections=tuple(found.rejections),
    )


def _take_file(
    path: Path,
    incoming: Sequence[RawRecord],
    index: EditIndex,
    limits: Sequence[TokenLimit],
    found: _Collected,
) -> None:
    start = _PLACED_FROM + len(found.placed)
    now = datetime.now(UTC)
    checked = check_records(incoming, now=now)
    known = [*index.around(checked), *found.placed]
    held = held_edits(known)
    new: list[RawRecord] = []
    line_of: dict[int, int] = {}
    for record in incoming:
        value = as_retraction(record.value, held)
        if (name := known_id(value, held)) is not None:
            found.unchanged.append(name)
            continue
        placed = RawRecord(start + len(new), value)
        new.append(placed)
        line_of[placed.line] = record.line
    reasons: list[Reason] = []
    before = {(v.line, v.rule, v.field) for v in _violations(known, limits, now)}
    while new:
        after = check_records([*known, *new], limits, now=now)
        broken = [
            v
            for record in after
            for v in record.violations
            if RULES[v.rule].severity == "error" and (v.line, v.rule, v.field) not in before
        ]
        if not broken:
            break
        dropped = _blamed(broken, after, {record.line for record in new})
        reasons += [
            Reason(
                line_of[line],
                "" if v.id == f"line {line}" else v.id,  # a record that has no id
                v.rule,
                v.field,
                v.value,
                v.detail,
                RULES[v.rule].remedy,
            )
            for line, v in dropped
        ]
        lines = {line for line, _ in dropped}
        new = [record for record in new if record.line not in lines]
    found.placed += new
    if reasons:
        accepted = tuple(str(_stored(record.value)["id"]) for record in new)
        in_order = sorted(reasons, key=lambda reason: reason.line)
        found.rejections.append(Rejection(path, tuple(in_order), accepted))


def _violations(
    records: Sequence[RawRecord], limits: Sequence[TokenLimit], now: datetime
) -> list[Violation]:
    return [v for record in check_records(records, limits, now=now) for v in record.violations]


def _blamed(
    broken: Sequence[Violation], records: Sequence[CheckedRecord], new: set[int]
) -> list[tuple[int, Violation]]:
    """The new records that are at fault, with what is broken: the one that breaks a rule, or those
    whose texts a known record breaks it with."""
    blamed = [(v.line, v) for v in broken if v.line in new]
    at_fault = {line for line, _ in blamed}
    by_line = {record.line: record for record in records}
    for v in broken:
        if v.line in new:
            continue
        theirs = texts_of(by_line[v.line])
        meeting = [
            line
            for line in sorted(new)
            if theirs & texts_of(by_line[line]) or v.id == by_line[line].id
        ]
        if not at_fault & set(meeting):
            blamed += [(line, v) for line in meeting or sorted(new)]
            at_fault |= set(meeting or new)
    return blamed


def _stored(value: dict[str, Any]) -> dict[str, Any]:
    return dict(value) if is_retraction(value) else edit_record(Edit.model_validate(value))


def write_reasons(rejection: Rejection, folder: Path, name: str) -> None:
    """Write the reasons beside a rejected file: `NAME.reasons.json`, and `.txt` for people."""
    from serac_core.edits.atomic import write_atomically

    text = json.dumps(rejection.as_dict(), indent=1, ensure_ascii=False)
    for ending, content in (("json", text + "\n"), ("txt", rejection.as_text())):
        write_atomically(
            folder / f"{name}.reasons.{ending}", [content.encode("utf-8", "backslashreplace")]
        )
