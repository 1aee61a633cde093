"""The router: to which edit, if any, a query goes, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serac_core.scope.calibration_file import Abstention, Thresholds, read_calibration
from serac_core.scope.cohort import NONE_KNOWN
from serac_core.scope.encoder import Encoder, encodable
from serac_core.scope.framed import bare_readings
from serac_core.scope.longer_names import names_longer
from serac_core.scope.memory import EditMemory, ForeignMemory
from serac_core.scope.scale import SAME_TEXT, Scale, Verification, unfitted_score
from serac_core.scope.session import OnnxEncoder, UnusableEncoder
from serac_core.scope.subject import SubjectIndex, mentions_by_subject, said_about

NO_MATCH = -1.0
"""The score of a query that names no subject of any edit."""
WHOLE_TEXT_THRESHOLD = 0.9
"""Cosine from which whole texts count as the same, where no calibration says otherwise."""
WHOLE_TEXT_STEEPNESS = 20.0
"""What a cosine of whole texts above its threshold, 1 by 1, adds to the logit of a score."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a query goes.

    Attributes
    ----------
    edit_id:
        The edit whose scope it falls under; None out of scope.
    nearest_edit_id:
        The edit with the highest score, in scope or not; None if no edit came into question.
    borderline:
        Whether the score is so near to the threshold that the abstention policy decided.
    """

    query: str
    in_scope: bool
    edit_id: str | None
    score: float
    threshold: float
    nearest_edit_id: str | None
    borderline: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that came into question for a query.

    Attributes
    ----------
    compared:
        The query as it was compared: with the subject masked, or whole.
    closeness:
        Cosine to the edit.
    relation_closeness:
        Mean cosine to the two nearest phrasings of the edit's relation; -1 where whole texts are
        compared.
    competition:
        The same to the nearest other relation; 0 where whole texts are compared.
    known:
        The same of the edit to its relation; -1 where whole texts are compared.
    overlap, wide_overlap:
        How alike query and edit are in which relations they are near to, from 0 to 1; 0 where
        whole texts are compared.
    first_score, logit:
        The score before the verifier was asked, and its answer; None where it wasn't.
    """

    edit_id: str
    prompt: str
    score: float
    compared: str
    closeness: float
    relation_closeness: float
    competition: float
    known: float
    overlap: float
    wide_overlap: float
    place: int
    first_score: float | None = None
    logit: float | None = None

    @property
    def closenesses(self) -> tuple[float, ...]:
        """As :class:`serac_core.scope.scale.Scale` takes them."""
        return (
            self.closeness,
            self.relation_closeness,
            self.competition,
            self.known,
            self.overlap,
            self.wide_overlap,
        )


class Router:
    """Decides by names and meaning: an edit comes into question when the query names its
    subject, and applies when what is said about it is the same (score >= threshold).

    Edits without a subject are compared by the cosine of whole texts, put on the scale of the
    other scores so that `whole_text_threshold` falls on the threshold, which holds for all. They
    come after an edit whose subject the query names and that applies, unless the query is the
    prompt of one of them: so most queries cost one encoder pass.

    Parameters
    ----------
    encoder:
        Of the same digest as the memory's.
    threshold:
        Least score in scope.
    whole_text_threshold:
        Least cosine in scope for edits without a subject.
    scale:
        Makes scores probabilities; without one they are differences of cosines.
    verification:
        Which scores the encoder's verifier is asked about; None: none.
    abstention:
        What becomes of scores near the threshold; None: it alone decides.

    Raises
    ------
    ForeignMemory, UnusableEncoder
        `verification` needs a verifier and the encoder has none.
    """

    def __init__(
        self,
        encoder: Encoder,
        memory: EditMemory,
        threshold: float,
        whole_text_threshold: float = WHOLE_TEXT_THRESHOLD,
        scale: Scale | None = None,
        verification: Verification | None = None,
        abstention: Abstention | None = None,
    ) -> None:
        if memory.encoder_digest != encoder.digest:
            raise ForeignMemory(
                f"the memory was made by encoder {memory.encoder_digest[:12]}, not by "
                f"{encoder.digest[:12]}",
                remedy="build it with this encoder: `serac memory build`",
            )
        self.encoder = encoder
        self.memory = memory
        self.threshold = threshold
        self.scale = scale
        self.verification = verification
        self.abstention = abstention
        if verification is not None and encoder.verifier is None:
            raise UnusableEncoder(
                f"the calibration asks a verifier, the {encoder.variant} encoder has none",
                remedy="export and calibrate again: `serac export`, `serac calibrate`",
            )
        self._whole_text_threshold = whole_text_threshold
        self._scorer = encoder.scorer

    @classmethod
    def load(
        cls,
        release: str | Path,
        variant: str = "fp32",
        provider: str = "cpu",
        threads: int | None = None,
    ) -> Router:
        """The router of a release directory.

        Raises
        ------
        UnknownVariant, ProviderUnavailable, UnusableEncoder, UnreadableCohort,
        UnreadableCalibration, DamagedMemory, ForeignMemory
        """
        release = Path(release)
        encoder = OnnxEncoder.load(release / "scope", variant, provider, threads)
        thresholds = read_calibration(release / "scope" / "calibration.json", variant)
        memory = EditMemory.load(release / "memory", encoder.digest)
        return cls.calibrated(encoder, memory, thresholds)

    @classmethod
    def calibrated(cls, encoder: Encoder, memory: EditMemory, found: Thresholds) -> Router:
        """The router that a calibration gives."""
        return cls(
            encoder,
            memory,
            found.threshold,
            found.whole_text_threshold,
            found.scale,
            found.verification,
            found.abstention,
        )

    def over(self, memory: EditMemory) -> Router:
        """This router over another memory by the same encoder."""
        return Router(
            self.encoder,
            memory,
            self.threshold,
            self._whole_text_threshold,
            self.scale,
            self.verification,
            self.abstention,
        )

    def route(self, queries: Sequence[str]) -> list[Decision]:
        """Decide on each query; one encoder call for all, one of the verifier for those in doubt,
        and a second of the encoder for those that no edit about a subject they name settles, where
        edits without a subject are stored.

        Out of scope with score -1: an empty or blank query, one that names no subject (while
        every edit has one), everything while the memory is empty. Lone surrogates are read as
        `?`, NUL as a space; the first 16,384 characters and 128 tokens of a text count.
        """
        return [
            self.decide(query, candidates)
            for query, candidates in zip(queries, self._candidates(queries), strict=True)
        ]

    def candidates(self, queries: Sequence[str], k: int = 1) -> list[list[Candidate]]:
        """The edits that come into question for each query, in the order in which they are
        preferred: best first, ties newest first.

        All edits about a subject that the query names, and of those compared by their whole
        text the `k` best, also where :meth:`route` doesn't need them.
        """
        return self._candidates(queries, k, everything=True)

    def _candidates(
        self, queries: Sequence[str], k: int = 1, *, everything: bool = False
    ) -> list[list[Candidate]]:
        asked = [encodable(query) for query in queries]
        candidates = [_best_each(found) for found in self._verified(self._about_subjects(asked))]
        settled = [
            bool(len(self.memory.whole_texts))
            and any(candidate.score >= self.threshold for candidate in of_query)
            and not self.memory.is_whole_prompt(text)
            for text, of_query in zip(asked, candidates, strict=True)
        ]
        if len(self.memory.whole_texts):
            open_texts = {
                text
                for text, is_settled in zip(asked, settled, strict=True)
                if text.strip() and (everything or not is_settled)
            }
            whole = self._whole_texts(sorted(open_texts), k)
            for text, of_query in zip(asked, candidates, strict=True):
                of_query += whole.get(text, [])
        for is_settled, of_query in zip(settled, candidates, strict=True):
            of_query.sort(
                key=lambda found: (
                    is_settled and not self.memory.has_subject(found.place),
                    -found.score,
                    -found.place,
                )
            )
        return candidates

    def _about_subjects(self, asked: Sequence[str]) -> list[list[Candidate]]:
        """Of each text, the edits about the subjects that it names; of a yes/no question in a
        frame, once for each reading."""
        found = [mentions_by_subject(self.memory.subjects.find(text)) for text in asked]
        said = [
            [
                (subject, reading)
                for subject, named in mentions.items()
                for reading in _readings(said_about(text, named))
            ]
            for text, mentions in zip(asked, found, strict=True)
        ]
        row = {text: n for n, text in enumerate(sorted({text for of in said for _, text in of}))}
        if not row:
            return [[] for _ in asked]
        vectors_TD = self.encoder.encode(list(row))
        closeness_TR = self._scorer.relation_closeness(vectors_TD)
        return [
            [
                candidate
                for subject, text in of_query
                for candidate in self._about(
                    subject, text, vectors_TD[row[text]], closeness_TR[row[text]]
                )
            ]
            for of_query in said
        ]

    def _verified(self, candidates: list[list[Candidate]]) -> list[list[Candidate]]:
        """The candidates, those in doubt scored by the verifier too."""
        verification, verifier = self.verification, self.encoder.verifier
        found = [candidate for of_query in candidates for candidate in of_query]
        if verification is None or verifier is None or not found:
            return candidates
        score_N = np.array([candidate.score for candidate in found], dtype=np.float32)
        doubtful = [
            found[place]
            for place in np.flatnonzero(verification.asks(score_N))
            if found[place].closeness < SAME_TEXT
        ]
        if not doubtful:
            return candidates
        pairs = [(self.said_by(candidate.place), candidate.compared) for candidate in doubtful]
        distinct = list(dict.fromkeys(pairs))
        logits = dict(zip(distinct, verifier.logits(distinct).tolist(), strict=True))
        logit_M = np.array([logits[pair] for pair in pairs], dtype=np.float32)
        before_M = np.array([candidate.score for candidate in doubtful], dtype=np.float32)
        longer_M = np.array([names_longer(*pair) for pair in pairs], dtype=bool)
        verified = {
            id(candidate): replace(candidate, score=score, first_score=first, logit=logit)
            for candidate, score, first, logit in zip(
                doubtful,
                verification.score(logit_M, before_M, longer_M).tolist(),
                before_M.tolist(),
                logit_M.tolist(),
                strict=True,
            )
        }
        return [[verified.get(id(one), one) for one in of_query] for of_query in candidates]

    def said_by(self, place: int) -> str:
        """What the prompt of the edit at a place says of its subject."""
        entry = self.memory.entry(place)
        mentions = SubjectIndex([entry.subject]).find(entry.prompt)
        return said_about(entry.prompt, mentions) if mentions else entry.prompt

    def _whole_texts(self, texts: Sequence[str], k: int) -> dict[str, list[Candidate]]:
        """Of each text, the nearest of the edits that are compared by their whole text."""
        if not texts:
            return {}
        vectors_TD = self.encoder.encode(texts)
        return {
            text: self._whole(text, query_D, k)
            for text, query_D in zip(texts, vectors_TD, strict=True)
        }

    def _about(
        self, subject: tuple[str, ...], said: str, query_D: Any, closeness_R: Any
    ) -> list[Candidate]:
        """The edits about a subject, scored by what the query says about it."""
        places = self.memory.about(subject)
        keys_ND, known, key_of_place = self.memory.keys_of(places)
        closeness_NF = self._scorer.compare(query_D, closeness_R, keys_ND, known)
        scores_N = self.scale.score(closeness_NF) if self.scale else unfitted_score(closeness_NF)
        score_N, of_N = scores_N.tolist(), closeness_NF.tolist()
        return [
            self._candidate(place, said, score_N[key], of_N[key])
            for place, key in zip(places, key_of_place.tolist(), strict=True)
        ]

    def _whole(self, text: str, query_D: Any, k: int) -> list[Candidate]:
        """The nearest of the edits that are compared by their whole text."""
        places_1W, cosines_1W = self.memory.search(query_D[None], k, self.memory.whole_texts)
        return [
            self._candidate(
                place, text, self._whole_score(cosine), (cosine, NONE_KNOWN, 0.0, NONE_KNOWN, 0, 0)
            )
            for place, cosine in zip(places_1W[0].tolist(), cosines_1W[0].tolist(), strict=True)
        ]

    def _whole_score(self, cosine: float) -> float:
        above = cosine - self._whole_text_threshold
        if self.scale is None:
            return max(-1.0, min(1.0, self.threshold + above))
        odds = self.threshold / max(1e-6, 1 - self.threshold)
        return 1 / (1 + math.exp(-WHOLE_TEXT_STEEPNESS * above) / max(1e-6, odds))

    def _candidate(
        self, place: int, compared: str, score: float, closenesses: Sequence[float]
    ) -> Candidate:
        entry = self.memory.entry(place)
        edit, relation, other, known, overlap, wide = closenesses
        return Candidate(
            entry.id,
            entry.prompt,
            score,
            compared,
            edit,
            relation,
            other,
            known,
            overlap,
            wide,
            place,
        )

    def decide(self, query: str, candidates: Sequence[Candidate]) -> Decision:
        """The decision that a query's candidates give, the best of them first."""
        if not candidates:
            return Decision(query, False, None, NO_MATCH, self.threshold, None)
        best = candidates[0]
        in_scope, borderline = best.score >= self.threshold, False
        if self.abstention is not None and best.closeness < SAME_TEXT:
            borderline = abs(best.score - self.threshold) < self.abstention.margin
            if borderline:
                in_scope = self.abstention.policy == "edit"
        return Decision(
            query,
            in_scope,
            best.edit_id if in_scope else None,
            best.score,
            self.threshold,
            best.edit_id,
            borderline,
        )


def _readings(said: str) -> tuple[str, ...]:
    return (said, *bare_readings(said))


def _best_each(candidates: list[Candidate]) -> list[Candidate]:
    """Each edit once, by the reading of the query that it scores best by."""
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        known = best.get(candidate.place)
        if known is None or candidate.score > known.score:
            best[candidate.place] = candidate
    return list(best.values())


def decision_line(decision: Decision) -> str:
    """One line of JSON; characters that are no text are escaped."""
    return json.dumps(decision.as_dict(), ensure_ascii=True)
