"""Quality of a release on edits that it has never seen, at growing memories.

For each size the memory holds that many of the edits, in a fixed random order, and all their
prompts, rephrasings and locality probes are routed. Right is, in scope, a route to the query's own
edit or to another stored edit of the same fact; out of scope, no route. Set aside, by the rules of
:mod:`serac_core.scope.same_fact`, are near misses that fall under a stored edit or concern one
(HalluEditBench asks "What genre is X known for?" beside "What is the genre of X?") and
rephrasings that don't name their subject; `right_all` counts all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from serac_core.config import Params
from serac_core.edits.atomic import write_atomically
from serac_core.edits.jsonl import read_active_edits
from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.evaluation.answered import (
    answer_questions,
    questions_to_answer,
    trained_targets,
)
from serac_core.evaluation.plots import draw_answers, draw_quality
from serac_core.evaluation.scoring import load_models
from serac_core.progress import Say, in_chunks
from serac_core.scope.same_fact import Concerns, SameFact
from serac_core.scope.subject import said_of
from serac_core.statistics import upper_bound_95, wilson_interval

IN_SCOPE_KINDS = ("prompt", "rephrase")


class TooFewEdits(SeracError):
    """A memory is asked for that is larger than the edits there are."""


@dataclass(frozen=True, slots=True)
class RoutedProbe:
    """A line of `decisions.jsonl`.

    Attributes
    ----------
    probe:
        Number of the query among those of its size.
    also_under:
        Ids of other stored edits that the query truly falls under.
    aside:
        Why the query is set aside; empty for a clear one.
    """

    size: int
    probe: int
    kind: str
    query: str
    expected_edit_id: str | None
    edit_id: str | None
    in_scope: bool
    score: float
    threshold: float
    also_under: tuple[str, ...]
    aside: str

    @property
    def is_right(self) -> bool:
        if self.expected_edit_id is None:
            return not self.in_scope
        return self.edit_id == self.expected_edit_id or self.edit_id in self.also_under


def benchmark_quality(
    release: str | Path,
    edit_sets: Sequence[str | Path],
    sizes: Sequence[int],
    out: str | Path,
    *,
    beside: Sequence[str | Path] = (),
    traffic: Sequence[str] = (),
    variant: str = "fp32",
    provider: str = "cpu",
    seed: int = 17,
    answers: int = 0,
    base: str | None = None,
    params: Params | None = None,
    cache_dir: str | Path = ".serac/cache",
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Score a release's scope classifier, and what is answered, and write `metrics.json`,
    `decisions.jsonl` and `quality.png` to `out`; with answers `items.jsonl` and `answers.png` too.

    Parameters
    ----------
    edit_sets:
        JSONL files of edits; the active ones are stored and asked about.
    beside:
        JSONL files of edits that only fill the memory where a size needs more.
    traffic:
        Queries that no edit is meant by, asked at every size.
    answers:
        How many of the edits at each size, and of the traffic, are answered too, by the release's
        counterfactual model and the base.
    base:
        Instead of the base model of the settings.
    params:
        The settings, as far as answers go; as they are without a file, if None.

    Returns
    -------
    dict
        The content of `metrics.json`; `sizes` has, of each size and kind, `right` of `n` with its
        Wilson interval, `right_all` of `n_all`, and for out-of-scope kinds `wrong_upper95`;
        `answers` the metrics of :func:`serac_core.evaluation.answered.answer_questions` by size.

    Raises
    ------
    TooFewEdits, UnreadableEdits, UnwritableOutput
        And what loading the release raises.
    """
    from serac_core.scope.calibration_file import read_calibration
    from serac_core.scope.encoder import RememberingEncoder
    from serac_core.scope.memory import EditMemory
    from serac_core.scope.router import Router
    from serac_core.scope.session import OnnxEncoder

    release = Path(release)
    asked, filling = _shuffled(edit_sets, seed), _shuffled(beside, seed)
    known = {edit.id for edit in asked}
    filling = [edit for edit in filling if edit.id not in known]
    if max(sizes) > len(asked) + len(filling):
        raise TooFewEdits(
            f"{max(sizes)} edits in memory are asked for, there are {len(asked)} to ask about "
            f"and {len(filling)} beside them",
            remedy="name smaller --sizes or more edits with --beside",
        )
    encoder = RememberingEncoder(OnnxEncoder.load(release / "scope", variant, provider))
    thresholds = read_calibration(release / "scope" / "calibration.json", variant)
    by_id = {edit.id: edit for edit in asked}
    facts = SameFact([*asked, *filling])
    concerns = Concerns([*asked, *filling])
    models = targets = None
    if answers:
        folder = release / "counterfactual"
        models = load_models(folder, params or Params(), Path(cache_dir), say, base=base)
        targets = trained_targets(release)
    answered: dict[str, dict[str, Any]] = {}
    items: list[str] = []
    probes: list[RoutedProbe] = []
    for size in sorted(set(sizes)):
        own = asked[:size]
        stored = [*own, *filling[: size - len(own)]]
        memory = EditMemory.build(stored, encoder, batch_size=64)
        router = Router.calibrated(encoder, memory, thresholds)
        held = {edit.id for edit in stored}
        rows = list(_questions(own, traffic))
        decisions = [
            decision
            for part in in_chunks([query for _, query, _ in rows], f"{size} edits: queries", say)
            for decision in router.route(part)
        ]
        for number, ((kind, query, owner), decision) in enumerate(
            zip(rows, decisions, strict=True)
        ):
            in_scope = kind in IN_SCOPE_KINDS
            own_edit = by_id.get(owner or "")
            under, aside = _judged(query, kind, own_edit, facts, concerns, held)
            probes.append(
                RoutedProbe(
                    size,
                    number,
                    kind,
                    query,
                    owner if in_scope else None,
                    decision.edit_id,
                    decision.in_scope,
                    decision.score,
                    decision.threshold,
                    under,
                    aside,
                )
            )
        if models is not None:
            left_out = {(p.kind, p.query) for p in probes if p.size == size and p.aside}
            questions = questions_to_answer(own[:answers], traffic[:answers], targets, left_out)
            answered[str(size)], scored = answer_questions(questions, stored, router, models, say)
            items += [json.dumps({"size": size, **item.row()}) + "\n" for item in scored]
    metrics: dict[str, Any] = {
        "schema": 1,
        "variant": variant,
        "threshold": thresholds.threshold,
        "seed": seed,
        "edits": len(asked),
        "beside": len(filling),
        "sizes": {str(size): _figures([p for p in probes if p.size == size]) for size in sizes},
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(probe), ensure_ascii=True) + "\n" for probe in probes)
    write_atomically(folder / "decisions.jsonl", map(str.encode, lines))
    write_atomically(folder / "quality.png", [draw_quality(metrics["sizes"])])
    if answered:
        metrics["answers"] = answered
        write_atomically(folder / "items.jsonl", map(str.encode, items))
        write_atomically(folder / "answers.png", [draw_answers(answered)])
    text = json.dumps(metrics, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / "metrics.json", [text.encode()])
    return metrics


def _shuffled(files: Sequence[str | Path], seed: int) -> list[Edit]:
    edits = read_active_edits(files)
    return Random(seed).sample(edits, len(edits))


def _questions(
    edits: Sequence[Edit], traffic: Sequence[str]
) -> Iterator[tuple[str, str, str | None]]:
    """Kind, query, and the id of the edit it was written for."""
    for edit in edits:
        yield "prompt", edit.prompt, edit.id
        for query in edit.rephrase_prompts:
            yield "rephrase", query, edit.id
        for probe in edit.locality:
            yield probe.kind, probe.prompt, edit.id
    for query in traffic:
        yield "traffic", query, None


def _judged(
    query: str,
    kind: str,
    own: Edit | None,
    facts: SameFact,
    concerns: Concerns,
    held: Collection[str],
) -> tuple[tuple[str, ...], str]:
    """Ids of the other stored edits that a query falls under, and why it is set aside."""
    found = facts.edits_of(query, held)
    if kind in IN_SCOPE_KINDS and own is not None:
        found += [edit for edit in facts.same_as(own) if edit.id in held]
        names_it = not own.subject or said_of(query, own.subject) is not None
        aside = "" if names_it else "doesn't name its subject"
        return tuple(dict.fromkeys(edit.id for edit in found if edit.id != own.id)), aside
    under = tuple(edit.id for edit in found)
    if under:
        return under, "falls under a stored edit"
    if kind == "same_subject":
        concerned = concerns.reason(query, held)
        if concerned is not None:
            return under, f"concerns {concerned[0].id}: {concerned[1]}"
    return under, ""


def _figures(probes: Sequence[RoutedProbe]) -> dict[str, dict[str, float]]:
    kinds: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(probe.kind for probe in probes):
        of_kind = [probe for probe in probes if probe.kind == kind]
        clear = [probe.is_right for probe in of_kind if not probe.aside]
        low, high = wilson_interval(sum(clear), len(clear))
        kinds[kind] = {
            "right": sum(clear) / len(clear) if clear else 1.0,
            "n": len(clear),
            "low": low,
            "high": high,
            "right_all": sum(probe.is_right for probe in of_kind) / len(of_kind),
            "n_all": len(of_kind),
        }
        if kind not in IN_SCOPE_KINDS:
            kinds[kind]["wrong_upper95"] = upper_bound_95(len(clear) - sum(clear), len(clear))
    return kinds
