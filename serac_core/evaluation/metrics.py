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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.yes_no import NO, YES
from serac_core.evaluation.item_columns import ABSENT, ItemColumns, as_columns
from serac_core.evaluation.items import IN_SCOPE, OUT_OF_SCOPE, Item
from serac_core.statistics import (
    mcnemar_exact,
    mean_interval,
    upper_bound_95,
    wilson_interval,
)

_SLICES: dict[str, Callable[[ItemColumns], NDArray[np.bool_]]] = {
    "held_out_relations": lambda items: items.held_out_relation_I,
    "multi_word_targets": lambda items: items.several_words_I,
    "targets_absent_from_training": lambda items: ~items.target_in_training_I,
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
    items: Sequence[Item] | ItemColumns, folds: Mapping[str, FoldScores] | None = None
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
    found = items if isinstance(items, ItemColumns) else ItemColumns.of_items(items)
    right_I = found.correct_I
    is_edit_I, is_rephrasing_I = found.group.are("edit"), found.group.are("rephrase")
    inside_I, outside_I = found.group.are(*IN_SCOPE), found.group.are(*OUT_OF_SCOPE)

    table.mean("edit/acc", _present(found.token_accuracy_I[is_edit_I]))
    table.share("edit/exact_match", right_I[is_edit_I])
    table.share("generalization", right_I[is_rephrasing_I])
    table.mean("generalization/token_acc", _present(found.token_accuracy_I[is_rephrasing_I]))
    table.share("ES", right_I[inside_I])
    table.share("ES/routed_right", right_I[inside_I & found.routed_right_I])
    for name, belongs in _SLICES.items():
        in_slice_I = belongs(found)
        table.share(f"edit/exact_match/{name}", right_I[is_edit_I & in_slice_I])
        table.share(f"generalization/{name}", right_I[is_rephrasing_I & in_slice_I])
    for group in OUT_OF_SCOPE:
        table.share(f"locality/{group}", right_I[found.group.are(group)])
    _stability(table, found, outside_I)
    for form in ("own", "paraphrased", "negated"):
        for reply in (YES, NO):
            of_form_I = found.group.are("yes_no") & found.yes_no.are(f"{form}/{reply}")
            table.share(f"yes_no/{form}/{reply.lower()}", right_I[of_form_I])
    table.share("portability", right_I[found.group.are("portability")])
    table.share("routing/true_route", found.routed_right_I[inside_I])
    for group in OUT_OF_SCOPE:
        table.share(f"routing/false_route/{group}", found.in_scope_I[found.group.are(group)])
    for fold, scores in (folds or {}).items():
        table.mean(f"edit/acc_{fold}", scores.edit)
        table.mean(f"acc/pre_{fold}", scores.pre)
        table.mean(f"acc/post_{fold}", scores.post)
    return table.metrics()


def _stability(table: _Table, found: ItemColumns, outside_I: NDArray[np.bool_]) -> None:
    changed_I = ~found.correct_I
    table.share("answers_changed", changed_I[outside_I])
    if total := int(np.count_nonzero(outside_I)):
        hits = int(np.count_nonzero(changed_I & outside_I))
        table.value("answers_changed/upper95", upper_bound_95(hits, total))
    table.share("routed_out/answers_changed", changed_I[outside_I & ~found.in_scope_I])
    compared_I = outside_I & (found.argmax_changed_I != ABSENT)
    table.share("DD", found.argmax_changed_I[compared_I] == 1)
    table.mean("acc/pre", _present(found.pre_accuracy_I[outside_I]))
    table.mean("acc/post", _present(found.post_accuracy_I[outside_I]))
    paired_I = outside_I & (found.pre_exact_I != ABSENT)
    if pairs := int(np.count_nonzero(paired_I)):
        pre_I, post_I = found.pre_exact_I == 1, found.post_exact_I == 1
        lost = int(np.count_nonzero(paired_I & pre_I & ~post_I))
        gained = int(np.count_nonzero(paired_I & ~pre_I & post_I))
        table.value("mcnemar/p", mcnemar_exact(lost, gained))
        table.value("mcnemar/lost", lost)
        table.value("mcnemar/gained", gained)
        table.value("mcnemar/n", pairs)


def relation_table(rows: Iterable[Mapping[str, Any]] | ItemColumns) -> list[dict[str, Any]]:
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
    found = as_columns(rows)
    count = len(found.relation.names)

    def counts(of_I: NDArray[np.bool_]) -> list[int]:
        of_relation: list[int] = np.bincount(found.relation.code_I[of_I], minlength=count).tolist()
        return of_relation

    groups = {
        name: (counts(of_I), counts(of_I & found.correct_I))
        for name, of_I in (
            ("edits", found.group.are("edit")),
            ("rephrasings", found.group.are("rephrase")),
            ("outside", found.group.are(*OUT_OF_SCOPE)),
        )
    }
    held_out = counts(found.held_out_relation_I)
    table = []
    for number, relation in sorted(enumerate(found.relation.names), key=lambda pair: pair[1]):
        if not relation:
            continue
        edits, rephrasings, outside = (
            (asked[number], right[number]) for asked, right in groups.values()
        )
        table.append(
            {
                "relation": relation,
                "held_out": held_out[number] > 0,
                "edits": edits[0],
                "exact_match": _ratio(*edits),
                "rephrasings": rephrasings[0],
                "generalization": _ratio(*rephrasings),
                "out_of_scope": outside[0],
                "locality": _ratio(*outside),
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

    def share(self, name: str, hits: NDArray[np.bool_]) -> None:
        if total := len(hits):
            right = int(np.count_nonzero(hits))
            self._add(name, right / total, wilson_interval(right, total), total)

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


def _ratio(total: int, right: int) -> float | None:
    return round(right / total, 6) if total else None


def _present(values: NDArray[np.float64]) -> list[float]:
    found: list[float] = values[~np.isnan(values)].tolist()
    return found
