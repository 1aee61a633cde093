"""Routing decisions of two encoders compared: exported variants, ONNX against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serac_core.evaluation.items import Item

if TYPE_CHECKING:
    from serac_core.scope.router import Decision

NEAR_THRESHOLD = 1e-4


@dataclass(frozen=True)
class Routed:
    """What one router did with one query."""

    in_scope: bool
    edit_id: str | None
    score: float | None

    @classmethod
    def of_item(cls, item: Item) -> Routed:
        return cls(item.in_scope, item.edit_id, item.score)

    @classmethod
    def of_decision(cls, decision: Decision) -> Routed:
        return cls(decision.in_scope, decision.edit_id, decision.score)

    def agrees(self, other: Routed) -> bool:
        """The same verdict, and the same edit where in scope."""
        return (self.in_scope, self.edit_id) == (other.in_scope, other.edit_id)

    def is_near(self, threshold: float, margin: float = NEAR_THRESHOLD) -> bool:
        return self.score is not None and abs(self.score - threshold) <= margin


def compare_routing(
    queries: Sequence[str],
    served: Sequence[Routed],
    others: Sequence[Routed],
    *,
    away_from: float | None = None,
    margin: float = NEAR_THRESHOLD,
) -> tuple[float, list[dict[str, Any]]]:
    """Share of decisions that agree, and those that don't.

    Parameters
    ----------
    away_from, margin:
        Leave out of the share (not out of the list) what the served encoder scores within
        `margin` of this threshold: there rounding decides.

    Returns
    -------
    (share, differing)
        1.0 for no decisions. A row of `differing` has query, both verdicts, edits and scores.
    """
    differing = [
        {
            "query": query,
            "in_scope": [one.in_scope, other.in_scope],
            "edit_id": [one.edit_id, other.edit_id],
            "score": [_rounded(one.score), _rounded(other.score)],
        }
        for query, one, other in zip(queries, served, others, strict=True)
        if not one.agrees(other)
    ]
    counted = [
        one.agrees(other)
        for one, other in zip(served, others, strict=True)
        if away_from is None or not one.is_near(away_from, margin)
    ]
    return (round(sum(counted) / len(counted), 6) if counted else 1.0), differing


def near_threshold(
    queries: Sequence[str], served: Sequence[Routed], threshold: float
) -> list[dict[str, Any]]:
    """The queries that score within 1e-4 of the threshold, where rounding decides."""
    return [
        {"query": query, "score": routed.score, "in_scope": routed.in_scope}
        for query, routed in zip(queries, served, strict=True)
        if routed.is_near(threshold)
    ]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)
