"""Edits' own probes put to a router: what scores come out in scope and out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from serac_core.edits.record import Edit, LocalityProbe
from serac_core.errors import SeracError
from serac_core.scope.encoder import Encoder, RememberingEncoder
from serac_core.scope.longer_names import longer_name, names_longer
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import NO_MATCH, Candidate, Router
from serac_core.scope.same_fact import Concerns, SameFact
from serac_core.scope.scale import (
    SAME_TEXT,
    Scale,
    Verification,
    band_of,
    fit_scale,
    fit_verification,
)
from serac_core.scope.subject import MASK, said_of
from serac_core.statistics import upper_bound_95

FAR_KINDS = ("traffic",)


class UnreadableTraffic(SeracError):
    """`traffic.jsonl` is missing or a line is no message."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A query with a known right route, and the score it got.

    Attributes
    ----------
    kind:
        `prompt`, `rephrase`, the kind of the locality probe, or `traffic`.
    expected:
        The edit it belongs to; None out of scope.
    """

    query: str
    kind: str
    expected: str | None
    nearest: str | None
    score: float

    def is_right(self, threshold: float) -> bool:
        """Routed to its own edit, or left alone, at this threshold."""
        if self.expected is None:
            return self.score < threshold
        return self.score >= threshold and self.nearest == self.expected


@dataclass(frozen=True)
class Outcome:
    """All probes of a set of edits."""

    probes: tuple[Probed, ...]

    @property
    def inside(self) -> list[Probed]:
        return [probe for probe in self.probes if probe.expected is not None]

    @property
    def outside(self) -> list[Probed]:
        return [probe for probe in self.probes if probe.expected is None]

    def true_route(self, threshold: float) -> float:
        """Share of in-scope queries routed to their own edit; 1 for none."""
        return _share([probe.is_right(threshold) for probe in self.inside])

    def false_route(self, threshold: float) -> float:
        """Share of out-of-scope queries routed in; 0 for none."""
        return 1.0 - _share([probe.is_right(threshold) for probe in self.outside])


def with_clear_probes(edits: Sequence[Edit]) -> list[Edit]:
    """The edits without the near misses that truly fall under one of them, by the rules of the
    benchmark (:mod:`serac_core.scope.same_fact`): the more edits, the more of them there are."""
    facts, concerns = SameFact(edits), Concerns(edits)

    def is_clear(probe: LocalityProbe) -> bool:
        if facts.edits_of(probe.prompt):
            return False
        return probe.kind != "same_subject" or concerns.reason(probe.prompt) is None

    return [
        edit.model_copy(update={"locality": tuple(filter(is_clear, edit.locality))})
        for edit in edits
    ]


class Probing:
    """The edits' prompts, rephrasings and locality probes, and traffic, put to a router whose
    memory the edits are; encoded once, scored as often as one likes.

    Parameters
    ----------
    whole_texts:
        Forget the subjects: whole texts are compared, and scores are cosines.
    asked_at_most:
        Put only so many of the edits' questions, drawn at random; the memory holds every edit, and
        all traffic is put.
    """

    def __init__(
        self,
        encoder: Encoder,
        edits: Sequence[Edit],
        traffic: Sequence[str] = (),
        *,
        whole_texts: bool = False,
        asked_at_most: int | None = None,
    ) -> None:
        if whole_texts:
            edits = [edit.model_copy(update={"subject": ""}) for edit in edits]
        self._encoder = encoder = RememberingEncoder(encoder)
        memory = EditMemory.build(edits, encoder, batch_size=64)
        self._router = router = Router(encoder, memory, 0.0, whole_text_threshold=0.0)
        asked: list[tuple[str, str, str | None]] = []
        for edit in edits:
            asked.append((edit.prompt, "prompt", edit.id))
            asked += [(query, "rephrase", edit.id) for query in edit.rephrase_prompts]
            asked += [(probe.prompt, probe.kind, None) for probe in edit.locality]
        if asked_at_most is not None and asked_at_most < len(asked):
            asked = Random(len(asked)).sample(asked, asked_at_most)
        asked += [(query, "traffic", None) for query in traffic]
        self._asked = asked
        self._edits = list(edits)
        self._by_subject = [memory.has_subject(place) for place in range(len(memory))]
        self._candidates = router.candidates([query for query, _, _ in asked])

    def fitted_scale(self) -> Scale | None:
        """The scale that tells these probes' own edits from the others that came into question.

        Rephrasings and near misses alone: a prompt is its edit word for word. Edits that are
        compared by their whole text have no part in it.
        """
        import numpy as np

        pairs = [
            (candidate.closenesses, candidate.edit_id == expected)
            for (_, kind, expected), candidates in zip(self._asked, self._candidates, strict=True)
            if kind != "prompt"
            for candidate in candidates
            if self._by_subject[candidate.place]
        ]
        if not pairs:
            return None
        closeness_NF = np.array([closenesses for closenesses, _ in pairs], dtype=np.float32)
        return fit_scale(closeness_NF, np.array([applies for _, applies in pairs]))

    def fitted_verification(self, scale: Scale, share: float) -> Verification | None:
        """Which scores are in doubt, and what the verifier's answers make of them; None without a
        verifier, or with too few pairs to tell.

        Beside the probes' own pairs it learns from rephrasings about longer names that hold the
        edit's: few probes have such, and a large memory meets many.

        Parameters
        ----------
        share:
            As :func:`serac_core.scope.scale.band_of` takes it.
        """
        import numpy as np

        if self._encoder.verifier is None:
            return None
        asked = [
            (candidate, candidate.edit_id == expected)
            for (_, kind, expected), candidates in zip(self._asked, self._candidates, strict=True)
            if kind != "prompt"
            for candidate in candidates
            if self._by_subject[candidate.place] and candidate.closeness < SAME_TEXT
        ]
        if not asked:
            return None
        of_probes = len(asked)
        asked += [(candidate, False) for candidate in self._longer_named()]
        closeness_NF = np.array([found.closenesses for found, _ in asked], dtype=np.float32)
        applies_N = np.array([applies for _, applies in asked])
        score_N = scale.score(closeness_NF)
        low, high = band_of(score_N[:of_probes], applies_N[:of_probes], share)
        doubtful_N = (score_N >= low) & (score_N <= high)
        places = np.flatnonzero(doubtful_N)
        logit_M, longer_M = self._verified([asked[place][0] for place in places])
        applies_M = applies_N[places]
        return fit_verification(logit_M, score_N[places], longer_M, applies_M, (low, high))

    def _longer_named(self) -> list[Candidate]:
        """The edits with rephrasings that name something longer in their subject's place."""
        rng = Random(len(self._edits))
        queries = []
        for edit in self._edits:
            one, two = (rng.choice(self._edits).subject or "" for _ in range(2))
            for text in edit.rephrase_prompts[:1]:
                said = said_of(text, edit.subject)
                if said is not None and one and two and edit.subject:
                    name = longer_name(edit.subject, one.split()[0], two.split()[-1], rng)
                    queries.append((edit.id, said.replace(MASK, name, 1)))
        found = self._router.candidates([query for _, query in queries])
        return [
            candidate
            for (edit_id, _), candidates in zip(queries, found, strict=True)
            for candidate in candidates
            if candidate.edit_id == edit_id and self._by_subject[candidate.place]
        ]

    def _verified(self, candidates: Sequence[Candidate]) -> tuple[Any, Any]:
        """(M,) the verifier's logits, and whether :func:`names_longer`."""
        import numpy as np

        pairs = [(self._router.said_by(found.place), found.compared) for found in candidates]
        longer_M = np.array([names_longer(*pair) for pair in pairs], dtype=bool)
        return self._encoder.logits(pairs), longer_M

    def outcome(
        self, scale: Scale | None = None, verification: Verification | None = None
    ) -> Outcome:
        """Every probe with the score of its best candidate; without a scale, and where whole
        texts are compared, as the router has it."""
        import numpy as np

        flat = [candidate for of_query in self._candidates for candidate in of_query]
        scores_N = np.array([candidate.score for candidate in flat], dtype=np.float32)
        by_subject_N = np.array(
            [self._by_subject[candidate.place] for candidate in flat], dtype=bool
        )
        if scale is not None and by_subject_N.any():
            rows = [c.closenesses for c, named in zip(flat, by_subject_N, strict=True) if named]
            scores_N[by_subject_N] = scale.score(np.array(rows, dtype=np.float32))
        if verification is not None:
            differs_N = np.array(
                [candidate.closeness < SAME_TEXT for candidate in flat], dtype=bool
            )
            places = np.flatnonzero(by_subject_N & differs_N & verification.asks(scores_N))
            if len(places):
                logit_M, longer_M = self._verified([flat[place] for place in places])
                scores_N[places] = verification.score(logit_M, scores_N[places], longer_M)
        scores = iter(scores_N.tolist())
        probes = []
        for (query, kind, expected), candidates in zip(self._asked, self._candidates, strict=True):
            best = max(
                ((next(scores), candidate) for candidate in candidates),
                key=lambda found: (found[0], found[1].place),
                default=None,
            )
            nearest, score = (best[1].edit_id, best[0]) if best else (None, NO_MATCH)
            probes.append(Probed(query, kind, expected, nearest, score))
        return Outcome(tuple(probes))


def balanced_threshold(
    outcome: Outcome,
    target_false_route: float | None = None,
    max_probes_routed: float = 1.0,
    growth: float = 1.0,
    misroute_cost: float = 2.0,
) -> float:
    """The threshold that suits the probes best.

    Of the midpoints between neighbouring scores it takes the one with the least
    `miss + misroute_cost * routed_in`: `miss` is the share of rephrasings not routed to their
    edit, `routed_in` the share of probes that are routed in (unrelated ones too: with many edits
    in memory they may name the subject of one). Equal ones form an interval, and its middle is
    taken. No more than `max_probes_routed` of the probes, and with a target no more than that share
    of traffic, may be routed in, whatever recall it costs.

    Parameters
    ----------
    growth:
        How many times as many edits the memory will hold: traffic names the subject of one as many
        times as often, and what it says of it is as far from the edit as before.
    """
    import numpy as np

    inside = [probe for probe in outcome.inside if probe.kind == "rephrase"] or outcome.inside
    near = [probe.score for probe in outcome.outside if probe.kind not in FAR_KINDS]
    far = [probe.score for probe in outcome.outside if probe.kind in FAR_KINDS]
    right = [probe.score for probe in inside if probe.nearest == probe.expected]
    levels = np.unique(np.array([*right, *near, *far], dtype=np.float64))
    levels = levels[levels > NO_MATCH]
    if not len(levels):
        return 0.5
    edges = np.concatenate([[levels[0] - 0.01], levels, [levels[-1] + 0.01]])
    middles = (edges[:-1] + edges[1:]) / 2
    miss = 1 - _share_at_least(right, middles) * len(right) / max(1, len(inside))
    routed_in = _share_at_least(near, middles)
    cost = np.where(routed_in <= max_probes_routed, miss + misroute_cost * routed_in, np.inf)
    if target_false_route is not None:
        is_kept = _share_at_least(far, middles) * growth <= target_false_route
        cost = np.where(is_kept, cost, np.inf)
    best = np.flatnonzero(cost <= cost.min() + 1e-12)
    last = best[0]
    while last + 1 in best:
        last += 1
    return float((edges[best[0]] + edges[last + 1]) / 2)


def traffic_routed_in(outcome: Outcome, threshold: float, growth: float) -> tuple[float, float]:
    """Share of traffic that will be routed in, and its upper bound.

    The share that names a stored subject grows with the memory, the share of those that is routed
    in does not; the bound is the product of their one-sided 95 % Clopper-Pearson bounds (so it
    holds at 90 %).

    Parameters
    ----------
    growth:
        As in :func:`balanced_threshold`.
    """
    far = [probe for probe in outcome.outside if probe.kind in FAR_KINDS]
    named = [probe for probe in far if probe.nearest is not None]
    wrong = sum(probe.score >= threshold for probe in named)
    if not far:
        return 0.0, 1.0
    share = min(1.0, growth * len(named) / len(far))
    bound = min(1.0, growth * upper_bound_95(len(named), len(far)))
    among = upper_bound_95(wrong, len(named)) if named else 1.0
    return share * wrong / max(1, len(named)), bound * among


def read_traffic(path: str | Path, fold: str) -> list[str]:
    """The messages of one fold of `traffic.jsonl` (`{"query", "fold"}` a line).

    Raises
    ------
    UnreadableTraffic
    """
    path = Path(path)
    queries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableTraffic(
            f"{path}: {error}", remedy="`serac edits training-set` writes it"
        ) from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if row["fold"] == fold:
                queries.append(str(row["query"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableTraffic(
                f"{path}: line {number} is no message: {error!r}",
                remedy='a line is {"query": ..., "fold": "train" | "calibrate" | "test"}',
            ) from error
    return queries


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 1.0


def _share_at_least(scores: Sequence[float], thresholds: Any) -> Any:
    """For each threshold the share of scores not below it."""
    import numpy as np

    ordered = np.sort(np.array(scores, dtype=np.float64))
    if not len(ordered):
        return np.zeros(len(thresholds))
    return 1 - np.searchsorted(ordered, thresholds, side="left") / len(ordered)
