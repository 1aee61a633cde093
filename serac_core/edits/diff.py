"""What changed between two edit sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serac_core.edits.jsonl import edit_record
from serac_core.edits.merge import EditSet, union
from serac_core.edits.record import Edit


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of one edit, before and after (None: absent)."""

    id: str
    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class EditSetDiff:
    """Ids by what happened to them, sorted, and every changed field.

    `added` and `removed` are records that only one side holds; `superseded` and `retracted`
    stopped being served though the record is still there, `restored` came back.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    superseded: tuple[str, ...]
    retracted: tuple[str, ...]
    restored: tuple[str, ...]
    changed: tuple[FieldChange, ...]

    @property
    def empty(self) -> bool:
        """Whether the two sets say the same."""
        return not (
            self.added
            or self.removed
            or self.superseded
            or self.retracted
            or self.restored
            or self.changed
        )


def _state(edit: Edit, superseded: set[str | None]) -> str:
    if edit.status == "retracted":
        return "retracted"
    return "superseded" if edit.id in superseded else "live"


def _field_changes(before: Edit, after: Edit) -> list[FieldChange]:
    old, new = edit_record(before), edit_record(after)
    names = sorted((old.keys() | new.keys()) - {"status"})
    return [
        FieldChange(after.id, name, old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    ]


def diff_edits(old: EditSet, new: EditSet) -> EditSetDiff:
    """Compare two edit sets by id; the order of their lines doesn't count."""
    before, _ = union(old)
    after, _ = union(new)
    superseded_before = {e.supersedes for e in before.values()}
    superseded_after = {e.supersedes for e in after.values()}
    stopped: dict[str, list[str]] = {"superseded": [], "retracted": [], "live": []}
    changed: list[FieldChange] = []
    for name in sorted(before.keys() & after.keys()):
        was = _state(before[name], superseded_before)
        now = _state(after[name], superseded_after)
        if was != now:
            stopped[now].append(name)
        if before[name] != after[name]:
            changed += _field_changes(before[name], after[name])
    return EditSetDiff(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        superseded=tuple(stopped["superseded"]),
        retracted=tuple(stopped["retracted"]),
        restored=tuple(stopped["live"]),
        changed=tuple(changed),
    )
