"""The cohort: ways to ask for many relations, against which a match is weighed.

How close a query is to an edit says little by itself: short questions about one subject are all
alike. So, as in the verification of speakers, it is compared with a cohort: the masked phrasings of
the training set, each with its relation. Of a query q and an edit's key k, both with the subject
masked, four closenesses are given, all cosines; r is the relation whose phrasings are nearest to k,
with those that ask the same of another type of subject (who owns a website, who owns a newspaper):

- of q to k;
- of q to the two nearest phrasings of r, in the mean: one alone may be an odd one;
- of q to the two nearest phrasings of any other relation;
- of k to the two nearest phrasings of r: how well the cohort knows what k asks.

Beside them, how alike q and k are in what they are near to: each is given shares of the relations,
a softmax over its closenesses, and the overlap of q's and k's is the sum of sqrt(share x share)
over the relations nearest to k (Bhattacharyya 1943); once with a low and once with a high
temperature. What no relation of the cohort asks still has neighbours there.

Which score they give is the matter of :mod:`serac_core.scope.scale`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.edits.record import Edit, normalize_text
from serac_core.errors import SeracError
from serac_core.scope.scale import CLOSENESSES
from serac_core.scope.subject import said_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

COHORT_FILE = "cohort.json"
COHORT_VECTORS = "cohort.npy"
SAME_QUESTION = 0.75
"""Least mean closeness of two relations, of two types of subject, that ask the same."""
NONE_KNOWN = -1.0
"""Stands for closeness to a relation where the cohort is empty."""
TEMPERATURES = (0.03, 0.12)
"""Of the softmax over closenesses whose overlap is taken."""
_NO_TEXT = -2.0  # fills up relations of fewer phrasings
_PROFILE = 64  # relations nearest to a key over which the overlap is summed
_LOOKED_AT = 128  # relations, nearest by their mean, all of whose phrasings a text is compared with
_ASKING = 8  # phrasings of a relation that look for synonyms
_AT_ONCE = 512  # texts that are compared with the cohort together


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
                said = said_of(text, edit.subject)
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

    def save(self, folder: Path, cohort_CD: Matrix | None = None) -> None:
        """Write `cohort.json` and, where they are given, the vectors of `texts` in float16, which
        moves a cosine by less than 0.001."""
        rows = [
            {"relation": relation, "text": text, "subject_type": subject_type}
            for relation, text, subject_type in self._rows()
        ]
        data = {"synonyms": self.synonyms, "texts": rows}
        content = json.dumps(data, ensure_ascii=False, indent=0) + "\n"
        (folder / COHORT_FILE).write_text(content, encoding="utf-8")
        if cohort_CD is not None:
            import numpy as np

            np.save(folder / COHORT_VECTORS, cohort_CD.astype(np.float16), allow_pickle=False)

    def _rows(self) -> list[tuple[str, str, str]]:
        return list(zip(self.relations, self.texts, self.subject_types, strict=True))

    def with_synonyms(self, cohort_CD: Matrix) -> Cohort:
        """The cohort with the pairs of relations, of two types of subject, whose phrasings are
        near one another: :meth:`CohortScorer.relation_closeness` of one's texts to the other, in
        the mean over some of both's.

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
        asking = self._spread(_ASKING)
        relation_A = relation_C[asking]
        order_A = np.argsort(relation_A, kind="stable")
        closeness_AR = scorer.relation_closeness(cohort_CD[asking][order_A])
        size_R = np.bincount(relation_A)
        starts_R = np.cumsum(size_R) - size_R
        mean_RR = np.add.reduceat(closeness_AR, starts_R, dtype=np.float64) / size_R[:, None]
        type_of = dict(zip(self.relations, self.subject_types, strict=True))
        type_R = np.array([type_of[name] for name in names.tolist()])
        alike_RR = (mean_RR + mean_RR.T) / 2 >= SAME_QUESTION
        alike_RR &= type_R[:, None] != type_R
        pairs = np.argwhere(np.triu(alike_RR)).tolist()
        return replace(self, synonyms=tuple((str(names[a]), str(names[b])) for a, b in pairs))

    def thinned(self, each: int) -> Cohort:
        """At most `each` texts of a relation, spread over those that there are."""
        rows = self._rows()
        return Cohort._of_rows((rows[place] for place in self._spread(each)), self.synonyms)

    def _spread(self, each: int) -> list[int]:
        """Places of at most `each` texts of a relation, spread over those that there are."""
        places: dict[str, list[int]] = {}
        for place, relation in enumerate(self.relations):
            places.setdefault(relation, []).append(place)
        return sorted(
            place
            for of_relation in places.values()
            for place in of_relation[:: -(-len(of_relation) // each)]
        )


@dataclass(frozen=True)
class KnownKeys:
    """What the cohort knows of N keys; M relations of each, T temperatures.

    Attributes
    ----------
    relation_N:
        The relation nearest to each; -1 without a cohort.
    closeness_N:
        How near it is; -1 without a cohort.
    nearest_NM:
        The relations nearest to each.
    root_share_TNM:
        Square roots of their shares.
    """

    relation_N: NDArray[np.int64]
    closeness_N: Matrix
    nearest_NM: NDArray[np.int64]
    root_share_TNM: Matrix

    def of(self, keys: NDArray[np.int64]) -> KnownKeys:
        """The same of some of the keys."""
        return KnownKeys(
            self.relation_N[keys],
            self.closeness_N[keys],
            self.nearest_NM[keys],
            self.root_share_TNM[:, keys],
        )


class CohortScorer:
    """Compares queries with keys, and both with the cohort.

    Shapes: Q queries, N keys, C cohort texts, R relations, D dimensions, F = 6 closenesses; all
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
        if len(self._names):
            self._size_R = np.diff(np.append(self._starts_R, len(order_C)))
            mean_RD = np.add.reduceat(self._cohort_CD, self._starts_R, axis=0)
            length_R1 = np.linalg.norm(mean_RD, axis=1, keepdims=True)
            self._mean_RD = mean_RD / np.maximum(length_R1, 1e-12)
        number = {name: place for place, name in enumerate(self._names.tolist())}
        self._family_R: list[list[int]] = [[place] for place in range(len(number))]
        for one, other in cohort.synonyms:
            if one in number and other in number:
                self._family_R[number[one]].append(number[other])
                self._family_R[number[other]].append(number[one])

    def relation_closeness(self, vectors_QD: Matrix) -> Matrix:
        """(Q, R): mean cosine of each vector to the two nearest phrasings of each of the 128
        relations that are nearest by the mean of their phrasings; to that mean for the others."""
        import numpy as np

        relations = len(self._names)
        if not relations:
            return np.empty((len(vectors_QD), 0), dtype=np.float32)
        looked_at = min(_LOOKED_AT, relations)
        if len(vectors_QD) * looked_at <= relations:
            return np.stack([self._closeness_of_one(query_D, looked_at) for query_D in vectors_QD])
        found_QR: Matrix = vectors_QD @ self._mean_RD.T
        for first in range(0, len(vectors_QD), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            near_BL = np.argpartition(-found_QR[part], looked_at - 1, axis=1)[:, :looked_at]
            cosine_BLP = self._cosines(vectors_QD[part], near_BL)
            np.put_along_axis(found_QR[part], near_BL, _mean_of_two(cosine_BLP), axis=1)
        return found_QR

    def _cosines(self, vectors_BD: Matrix, near_BL: NDArray[np.int64]) -> Matrix:
        """(B, L, P) the cosine of each vector to the phrasings of the relations near it; a product
        for each relation, with the vectors that it is near to: one with the whole cohort costs
        several times as much."""
        import numpy as np

        shape = (*near_BL.shape, max(2, self._size_R.max()))
        cosine_BLP = np.full(shape, _NO_TEXT, dtype=np.float32)
        order = np.argsort(near_BL, axis=None, kind="stable")
        rows, columns = np.divmod(order, near_BL.shape[1])
        relations, starts = np.unique(near_BL.ravel()[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for relation, start, end in zip(relations.tolist(), starts.tolist(), ends, strict=True):
            size, first = int(self._size_R[relation]), int(self._starts_R[relation])
            of, place = rows[start:end], columns[start:end]
            texts_PD = self._cohort_CD[first : first + size]
            cosine_BLP[of, place, :size] = vectors_BD[of] @ texts_PD.T
        return cosine_BLP

    def _closeness_of_one(self, query_D: Matrix, looked_at: int) -> Matrix:
        """(R,) without matrix products: BLAS's threads would wait for those of ONNX Runtime, which
        spin. Texts are read where they lie; gathering them takes longer than comparing them."""
        import numpy as np

        found_R: Matrix = np.vecdot(self._mean_RD, query_D)
        near_L = np.argpartition(found_R, len(found_R) - looked_at)[-looked_at:]
        size_L = self._size_R[near_L]
        ends_L = np.cumsum(size_L)
        cosine_X = np.empty(ends_L[-1], dtype=np.float32)
        places = zip(
            (ends_L - size_L).tolist(),
            self._starts_R[near_L].tolist(),
            size_L.tolist(),
            strict=True,
        )
        for place, start, size in places:
            texts_PD = self._cohort_CD[start : start + size]
            np.vecdot(texts_PD, query_D, out=cosine_X[place : place + size])
        found_R[near_L] = _mean_of_two_each(cosine_X, size_L)
        return found_R

    def known(self, keys_ND: Matrix) -> KnownKeys:
        """What the cohort knows of keys."""
        import numpy as np

        profile = min(_PROFILE, len(self._names))
        relation_N = np.full(len(keys_ND), -1, dtype=np.int64)
        closeness_N = np.full(len(keys_ND), NONE_KNOWN, dtype=np.float32)
        nearest_NM = np.empty((len(keys_ND), profile), dtype=np.int64)
        root_share_TNM = np.empty((len(TEMPERATURES), len(keys_ND), profile), dtype=np.float32)
        for first in range(0, len(keys_ND) if profile else 0, _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            closeness_BR = self.relation_closeness(keys_ND[part])
            relation_N[part] = closeness_BR.argmax(axis=1)
            closeness_N[part] = closeness_BR.max(axis=1)
            nearest_NM[part] = np.argpartition(-closeness_BR, profile - 1, axis=1)[:, :profile]
            for number, temperature in enumerate(TEMPERATURES):
                root_share_BR = _root_shares(closeness_BR, temperature)
                root_share_TNM[number, part] = np.take_along_axis(
                    root_share_BR, nearest_NM[part], axis=1
                )
        return KnownKeys(relation_N, closeness_N, nearest_NM, root_share_TNM)

    def compare(
        self, query_D: Matrix, closeness_R: Matrix, keys_ND: Matrix, known: KnownKeys
    ) -> Matrix:
        """(N, F) the closenesses of one query and N keys: four cosines and an overlap for each
        temperature.

        Parameters
        ----------
        closeness_R:
            The query's row of :meth:`relation_closeness`.
        known:
            Of the keys.
        """
        import numpy as np

        found_NF = np.empty((len(keys_ND), CLOSENESSES), dtype=np.float32)
        found_NF[:, 0] = np.einsum("nd,d->n", keys_ND, query_D)
        found_NF[:, 3] = known.closeness_N
        if not len(self._names):
            found_NF[:, 1:3] = NONE_KNOWN, 0
            found_NF[:, 4:] = 0
            return found_NF
        for relation in np.unique(known.relation_N).tolist():
            of_key_N = known.relation_N == relation
            family = self._family_R[relation]
            others_R = np.delete(closeness_R, family)
            found_NF[of_key_N, 1] = closeness_R[family].max()
            found_NF[of_key_N, 2] = max(float(others_R.max()) if len(others_R) else 0.0, 0.0)
        for number, temperature in enumerate(TEMPERATURES):
            root_share_R = _root_shares(closeness_R[None], temperature)[0]
            overlap_NM = root_share_R[known.nearest_NM] * known.root_share_TNM[number]
            found_NF[:, 4 + number] = overlap_NM.sum(axis=1)
        return found_NF


def _mean_of_two(cosine_P: Matrix) -> Matrix:
    """Mean of the two highest along the last axis; the highest where there is only one."""
    import numpy as np

    two_P = np.partition(cosine_P, -2, axis=-1)[..., -2:]
    highest, second = two_P[..., 1], two_P[..., 0]
    second = np.where(second == _NO_TEXT, highest, second)
    return np.asarray((highest + second) / 2, dtype=np.float32)


def _mean_of_two_each(cosine_X: Matrix, size_L: NDArray[np.int64]) -> Matrix:
    """(L,) :func:`_mean_of_two` of runs of `size_L` that follow each other."""
    import numpy as np

    starts_L = np.cumsum(size_L) - size_L
    highest_L = np.maximum.reduceat(cosine_X, starts_L)
    is_highest_X = cosine_X == np.repeat(highest_L, size_L)
    others_X = np.where(is_highest_X, np.float32(_NO_TEXT), cosine_X)
    second_L = np.maximum.reduceat(others_X, starts_L)
    alone_L = (second_L == _NO_TEXT) | (np.add.reduceat(is_highest_X, starts_L, dtype=int) > 1)
    return np.asarray((highest_L + np.where(alone_L, highest_L, second_L)) / 2, dtype=np.float32)


def _root_shares(closeness_QR: Matrix, temperature: float) -> Matrix:
    """Square roots of a softmax over relations."""
    import numpy as np

    highest_Q1 = closeness_QR.max(axis=1, keepdims=True)
    weight_QR = np.exp((closeness_QR - highest_Q1) / np.float32(temperature))
    shares_QR: Matrix = np.sqrt(weight_QR / weight_QR.sum(axis=1, keepdims=True))
    return shares_QR


def relation_of(edit: Edit) -> str | None:
    """The edit's relation, where its record names one."""
    relation = (edit.model_extra or {}).get("relation")
    return relation if isinstance(relation, str) and relation else None
