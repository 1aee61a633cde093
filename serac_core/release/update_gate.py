"""The gate of an update: what changed, its neighbours, and the release as a whole.

What takes edits away is asked one thing only, that no query is routed to them any more: a
retraction is not held up by anything else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serac_core.config import GateConfig
from serac_core.edits.live import line_id
from serac_core.edits.record import Edit
from serac_core.evaluation.carried import read_asked
from serac_core.evaluation.item_columns import ItemColumns, keys_of
from serac_core.evaluation.items import OUT_OF_SCOPE, questions_of
from serac_core.release.gate import (
    SIGNIFICANT,
    Check,
    GateResult,
    gate_release,
    lost_and_gained,
    same_questions,
)
from serac_core.release.manifest import verify_release
from serac_core.statistics import sign_test_worse, wilson_interval


@dataclass(frozen=True)
class Change:
    """What an update does to the live edits, by id: new ones, and those that go."""

    added: tuple[str, ...]
    gone: tuple[str, ...]


def live_change(release: Path, champion: Path) -> Change:
    """How the live edits of a release differ from those of the champion; an edit whose content
    changed both goes and is new."""
    before, after = (_lines(folder) for folder in (champion, release))
    return Change(
        tuple(line_id(line) for line in after if line not in before),
        tuple(line_id(line) for line in before if line not in after),
    )


def gate_update(release: Path, champion: Path, config: GateConfig) -> GateResult:
    """Judge an update's release against the champion's.

    Raises
    ------
    MissingGateEvidence, UnreadableItems, InvalidRelease
    """
    change = live_change(release, champion)
    only_going = _not_routed(release, champion, change)
    if not change.added:
        verify_release(release)
        return GateResult((only_going,))
    live, before = Path("report/live"), ItemColumns.read(champion / "report" / "live")
    items, asked = ItemColumns.read(release / live), read_asked(release / live)
    return GateResult(
        (
            only_going,
            *_of_changed(_edits(release, change.added), items, config),
            _neighbours(items, before, asked, config),
            *gate_release(release, champion, config).checks,
        )
    )


def _not_routed(release: Path, champion: Path, change: Change) -> Check:
    """The edits that go, asked for by their prompts and rephrasings."""
    from serac_core.scope.router import Router

    name, bound = "changed/gone_routed", "<= 0"
    gone = set(change.gone) - set(change.added)
    if not gone:
        return Check(name, None, bound, True, "no edit goes")
    queries = [
        query for edit in _edits(champion, gone) for query in (edit.prompt, *edit.rephrase_prompts)
    ]
    routed = [d for d in Router.load(release).route(queries) if d.edit_id in gone]
    note = f"{len(queries)} queries of {len(gone)} edits that go, routed to one of them"
    return Check(name, len(routed), bound, not routed, note)


def _of_changed(edits: Sequence[Edit], items: ItemColumns, config: GateConfig) -> list[Check]:
    """New edits: their prompts by the bound itself; rephrasings and near misses, few in an update,
    by the end of their 95 % interval."""
    questions = questions_of(edits, "live")
    checks = []
    for name, groups, bound in (
        ("changed/edit", ("edit",), config.live_exact_match),
        ("changed/rephrasings", ("rephrase",), config.update_rephrasings),
        ("changed/near_misses", OUT_OF_SCOPE, config.live_locality),
    ):
        asked = keys_of([question.key for question in questions if question.group in groups])
        of_group_I = np.isin(items.key_I, asked)
        found = int(np.count_nonzero(of_group_I))
        right = int(np.count_nonzero(items.correct_I & of_group_I))
        if not len(asked):
            checks.append(Check(name, None, f">= {bound:g}", True, "none is asked"))
        elif found < len(asked):
            note = f"{len(asked) - found} of {len(asked)} were not measured"
            checks.append(Check(name, None, f">= {bound:g}", False, note))
        else:
            low, high = wilson_interval(right, found)
            note = f"{right} of {found} right; 95 %: {low:.3f} to {high:.3f}"
            passed = right / found >= bound
            if not passed and groups != ("edit",) and high >= bound:
                passed, note = True, f"{note}; chance may account for it on so few, so it passes"
            checks.append(Check(name, right / found, f">= {bound:g}", passed, note))
    return checks


def _neighbours(
    items: ItemColumns, before: ItemColumns, asked: Sequence[str] | None, config: GateConfig
) -> Check:
    """Questions about other edits that what changed can touch: right before, and now."""
    name, bound = "changed/neighbours", f"<= {config.max_regression:g}"
    pairs = same_questions(items, before)
    now = items.taken(pairs[:, 0])
    of_I = np.ones(len(now), np.bool_) if asked is None else np.isin(now.key_I, keys_of(asked))
    lost, gained, total = lost_and_gained(before.taken(pairs[:, 1]), now, of_I)
    if not total:
        return Check(name, None, bound, True, "no question of another edit is near")
    fall, p = (lost - gained) / total, sign_test_worse(lost, gained)
    return Check(
        name,
        fall,
        bound,
        fall <= config.max_regression or p >= SIGNIFICANT,
        f"{total} questions of other edits asked again: {lost} lost, {gained} gained, p = {p:.3g}",
    )


def _lines(release: Path) -> dict[bytes, None]:
    lines = (release / "edits.jsonl").read_bytes().splitlines(keepends=True)
    return dict.fromkeys(lines)


def _edits(release: Path, ids: Collection[str]) -> list[Edit]:
    """The edits of these ids; the other lines are not read as JSON."""
    wanted = set(ids)
    return [
        Edit.model_validate(json.loads(line)) for line in _lines(release) if line_id(line) in wanted
    ]
