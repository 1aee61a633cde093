"""Edits that come over HTTP: checked by the rules of the edit set, left in the inbox folder.

A file `ID.jsonl` in the inbox is what the `update-edits` flow takes; what it can't use it puts into
the folder `rejected` beside the inbox, reasons beside it. `.serac/queue/ID.json` in the checkout
remembers what was queued, so that it can be followed after a restart too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serac_core.edits.atomic import UnwritableOutput, write_atomically
from serac_core.edits.jsonl import RawRecord, edit_record, record_line
from serac_core.edits.merge import is_retraction
from serac_core.edits.record import Edit
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.validation import find_violations
from serac_core.serving.errors import BadRequest, NotFound, Unavailable

Status = Literal["queued", "taken", "live", "rejected"]
_ID = re.compile(r"q-[0-9a-f]{16}")
_REJECTED = "rejected"
_Place = tuple[int, str, str]


@dataclass(frozen=True)
class Queued:
    """An edit on its way to being served.

    Attributes
    ----------
    reasons:
        Warnings of the rules, or why it was rejected.
    """

    id: str
    edit_id: str
    status: Status
    reasons: tuple[str, ...] = ()


class Inbox:
    """The inbox of a checkout.

    Parameters
    ----------
    folder:
        The inbox, relative to the checkout or anywhere.
    """

    def __init__(self, checkout: str | Path, folder: str | Path) -> None:
        self._folder = Path(checkout) / folder
        self._rejected = self._folder.parent / _REJECTED
        self._known = Path(checkout) / ".serac" / "queue"
        self._live: Mapping[str, Edit] = {}
        self._broken: frozenset[_Place] = frozenset()

    def queue(self, record: dict[str, Any], live: Mapping[str, Edit]) -> Queued:
        """Check a record beside the live edits, and leave it in the inbox. The same record again
        is the same place in the queue.

        Raises
        ------
        BadRequest
            It breaks a rule; the message names field, value and rule.
        Unavailable
            The inbox can't be written.
        """
        warnings = self._checked(record, live)
        edit_id = str(record["id"]) if is_retraction(record) else Edit.model_validate(record).id
        line = record_line(record)
        queue_id = "q-" + hashlib.sha256(line).hexdigest()[:16]
        note = {"id": queue_id, "edit_id": edit_id, "record": record}
        try:
            write_atomically(self._known / f"{queue_id}.json", [record_line(note)])
            write_atomically(self._folder / f"{queue_id}.jsonl", [line])
        except UnwritableOutput as error:
            raise Unavailable(
                "the inbox can't be written", remedy=error.remedy, code="inbox_unwritable"
            ) from error
        return Queued(queue_id, edit_id, "queued", tuple(map(_told, warnings)))

    def follow(self, queue_id: str, live: Mapping[str, Edit]) -> Queued:
        """What became of a queued record.

        Raises
        ------
        NotFound
        """
        try:
            if not _ID.fullmatch(queue_id):
                raise ValueError(queue_id)
            note = json.loads((self._known / f"{queue_id}.json").read_bytes())
            edit_id, record = str(note["edit_id"]), dict(note["record"])
        except (OSError, ValueError, KeyError, TypeError):
            raise NotFound(
                "nothing was queued here by this id", remedy="use the `follow` of POST /edits"
            ) from None
        if (self._folder / f"{queue_id}.jsonl").exists():
            return Queued(queue_id, edit_id, "queued")
        if reasons := self._reasons(queue_id):
            return Queued(queue_id, edit_id, "rejected", reasons)
        status: Status = "live" if _in_force(record, edit_id, live) else "taken"
        return Queued(queue_id, edit_id, status)

    def _reasons(self, queue_id: str) -> tuple[str, ...]:
        """What the update wrote beside a file that it rejected."""
        if not any(self._rejected.glob(f"{queue_id}*")):
            return ()
        texts = [
            path.read_text(encoding="utf-8", errors="replace").strip()
            for path in sorted(self._rejected.glob(f"{queue_id}*.txt"))
        ]
        return tuple(text for text in texts if text) or ("no reason is given",)

    def _checked(self, record: dict[str, Any], live: Mapping[str, Edit]) -> list[Violation]:
        """The warnings on a record among the live edits: what they break without it, which is
        looked at once a release, doesn't count."""
        held = [RawRecord(n, edit_record(edit)) for n, edit in enumerate(live.values(), start=1)]
        if self._live is not live:
            self._broken = frozenset(map(_place, find_violations(held).violations))
            self._live = live
        if _repeated(record, live):
            return []
        new = RawRecord(len(held) + 1, record)
        violations = find_violations([*held, new]).violations
        found = [violation for violation in violations if _place(violation) not in self._broken]
        errors = [violation for violation in found if RULES[violation.rule].severity == "error"]
        if errors:
            listed = "; ".join(map(_told, errors))
            raise BadRequest(
                f"the edit breaks {len(errors)} rule(s): {listed}",
                remedy=RULES[errors[0].rule].remedy,
                param=f"edit.{errors[0].field}",
                code="invalid_edit",
            )
        return found


def _place(violation: Violation) -> _Place:
    return violation.line, violation.rule, violation.field


def _repeated(record: dict[str, Any], live: Mapping[str, Edit]) -> bool:
    try:
        edit = Edit.model_validate(record)
    except ValueError:
        return False
    held = live.get(edit.id)
    return held is not None and edit_record(held) == edit_record(edit)


def _in_force(record: dict[str, Any], edit_id: str, live: Mapping[str, Edit]) -> bool:
    if record.get("status") == "retracted":
        return edit_id not in live
    held = live.get(edit_id)
    return held is not None and held.target_new == record.get("target_new")


def _told(violation: Violation) -> str:
    return f"{violation.rule}: {violation.field}: {violation.value!r} {violation.detail}".rstrip()
