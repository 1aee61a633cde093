"""The gate of an update: what changed, its neighbours, and the release as a whole.

What takes edits away is asked one thing only, that no query is routed to them any more: a
retraction is not held up by anything else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serac_core.config import GateConfig
from serac_core.edits.live import line_id
from serac_core.edits.record import Edit
from serac_core.evaluation.carried import read_asked
from serac_core.evaluation.items import OUT_OF_SCOPE, questions_of, read_items
from serac_core.release.gate import SIGNIFICANT, Check, GateResult, gate_release
from serac_core.release.manifest import verify_release
from serac_core.statistics import sign_test_worse, wilson_interval

Row = Mapping[str, Any]


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
    items = read_items(release / "report" / "live" / "items.jsonl")
    asked = read_asked(release / "report" / "live")
    before = read_items(champion / "report" / "live" / "items.jsonl")
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


def _of_changed(edits: Sequence[Edit], items: Iterable[Row], config: GateConfig) -> list[Check]:
    """New edits: their prompts, rephrasings and near misses."""
    wanted = {question.key: question.group for question in questions_of(edits, "live")}
    found = [row for row in items if row["key"] in wanted]
    checks = []
    for name, groups, bound in (
        ("changed/edit", ("edit",), config.live_exact_match),
        ("changed/rephrasings", ("rephrase",), config.update_rephrasings),
        ("changed/near_misses", OUT_OF_SCOPE, config.live_locality),
    ):
        of_group = [row for row in found if row["group"] in groups]
        right = sum(bool(row["correct"]) for row in of_group)
        asked = sum(group in groups for group in wanted.values())
        if not asked:
            checks.append(Check(name, None, f">= {bound:g}", True, "none is asked"))
        elif len(of_group) < asked:
            note = f"{asked - len(of_group)} of {asked} were not measured"
            checks.append(Check(name, None, f">= {bound:g}", False, note))
        else:
            low, high = wilson_interval(right, len(of_group))
            note = f"{right} of {asked} right; 95 %: {low:.3f} to {high:.3f}"
            checks.append(Check(name, right / asked, f">= {bound:g}", right / asked >= bound, note))
    return checks


def _neighbours(
    items: Iterable[Row], before: Iterable[Row], asked: Collection[str] | None, config: GateConfig
) -> Check:
    """Questions about other edits that what changed can touch: right before, and now."""
    bound = f"<= {config.max_regression:g}"
    was = {row["key"]: bool(row["correct"]) for row in before}
    pairs = [
        (was[row["key"]], bool(row["correct"]))
        for row in items
        if row["key"] in was and (asked is None or row["key"] in asked)
    ]
    if not pairs:
        return Check("changed/neighbours", None, bound, True, "no question of another edit is near")
    lost, gained = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    fall, p = (lost - gained) / len(pairs), sign_test_worse(lost, gained)
    return Check(
        "changed/neighbours",
        fall,
        bound,
        fall <= config.max_regression or p >= SIGNIFICANT,
        f"{len(pairs)} questions of other edits asked again: {lost} lost, {gained} gained, "
        f"p = {p:.3g}",
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
