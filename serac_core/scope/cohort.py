"""The cohort: ways to ask for many relations, against which a match is weighed.

How close a query is to an edit says little by itself: short questions about one subject are all
alike. So, as in the verification of speakers, a score is taken relative to a cohort: the masked
phrasings of the training set, each with its relation. For a query q and an edit's key k, both
with the subject masked,

    score = p - COMPETITION * n

where p is the cosine of q to k, or to the nearest phrasing of the relation that k belongs to,
if that is nearer, and n the cosine of q to the nearest phrasing of any other relation that things
of k's kind have: what may be asked of a country does not compete for a query about a landmark.
The kind is that of the relations nearest to k. Without a cohort n is 0 and the score the plain
cosine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.edits.record import Edit, normalize_text
from serac_core.errors import SeracError
from serac_core.scope.subject import mask_subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

COHORT_FILE = "cohort.json"
COMPETITION = 0.7
"""Weight of the nearest other relation in a score."""
SAME_RELATION = 0.8
"""Least cosine of a key to a phrasing of the cohort to count as of its relation."""


class UnreadableCohort(SeracError):
    """`cohort.json` is missing or breaks its format."""


@dataclass(frozen=True)
class Cohort:
    """Masked texts, the relation of each, and the type of subject each relation is about."""

    texts: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    subject_types: tuple[str, ...] = ()

    @classmethod
    def from_edits(cls, edits: Iterable[Edit]) -> Cohort:
        """Every prompt and rephrasing that names its edit's subject, masked, once.

        An edit's relation is its extra field `relation`; edits without one are left out. The
        type of its subject is `subject_type`.
        """
        found: dict[str, tuple[str, str, str]] = {}
        for edit in edits:
            relation = relation_of(edit)
            if relation is None:
                continue
            subject_type = str((edit.model_extra or {}).get("subject_type", ""))
            for text in (edit.prompt, *edit.rephrase_prompts):
                said = mask_subject(text, edit.subject)
                if said is not None:
                    found.setdefault(normalize_text(said), (said, relation, subject_type))
        columns = zip(*sorted(found.values()), strict=True)
        return cls(*columns) if found else cls()

    @classmethod
    def load(cls, folder: Path) -> Cohort:
        """Read `cohort.json` of a model or export folder; without the file, an empty cohort.

        Raises
        ------
        UnreadableCohort
        """
        path = folder / COHORT_FILE
        if not path.exists():
            return cls()
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                tuple(str(row["text"]) for row in rows),
                tuple(str(row["relation"]) for row in rows),
                tuple(str(row["subject_type"]) for row in rows),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnreadableCohort(
                f"{path}: not a cohort: {error!r}", remedy="run `serac train scope` again"
            ) from error

    def save(self, folder: Path) -> None:
        rows = [
            {"text": text, "relation": relation, "subject_type": subject_type}
            for text, relation, subject_type in zip(
                self.texts, self.relations, self.subject_types, strict=True
            )
        ]
        content = json.dumps(rows, ensure_ascii=False, indent=0) + "\n"
        (folder / COHORT_FILE).write_text(content, encoding="utf-8")


class CohortScorer:
    """Scores queries against keys relative to the cohort.

    Shapes: Q queries, N keys, C cohort texts, D dimensions; all vectors have length 1.
    """

    def __init__(self, cohort: Cohort, cohort_CD: Matrix) -> None:
        import numpy as np

        self._cohort_CD = cohort_CD
        type_of = dict(zip(cohort.relations, cohort.subject_types, strict=True))
        names = sorted(type_of)
        number = {name: place for place, name in enumerate(names)}
        self._names = names
        types = sorted(set(type_of.values()))
        self._type_R = np.array([types.index(type_of[name]) for name in names], dtype=np.int64)
        relation_C = np.array([number[name] for name in cohort.relations], dtype=np.int64)
        self._order_C = np.argsort(relation_C, kind="stable")
        self._starts_R = np.searchsorted(relation_C[self._order_C], np.arange(len(names)))

    def relation_closeness(self, vectors_QD: Matrix) -> Matrix:
        """(Q, R): cosine of each vector to the nearest phrasing of each relation."""
        import numpy as np

        if not self._names:
            return np.empty((len(vectors_QD), 0), dtype=np.float32)
        closeness_QC = vectors_QD @ self._cohort_CD[self._order_C].T
        found: Matrix = np.maximum.reduceat(closeness_QC, self._starts_R, axis=1)
        return found

    def relations_of(self, keys_ND: Matrix) -> NDArray[np.int64]:
        """(N, 2): of each key the relation that it belongs to, -1 for none of the cohort's, and
        the type of subject it is about: the one whose relations (the two nearest) are nearest."""
        import numpy as np

        if not self._names:
            return np.full((len(keys_ND), 2), -1, dtype=np.int64)
        closeness_NR = self.relation_closeness(keys_ND)
        nearest_N = closeness_NR.argmax(axis=1)
        near_N = closeness_NR[np.arange(len(keys_ND)), nearest_N] >= SAME_RELATION
        by_type = [
            np.sort(closeness_NR[:, self._type_R == number], axis=1)[:, -2:].mean(axis=1)
            for number in range(int(self._type_R.max()) + 1)
        ]
        relation_N = np.where(near_N, nearest_N, -1)
        type_N = np.where(near_N, self._type_R[nearest_N], np.stack(by_type).argmax(axis=0))
        return np.stack([relation_N, type_N], axis=1)

    def name(self, relation: int) -> str | None:
        """The relation's name; None for -1."""
        return self._names[relation] if relation >= 0 else None

    def score(
        self, query_D: Matrix, closeness_R: Matrix, keys_ND: Matrix, relation_N2: NDArray[Any]
    ) -> tuple[Matrix, Matrix, Matrix]:
        """Scores of one query against N keys.

        Parameters
        ----------
        closeness_R:
            The query's row of :meth:`relation_closeness`.
        relation_N2:
            Of the keys, from :meth:`relations_of`.

        Returns
        -------
        (score_N, p_N, n_N)
            Score clipped to [-1, 1], closeness to the edit, closeness to another relation.
        """
        import numpy as np

        p_N = keys_ND @ query_D
        n_N = np.zeros_like(p_N)
        if self._names:
            relation_N, type_N = relation_N2[:, 0], relation_N2[:, 1]
            own_N = np.where(relation_N >= 0, closeness_R[relation_N], np.float32(-1))
            p_N = np.maximum(p_N, own_N)
            competes_NR = self._type_R == type_N[:, None]
            competes_NR &= np.arange(len(self._names)) != relation_N[:, None]
            n_N = np.where(competes_NR, closeness_R, np.float32(0)).max(axis=1)
        score_N = np.clip(p_N - np.float32(COMPETITION) * n_N, -1, 1).astype(np.float32)
        return score_N, p_N, n_N


def relation_of(edit: Edit) -> str | None:
    """The edit's relation, where its record names one."""
    relation = (edit.model_extra or {}).get("relation")
    return relation if isinstance(relation, str) and relation else None
