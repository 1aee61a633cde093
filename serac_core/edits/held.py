"""What an edit set holds already, asked record by record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serac_core.edits.edit_files import said
from serac_core.edits.jsonl import RawRecord, parse_edit
from serac_core.edits.merge import is_retraction
from serac_core.edits.record import Edit


def held_edits(records: Sequence[RawRecord]) -> dict[str, Edit]:
    """The edits among records by id, with retractions applied."""
    edits: dict[str, Edit] = {}
    retracted = set()
    for record in records:
        if is_retraction(record.value):
            retracted.add(record.value.get("id"))
            continue
        edit = parse_edit(record, "the edit set")
        edits.setdefault(edit.id, edit)
        if edit.status == "retracted":
            retracted.add(edit.id)
    update = {"status": "retracted"}
    return {
        name: edit.model_copy(update=update) if name in retracted else edit
        for name, edit in edits.items()
    }


def as_retraction(value: Any, held: Mapping[str, Edit]) -> Any:
    """A whole record that retracts a known edit means the same as a line that does so by name."""
    edit = _edit(value)
    known = held.get(edit.id) if edit is not None else None
    if edit is None or known is None or edit.status != "retracted" or said(edit) != said(known):
        return value
    return {"id": edit.id, "status": "retracted"}


def known_id(value: Any, held: Mapping[str, Edit]) -> str | None:
    """The id of a record that the set says already."""
    if is_retraction(value):
        name = value.get("id")
        known = held.get(name) if isinstance(name, str) else None
        return known.id if known is not None and known.status == "retracted" else None
    edit = _edit(value)
    known = held.get(edit.id) if edit is not None else None
    same = edit is not None and known is not None and said(edit) == said(known)
    return edit.id if edit is not None and same else None


def _edit(value: Any) -> Edit | None:
    if not isinstance(value, dict) or is_retraction(value):
        return None
    try:
        return Edit.model_validate(value)
    except ValueError:
        return None
