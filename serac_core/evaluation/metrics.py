"""The metrics of an evaluation, as functions of its items.

Names and definitions, with their sources. Everything goes through the router: a query that is
sent the wrong way counts as answered.

edit/acc
    EasyEdit (`trainer/algs/SERAC.py`; its reliability): teacher-forced token accuracy of
    `target_new` on the edit prompts; mean over edits.
edit/exact_match
    Share of edit prompts whose whole generated answer is `target_new`.
generalization
    The same on the rephrasings; `generalization/token_acc` by token accuracy (EasyEdit).
ES
    Edit success (Mitchell et al. 2022): exact match in scope, prompts and rephrasings.
    `ES/routed_right` counts those routed to their own edit alone, so what it lacks is the
    counterfactual model's fault, and what `routing/true_route` lacks the classifier's.
locality/KIND
    Share of out-of-scope queries of a kind whose generated answer is the base model's.
answers_changed
    Share of all out-of-scope queries whose generated answer is not the base model's, with the
    exact one-sided 95 % bound as `answers_changed/upper95`.
DD
    Drawdown (Mitchell et al. 2022): share of out-of-scope probes on which the argmax of any
    token of the true answer is not the base model's (teacher-forced, as in the original code).
acc/pre, acc/post
    EasyEdit: token accuracy on the true answers of out-of-scope probes, of base and edited
    model; with logits shifted by one, which EasyEdit leaves out for causal models.
mcnemar/p
    Exact McNemar test of base against edited model, on out-of-scope probes answered right in
    every token.
yes_no/FORM/yes, yes_no/FORM/no
    Share of yes/no questions on an edit, by their right answer, that are answered right: `own` of
    the record, `paraphrased` and `negated` in frames kept from training.
portability
    Share of queries that an edit implies whose whole answer is right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serac_core.edits.yes_no import NO, YES
from serac_core.evaluation.items import IN_SCOPE, OUT_OF_SCOPE, Item
from serac_core.statistics import (
    mcnemar_exact,
    mean_interval,
    upper_bound_95,
    wilson_interval,
)

_SLICES: dict[str, Callable[[Item], bool]] = {
    "held_out_relations": lambda item: item.question.held_out_relation,
    "multi_word_targets": lambda item: item.question.several_words,
    "targets_absent_from_training": lambda item: not item.question.target_in_training,
}


@dataclass(frozen=True)
class FoldScores:
    """Teacher-forced token accuracies on a fold of edits, through the router.

    Attributes
    ----------
    edit:
        One value an edit prompt (`edit/acc_train`).
    pre, post:
        One value an out-of-scope probe with a ground truth, by base and edited model.
    """

    edit: tuple[float, ...]
    pre: tuple[float, ...]
    post: tuple[float, ...]


def token_accuracy(predicted_ids: Sequence[int], target_ids: Sequence[int]) -> float:
    """Share of target tokens that the argmax gets right; both aligned on the same positions.

    Raises
    ------
    ValueError
        Lengths differ (predictions not aligned with their targets) or there are no tokens.
    """
    if len(predicted_ids) != len(target_ids) or not target_ids:
        raise ValueError(f"{len(predicted_ids)} predictions for {len(target_ids)} target tokens")
    hits = sum(p == t for p, t in zip(predicted_ids, target_ids, strict=True))
    return hits / len(target_ids)


def compute_metrics(
    items: Sequence[Item], folds: Mapping[str, FoldScores] | None = None
) -> dict[str, Any]:
    """All metrics of an evaluation, flat, with `intervals` beside them.

    Parameters
    ----------
    items:
        The scored items of one part.
    folds:
        Token accuracies of other folds by name: `train` gives `edit/acc_train`,
        `acc/pre_train` and `acc/post_train`.

    Returns
    -------
    dict
        Key to value; `intervals` maps each share to `{low, high, n}` (95 %, two-sided).
        A metric that no item speaks of is absent.
    """
    table = _Table()
    by_group: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_group[item.question.group].append(item)
    edits, rephrasings = by_group["edit"], by_group["rephrase"]
    in_scope = [item for group in IN_SCOPE for item in by_group[group]]
    outside = [item for group in OUT_OF_SCOPE for item in by_group[group]]

    table.mean("edit/acc", _present(item.token_accuracy for item in edits))
    table.share("edit/exact_match", [item.correct for item in edits])
    table.share("generalization", [item.correct for item in rephrasings])
    table.mean("generalization/token_acc", _present(item.token_accuracy for item in rephrasings))
    table.share("ES", [item.correct for item in in_scope])
    routed_right = [i for i in in_scope if i.edit_id == i.question.expected_edit_id]
    table.share("ES/routed_right", [item.correct for item in routed_right])
    for name, belongs in _SLICES.items():
        table.share(f"edit/exact_match/{name}", [item.correct for item in edits if belongs(item)])
        table.share(f"generalization/{name}", [i.correct for i in rephrasings if belongs(i)])
    for group in OUT_OF_SCOPE:
        table.share(f"locality/{group}", [item.correct for item in by_group[group]])
    _stability(table, outside)
    for form in ("own", "paraphrased", "negated"):
        for reply in (YES, NO):
            of_form = [
                item
                for item in by_group["yes_no"]
                if (item.question.form, item.question.target) == (form, reply)
            ]
            table.share(f"yes_no/{form}/{reply.lower()}", [item.correct for item in of_form])
    table.share("portability", [item.correct for item in by_group["portability"]])
    table.share(
        "routing/true_route",
        [item.edit_id == item.question.expected_edit_id for item in in_scope],
    )
    for group in OUT_OF_SCOPE:
        table.share(f"routing/false_route/{group}", [item.in_scope for item in by_group[group]])
    for fold, scores in (folds or {}).items():
        table.mean(f"edit/acc_{fold}", scores.edit)
        table.mean(f"acc/pre_{fold}", scores.pre)
        table.mean(f"acc/post_{fold}", scores.post)
    return table.metrics()


def _stability(table: _Table, outside: Sequence[Item]) -> None:
    changed = [not item.correct for item in outside]
    table.share("answers_changed", changed)
    if outside:
        table.value("answers_changed/upper95", upper_bound_95(sum(changed), len(changed)))
    routed_out = [not item.correct for item in outside if not item.in_scope]
    table.share("routed_out/answers_changed", routed_out)
    table.share("DD", [item.argmax_changed for item in outside if item.argmax_changed is not None])
    table.mean("acc/pre", _present(item.pre_accuracy for item in outside))
    table.mean("acc/post", _present(item.post_accuracy for item in outside))
    pairs = [(item.pre_exact, item.post_exact) for item in outside if item.pre_exact is not None]
    if pairs:
        lost = sum(bool(pre) and not post for pre, post in pairs)
        gained = sum(not pre and bool(post) for pre, post in pairs)
        table.value("mcnemar/p", mcnemar_exact(lost, gained))
        table.value("mcnemar/lost", lost)
        table.value("mcnemar/gained", gained)
        table.value("mcnemar/n", len(pairs))


def relation_table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a relation, by name: counts, exact match, generalization, locality.

    Parameters
    ----------
    rows:
        Items as :meth:`Item.row` gives them. Those without a relation are left out.

    Returns
    -------
    list of dict
        A share that no item speaks of is None.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["relation"]:
            groups[row["relation"]].append(row)
    table = []
    for relation, members in sorted(groups.items()):
        edits = [row["correct"] for row in members if row["group"] == "edit"]
        rephrasings = [row["correct"] for row in members if row["group"] == "rephrase"]
        outside = [row["correct"] for row in members if row["group"] in OUT_OF_SCOPE]
        table.append(
            {
                "relation": relation,
                "held_out": any(row["held_out_relation"] for row in members),
                "edits": len(edits),
                "exact_match": _ratio(edits),
                "rephrasings": len(rephrasings),
                "generalization": _ratio(rephrasings),
                "out_of_scope": len(outside),
                "locality": _ratio(outside),
            }
        )
    return table


class _Table:
    """Collects values and their intervals."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._intervals: dict[str, dict[str, float]] = {}

    def value(self, name: str, value: float) -> None:
        self._values[name] = round(value, 6)

    def share(self, name: str, hits: Sequence[bool]) -> None:
        if hits:
            self._add(name, sum(hits) / len(hits), wilson_interval(sum(hits), len(hits)), len(hits))

    def mean(self, name: str, values: Sequence[float]) -> None:
        if values:
            mean = math.fsum(values) / len(values)
            self._add(name, mean, mean_interval(list(values)), len(values))

    def _add(self, name: str, value: float, interval: tuple[float, float], n: int) -> None:
        self._values[name] = round(value, 6)
        self._intervals[name] = {
            "low": round(interval[0], 6),
            "high": round(interval[1], 6),
            "n": n,
        }

    def metrics(self) -> dict[str, Any]:
        return {**self._values, "intervals": self._intervals}


def _ratio(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 6) if hits else None


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
