"""Edit sets put together: add, supersede, retract; what is live; the conflicts found.

An edit set is what its records say, whatever their order: merging is a union by id, in which
a retraction wins over the active record and a superseded edit stays superseded. So merging is
commutative, associative and idempotent, and two people's changes meet in one result. A
retraction doesn't bring back what the retracted edit superseded: add that again by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from serac_core.edits.jsonl import (
    RawRecord,
    edit_record,
    parse_edit,
    read_records,
    record_line,
)
from serac_core.edits.record import Edit, normalize_text
from serac_core.errors import NegativeAnswer

_UNDATED = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, order=True)
class Retraction:
    """A line that retracts an edit by name: `{"id": ..., "status": "retracted"}`."""

    id: str


@dataclass(frozen=True, slots=True, order=True)
class Conflict:
    """Records that can't stand together.

    `rule` is one of `id_reused`, `unknown_retraction`, `unknown_supersedes`,
    `supersedes_cycle`, `conflicting_targets`, `duplicate_prompt`.
    """

    rule: str
    ids: tuple[str, ...]
    detail: str


class ConflictingEdits(NegativeAnswer):
    """Edits that contradict one another; `conflicts` names each with its ids."""

    def __init__(self, conflicts: list[Conflict]) -> None:
        self.conflicts = conflicts
        lines = [f"\n  {c.rule}: {', '.join(c.ids)}: {c.detail}" for c in conflicts]
        super().__init__(
            f"{len(conflicts)} conflict(s) between edits{''.join(lines)}",
            remedy="retract one of each pair, or let the newer one supersede the older",
        )


@dataclass(frozen=True)
class EditSet:
    """Edits with the retractions by name that came with them."""

    edits: tuple[Edit, ...] = ()
    retractions: frozenset[Retraction] = field(default_factory=frozenset)

    def records(self) -> list[Edit]:
        """Every record in the file's order, those that a line retracts by name as retracted.

        Raises
        ------
        ConflictingEdits
            A retraction of an unknown id.
        """
        ids = {edit.id for edit in self.edits}
        named = {retraction.id for retraction in self.retractions}
        if unknown := sorted(named - ids):
            raise ConflictingEdits([_unknown_retraction(name) for name in unknown])
        retracted = {"status": "retracted"}
        return [e.model_copy(update=retracted) if e.id in named else e for e in self.edits]


def _unknown_retraction(edit_id: str) -> Conflict:
    return Conflict("unknown_retraction", (edit_id,), "retracts no known edit")


def is_retraction(value: object) -> bool:
    """Whether a raw record retracts an edit by name: retracted, and says nothing else."""
    return (
        isinstance(value, dict)
        and value.get("status") == "retracted"
        and not ({"prompt", "target_new"} & value.keys())
    )


def edit_set(records: Iterable[RawRecord], path: str | Path) -> EditSet:
    """The edits and retractions of raw records; :class:`UnreadableEdits` for a bad one."""
    edits: list[Edit] = []
    retractions: set[Retraction] = set()
    for record in records:
        if is_retraction(record.value) and isinstance(record.value.get("id"), str):
            retractions.add(Retraction(record.value["id"]))
        else:
            edits.append(parse_edit(record, path))
    return EditSet(tuple(edits), frozenset(retractions))


def read_edit_set(path: str | Path) -> EditSet:
    """Read a file of edits in which lines may also retract edits by name."""
    return edit_set(read_records(path), path)


def age_key(edit: Edit) -> tuple[datetime, str]:
    """Sorts edits from oldest to newest; undated ones first, ties by id."""
    made = edit.created_at
    if made is None:
        return _UNDATED, edit.id
    return (made if made.tzinfo else made.replace(tzinfo=UTC)), edit.id


def supersedes_cycle(supersedes: Mapping[str, str | None]) -> list[list[str]]:
    """The cycles of `id -> id it supersedes`, each from its smallest id on."""
    state: dict[str, int] = {}  # 1: on the walk, 2: done
    cycles: list[list[str]] = []
    for start in supersedes:
        walk: list[str] = []
        at: str | None = start
        while at is not None and at in supersedes and at not in state:
            state[at] = 1
            walk.append(at)
            at = supersedes[at]
        if at is not None and state.get(at) == 1:
            cycle = walk[walk.index(at) :]
            first = cycle.index(min(cycle))
            cycles.append(cycle[first:] + cycle[:first])
        state.update(dict.fromkeys(walk, 2))
    return sorted(cycles)


def _differing_fields(variants: Sequence[Edit]) -> str:
    contents = [edit_record(edit) for edit in variants]
    names = sorted({name for content in contents for name in content})
    first = contents[0]
    return ", ".join(n for n in names if any(c.get(n) != first.get(n) for c in contents))


def union(*parts: EditSet) -> tuple[dict[str, Edit], list[Conflict]]:
    """All records by id, with retractions applied, and the conflicts between records."""
    variants: dict[str, list[Edit]] = {}
    conflicts: set[Conflict] = set()
    retracted: set[str] = {r.id for part in parts for r in part.retractions}
    for part in parts:
        for edit in part.edits:
            if edit.status == "retracted":
                retracted.add(edit.id)
            active = edit.model_copy(update={"status": "active"})
            known = variants.setdefault(edit.id, [])
            if active not in known:
                known.append(active)
    by_id: dict[str, Edit] = {}
    for name, known in variants.items():
        by_id[name] = known[0]
        if len(known) > 1:
            by_id[name] = min(known, key=lambda e: record_line(edit_record(e)))
            detail = f"{len(known)} records share this id and differ in {_differing_fields(known)}"
            conflicts.add(Conflict("id_reused", (name,), detail))
    for name in sorted(retracted):
        if name in by_id:
            by_id[name] = by_id[name].model_copy(update={"status": "retracted"})
        else:
            conflicts.add(_unknown_retraction(name))
    for edit in by_id.values():
        if edit.supersedes is not None and edit.supersedes not in by_id:
            detail = f"supersedes {edit.supersedes!r}, which is no known edit"
            conflicts.add(Conflict("unknown_supersedes", (edit.id,), detail))
    for cycle in supersedes_cycle({e.id: e.supersedes for e in by_id.values()}):
        detail = "each supersedes the next, the last one the first"
        conflicts.add(Conflict("supersedes_cycle", tuple(cycle), detail))
    return by_id, sorted(conflicts)


def _served(by_id: Mapping[str, Edit]) -> list[Edit]:
    superseded = {edit.supersedes for edit in by_id.values()}
    kept = (e for e in by_id.values() if e.status == "active" and e.id not in superseded)
    return sorted(kept, key=age_key)


def _contradictions(live: Iterable[Edit]) -> list[Conflict]:
    by_prompt: defaultdict[str, list[Edit]] = defaultdict(list)
    for edit in live:
        by_prompt[normalize_text(edit.prompt)].append(edit)
    found: list[Conflict] = []
    for edits in by_prompt.values():
        if len(edits) > 1:
            targets = sorted({normalize_text(e.target_new): e.target_new for e in edits}.values())
            rule = "conflicting_targets" if len(targets) > 1 else "duplicate_prompt"
            detail = f"one prompt, {edits[0].prompt!r}, with {' and '.join(map(repr, targets))}"
            found.append(Conflict(rule, tuple(sorted(e.id for e in edits)), detail))
    return sorted(found)


def merge(*parts: EditSet) -> list[Edit]:
    """All edits of the parts as one set, oldest first: retracted and superseded ones included.

    Raises
    ------
    ConflictingEdits
        An id with two contents, a retraction or `supersedes` of an unknown id, a cycle, or two
        live edits with one prompt. Whether it is raised, and what it names, doesn't depend on
        the order of parts or records.
    """
    by_id, conflicts = union(*parts)
    conflicts += _contradictions(_served(by_id))
    if conflicts:
        raise ConflictingEdits(conflicts)
    return sorted(by_id.values(), key=age_key)


def live_edits(edits: EditSet) -> list[Edit]:
    """The edits that are served, oldest first: active and not superseded.

    Raises
    ------
    ConflictingEdits
        As :func:`merge`.
    """
    return _served({edit.id: edit for edit in merge(edits)})
