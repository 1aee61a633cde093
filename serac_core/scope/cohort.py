"""The cohort: ways to ask for many relations, against which a match is weighed.

How close a query is to an edit says little by itself: short questions about one subject are all
alike. So, as in the verification of speakers, it is compared with a cohort: the masked phrasings of
the training set, each with its relation. Of a query q and an edit's key k, both with the subject
masked, four closenesses are given, all cosines; r is the relation whose phrasings are nearest to k:

- of q to k;
- of q to the nearest phrasing of r;
- of q to the nearest phrasing of any other relation;
- of k to the nearest phrasing of r: how well the cohort knows what k asks.

Which score they give is the matter of :mod:`serac_core.scope.scale`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
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
NONE_KNOWN = -1.0
"""Stands for closeness to a relation where the cohort is empty."""


class UnreadableCohort(SeracError):
    """`cohort.json` is missing or breaks its format."""


@dataclass(frozen=True)
class Cohort:
    """Masked texts and the relation of each."""

    texts: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()

    @classmethod
    def from_edits(cls, edits: Iterable[Edit]) -> Cohort:
        """Every prompt and rephrasing that names its edit's subject, masked, once.

        An edit's relation is its extra field `relation`; edits without one are left out. The
        texts stand by relation.
        """
        found: dict[str, tuple[str, str]] = {}
        for edit in edits:
            relation = relation_of(edit)
            if relation is None:
                continue
            for text in (edit.prompt, *edit.rephrase_prompts):
                said = mask_subject(text, edit.subject)
                if said is not None:
                    found.setdefault(normalize_text(said), (relation, said))
        rows = sorted(found.values())
        return cls(tuple(said for _, said in rows), tuple(relation for relation, _ in rows))

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
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnreadableCohort(
                f"{path}: not a cohort: {error!r}", remedy="run `serac train scope` again"
            ) from error

    def save(self, folder: Path) -> None:
        rows = [
            {"text": text, "relation": relation}
            for text, relation in zip(self.texts, self.relations, strict=True)
        ]
        content = json.dumps(rows, ensure_ascii=False, indent=0) + "\n"
        (folder / COHORT_FILE).write_text(content, encoding="utf-8")

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
        return Cohort(
            tuple(self.texts[place] for place in kept),
            tuple(self.relations[place] for place in kept),
        )


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
        found_NF[:, 1] = closeness_R[relation_N]
        nearest = int(closeness_R.argmax())
        others_R = np.delete(closeness_R, nearest)
        second = others_R.max() if len(others_R) else np.float32(0)
        other_N = np.where(relation_N == nearest, second, closeness_R[nearest])
        found_NF[:, 2] = np.maximum(other_N, 0)
        return found_NF


def relation_of(edit: Edit) -> str | None:
    """The edit's relation, where its record names one."""
    relation = (edit.model_extra or {}).get("relation")
    return relation if isinstance(relation, str) and relation else None
