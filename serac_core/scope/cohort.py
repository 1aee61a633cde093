"""The cohort: ways to ask for many relations, against which a match is weighed.

How close a query is to an edit says little by itself: short questions about one subject are all
alike. So, as in the verification of speakers, it is compared with a cohort: the masked phrasings of
the training set, each with its relation. Of a query q and an edit's key k, both with the subject
masked, four closenesses are given, all cosines; r is the relation whose phrasings are nearest to k,
with those that ask the same of another type of subject (who owns a website, who owns a newspaper):

- of q to k;
- of q to the nearest phrasing of r;
- of q to the nearest phrasing of any other relation;
- of k to the nearest phrasing of r: how well the cohort knows what k asks.

Which score they give is the matter of :mod:`serac_core.scope.scale`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.edits.record import Edit, normalize_text
from serac_core.errors import SeracError
from serac_core.scope.scale import CLOSENESSES
from serac_core.scope.subject import mask_subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

COHORT_FILE = "cohort.json"
SAME_QUESTION = 0.6
"""Least mean closeness of two relations, of two types of subject, that ask the same."""
NONE_KNOWN = -1.0
"""Stands for closeness to a relation where the cohort is empty."""


class UnreadableCohort(SeracError):
    """`cohort.json` is missing or breaks its format."""


@dataclass(frozen=True)
class Cohort:
    """Masked texts, the relation of each and the type of subject it is about.

    Attributes
    ----------
    synonyms:
        Pairs of relations that ask the same of two types of subject.
    """

    texts: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    subject_types: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_edits(cls, edits: Iterable[Edit]) -> Cohort:
        """Every prompt and rephrasing that names its edit's subject, masked, once.

        An edit's relation is its extra field `relation`; edits without one are left out. The
        texts stand by relation.
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
                    found.setdefault(normalize_text(said), (relation, said, subject_type))
        return cls._of_rows(sorted(found.values()))

    @classmethod
    def _of_rows(
        cls, rows: Iterable[tuple[str, str, str]], synonyms: tuple[tuple[str, str], ...] = ()
    ) -> Cohort:
        rows = list(rows)
        if not rows:
            return cls()
        relations, texts, types = zip(*rows, strict=True)
        return cls(texts, relations, types, synonyms)

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
            data = json.loads(path.read_text(encoding="utf-8"))
            rows = (
                (str(row["relation"]), str(row["text"]), str(row["subject_type"]))
                for row in data["texts"]
            )
            return cls._of_rows(rows, tuple((str(a), str(b)) for a, b in data["synonyms"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnreadableCohort(
                f"{path}: not a cohort: {error!r}", remedy="run `serac train scope` again"
            ) from error

    def save(self, folder: Path) -> None:
        rows = [
            {"relation": relation, "text": text, "subject_type": subject_type}
            for relation, text, subject_type in self._rows()
        ]
        data = {"synonyms": self.synonyms, "texts": rows}
        content = json.dumps(data, ensure_ascii=False, indent=0) + "\n"
        (folder / COHORT_FILE).write_text(content, encoding="utf-8")

    def _rows(self) -> list[tuple[str, str, str]]:
        return list(zip(self.relations, self.texts, self.subject_types, strict=True))

    def with_synonyms(self, cohort_CD: Matrix) -> Cohort:
        """The cohort with the pairs of relations, of two types of subject, whose phrasings are
        near one another: each text's cosine to the nearest of the other relation, in the mean
        over both.

        Parameters
        ----------
        cohort_CD:
            The vectors of `texts`.
        """
        import numpy as np

        if not self.texts:
            return self
        scorer = CohortScorer(self, cohort_CD)
        names, relation_C = np.unique(self.relations, return_inverse=True)
        mean_RR = np.stack(
            [
                scorer.relation_closeness(cohort_CD[relation_C == number]).mean(axis=0)
                for number in range(len(names))
            ]
        )
        type_of = dict(zip(self.relations, self.subject_types, strict=True))
        type_R = np.array([type_of[name] for name in names.tolist()])
        alike_RR = (mean_RR + mean_RR.T) / 2 >= SAME_QUESTION
        alike_RR &= type_R[:, None] != type_R
        pairs = np.argwhere(np.triu(alike_RR)).tolist()
        return replace(self, synonyms=tuple((str(names[a]), str(names[b])) for a, b in pairs))

    def thinned(self, each: int) -> Cohort:
        """At most `each` texts of a relation, spread over those that there are."""
        places: dict[str, list[int]] = {}
        for place, relation in enumerate(self.relations):
            places.setdefault(relation, []).append(place)
        kept = sorted(
            place
            for of_relation in places.values()
            for place in of_relation[:: -(-len(of_relation) // each)]
        )
        rows = self._rows()
        return Cohort._of_rows((rows[place] for place in kept), self.synonyms)


class CohortScorer:
    """Compares queries with keys, and both with the cohort.

    Shapes: Q queries, N keys, C cohort texts, R relations, D dimensions, F = 4 closenesses; all
    vectors have length 1.
    """

    def __init__(self, cohort: Cohort, cohort_CD: Matrix) -> None:
        import numpy as np

        self._names, relation_C = np.unique(
            np.array(cohort.relations, dtype=object).astype(str), return_inverse=True
        )
        order_C = np.argsort(relation_C, kind="stable")
        self._starts_R = np.searchsorted(relation_C[order_C], np.arange(len(self._names)))
        self._cohort_CD = np.ascontiguousarray(cohort_CD[order_C])
        number = {name: place for place, name in enumerate(self._names.tolist())}
        self._family_R: list[list[int]] = [[place] for place in range(len(number))]
        for one, other in cohort.synonyms:
            if one in number and other in number:
                self._family_R[number[one]].append(number[other])
                self._family_R[number[other]].append(number[one])

    def relation_closeness(self, vectors_QD: Matrix) -> Matrix:
        """(Q, R): cosine of each vector to the nearest phrasing of each relation."""
        import numpy as np

        if not len(self._names):
            return np.empty((len(vectors_QD), 0), dtype=np.float32)
        found: Matrix = np.maximum.reduceat(vectors_QD @ self._cohort_CD.T, self._starts_R, axis=1)
        return found

    def relations_of(self, keys_ND: Matrix) -> tuple[NDArray[np.int64], Matrix]:
        """(N,) the relation nearest to each key, and (N,) how near; -1 and -1 without a cohort."""
        import numpy as np

        relation_N = np.full(len(keys_ND), -1, dtype=np.int64)
        closeness_N = np.full(len(keys_ND), NONE_KNOWN, dtype=np.float32)
        if len(self._names):
            for first in range(0, len(keys_ND), 512):
                closeness_BR = self.relation_closeness(keys_ND[first : first + 512])
                relation_N[first : first + 512] = closeness_BR.argmax(axis=1)
                closeness_N[first : first + 512] = closeness_BR.max(axis=1)
        return relation_N, closeness_N

    def name(self, relation: int) -> str | None:
        """The relation's name; None for -1."""
        return str(self._names[relation]) if relation >= 0 else None

    def compare(
        self,
        query_D: Matrix,
        closeness_R: Matrix,
        keys_ND: Matrix,
        relation_N: NDArray[Any],
        known_N: Matrix,
    ) -> Matrix:
        """(N, F) the four closenesses of one query and N keys.

        Parameters
        ----------
        closeness_R:
            The query's row of :meth:`relation_closeness`.
        relation_N, known_N:
            Of the keys, from :meth:`relations_of`.
        """
        import numpy as np

        found_NF = np.empty((len(keys_ND), CLOSENESSES), dtype=np.float32)
        found_NF[:, 0] = keys_ND @ query_D
        found_NF[:, 3] = known_N
        if not len(self._names):
            found_NF[:, 1:3] = NONE_KNOWN, 0
            return found_NF
        for relation in np.unique(relation_N).tolist():
            of_key_N = relation_N == relation
            family = self._family_R[relation]
            others_R = np.delete(closeness_R, family)
            found_NF[of_key_N, 1] = closeness_R[family].max()
            found_NF[of_key_N, 2] = max(float(others_R.max()) if len(others_R) else 0.0, 0.0)
        return found_NF


def relation_of(edit: Edit) -> str | None:
    """The edit's relation, where its record names one."""
    relation = (edit.model_extra or {}).get("relation")
    return relation if isinstance(relation, str) and relation else None
