"""Rules between records: ids, supersedes and retractions, prompts, probes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice

from serac_core.edits.merge import supersedes_cycle
from serac_core.edits.record import normalize_text
from serac_core.edits.record_rules import CheckedRecord

_SHOWN = 3  # how many of the others a detail names


def _others(record: CheckedRecord, group: Sequence[CheckedRecord]) -> str:
    names = []
    for other in group:
        if other is not record:
            names.append(f"{other.id} (line {other.line})")
            if len(names) > _SHOWN:
                return f"{', '.join(names[:_SHOWN])} and more"
    return ", ".join(names)


def live_records(records: Sequence[CheckedRecord]) -> list[CheckedRecord]:
    """The records that would be served: neither retracted nor superseded."""
    gone = {r.id for r in records if r.retracted} | {r.supersedes for r in records if r.supersedes}
    return [r for r in records if r.id not in gone and not r.retraction and r.normal_prompt]


def _check_names(records: Sequence[CheckedRecord]) -> None:
    by_id: defaultdict[str, list[CheckedRecord]] = defaultdict(list)
    for record in records:
        if not record.retraction:
            by_id[record.id].append(record)
    for group in by_id.values():
        if len(group) > 1:
            for record in group:
                detail = f"also the id of {_others(record, group)}"
                record.report("duplicate_id", "id", record.id, detail)
    for record in records:
        if record.retraction and record.id not in by_id and not record.id.startswith("line "):
            record.report("retracts_unknown", "id", record.id, "no edit has this id")
        if record.supersedes is not None and record.supersedes not in by_id:
            detail = "no edit has this id"
            record.report("supersedes_unknown", "supersedes", record.supersedes, detail)
    links = {name: group[0].supersedes for name, group in by_id.items()}
    for cycle in supersedes_cycle(links):
        detail = f"the circle is {' -> '.join([*cycle[: _SHOWN + 1], cycle[0]])}"
        for name in cycle:
            by_id[name][0].report("supersedes_cycle", "supersedes", links[name], detail)


def _check_prompts(live: Sequence[CheckedRecord]) -> None:
    by_prompt: defaultdict[str, list[CheckedRecord]] = defaultdict(list)
    for record in live:
        by_prompt[record.normal_prompt].append(record)
    for group in by_prompt.values():
        if len(group) == 1:
            continue
        targets = {r.normal_target: repr(r.target) for r in group}
        rule = "duplicate_prompt" if len(targets) == 1 else "conflicting_targets"
        named = list(islice(targets.items(), _SHOWN + 1))
        for record in group:
            detail = f"{record.target!r}; also the prompt of {_others(record, group)}"
            if len(targets) > 1:
                others = [shown for normal, shown in named if normal != record.normal_target]
                answers = " and ".join(others[:_SHOWN])
                detail = f"{record.target!r} here, {answers} in {_others(record, group)}"
            record.report(rule, "prompt", record.prompt, detail)


class _InScope:
    """The live edits that a query falls under word for word; a few of many are kept.

    Of each query: the first edits, and the first with another target than the very first one,
    so that an edit with another id, or another target, is found when there is one.
    """

    def __init__(self, live: Iterable[CheckedRecord]) -> None:
        self._first: defaultdict[str, dict[str, CheckedRecord]] = defaultdict(dict)
        self._differing: defaultdict[str, dict[str, CheckedRecord]] = defaultdict(dict)
        for record in live:
            normals = dict.fromkeys([record.normal_prompt, *(n for _, _, n in record.rephrasings)])
            for normal in normals:
                kept = self._first[normal]
                if len(kept) <= _SHOWN:
                    kept.setdefault(record.id, record)
                if record.normal_target != next(iter(kept.values())).normal_target:
                    differing = self._differing[normal]
                    if len(differing) <= _SHOWN:
                        differing.setdefault(record.id, record)

    def others(self, query: str, record: CheckedRecord) -> list[CheckedRecord]:
        """Edits with another id under which a normalised query falls, at most a few."""
        if query not in self._first:
            return []
        kept = {**self._first[query], **self._differing.get(query, {})}
        return [other for other in kept.values() if other.id != record.id]


def _check_queries(records: Sequence[CheckedRecord], live: Sequence[CheckedRecord]) -> None:
    """Rephrasings and probes against the prompts and rephrasings of the other live edits."""
    in_scope = _InScope(live)
    live_lines = {record.line for record in live}
    for record in records:
        if record.line not in live_lines:
            continue
        for where, text, normal in record.rephrasings:
            found = [
                o
                for o in in_scope.others(normal, record)
                if o.normal_target != record.normal_target
            ]
            if found and normal != record.normal_prompt:
                answers = " and ".join(repr(o.target) for o in found[:_SHOWN])
                detail = f"answered {answers} by {_others(record, found)}"
                record.report("rephrasing_of_another_edit", where, text, detail)
        for probe in record.locality:
            if found := in_scope.others(probe.normal, record):
                detail = f"in the scope of {_others(record, found)}"
                record.report("probe_of_another_edit", probe.field, probe.prompt, detail)
        for probe in record.portability:
            answer = normalize_text(probe.answer or "")
            found = in_scope.others(probe.normal, record)
            clash = [o for o in found if o.normal_target != answer]
            if clash:
                answers = " and ".join(repr(o.target) for o in clash[:_SHOWN])
                detail = f"{probe.answer!r} here, {answers} by {_others(record, clash)}"
                record.report("probe_of_another_edit", probe.field, probe.prompt, detail)
            elif found:
                detail = f"in the scope of {_others(record, found)}"
                record.report("portability_of_another_edit", probe.field, probe.prompt, detail)


def check_set(records: Sequence[CheckedRecord]) -> None:
    """Check records against each other; what is broken is noted on each record."""
    _check_names(records)
    live = live_records(records)
    _check_prompts(live)
    _check_queries(records, live)
