"""Why a query goes where it goes: the edits that came into question, and the reason in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serac_core.scope.longer_names import names_longer
from serac_core.scope.router import Candidate, Decision, Router


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what it rests on.

    Attributes
    ----------
    candidates:
        The edits that came into question, best first.
    margin:
        Score less threshold: in scope from 0 on.
    """

    decision: Decision
    candidates: tuple[Candidate, ...]
    margin: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.decision.as_dict(),
            "margin": self.margin,
            "reason": self.reason,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


def explain(router: Router, query: str, k: int = 5) -> Explanation:
    """The router's decision on a query, with the `k` best candidates and the reason."""
    (candidates,) = router.candidates([query], k)
    decision = router.decide(query, candidates)
    margin = decision.score - decision.threshold
    reason = _reason(router, decision, candidates, margin)
    return Explanation(decision, tuple(candidates[:k]), margin, reason)


def _reason(
    router: Router, decision: Decision, candidates: Sequence[Candidate], margin: float
) -> str:
    if not len(router.memory):
        return "out of scope: the memory is empty"
    if not decision.query.strip():
        return "out of scope: the query is empty"
    if not candidates:
        return "out of scope: the query names no subject of a stored edit"
    best = candidates[0]
    verdict = "in scope of" if decision.in_scope else "out of scope; nearest is"
    found = f"{verdict} {best.edit_id} ({best.prompt!r}): "
    if router.memory.has_subject(best.place):
        found += (
            f"the query names its subject, and what it says about it ({best.compared!r}) is "
            f"{best.closeness:.3f} close to the edit, {best.relation_closeness:.3f} to known "
            f"wordings of what the edit asks, {best.competition:.3f} to those of anything else"
        )
    else:
        found += (
            f"the edit is kept by its whole text, and the query is {best.closeness:.3f} close to it"
        )
    if best.logit is not None:
        found += (
            f"; the encoder's score {best.first_score:.4f} leaves doubt, and the verifier, which "
            f"reads both together, gives logit {best.logit:+.2f}"
        )
        if names_longer(router.said_by(best.place), best.compared):
            found += "; the name seems to be part of a longer one"
    if decision.borderline and router.abstention is not None:
        found += f"; borderline, so the policy decides: {router.abstention.policy}"
    return (
        f"{found}; score {decision.score:.4f}, threshold {decision.threshold:.4f}, "
        f"margin {margin:+.4f}"
    )
