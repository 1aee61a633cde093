"""A segment of the edit memory: some edits, the keys of them that one encoder made, and what the
cohort knows of the keys. Arrays only, so that a file can be mapped and nothing is made of an edit
until it is asked for. A segment never changes.

Shapes: E edits, K keys, N keys of edits with a subject (they come first), D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.inferred_subject import subject_or_inferred
from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.cohort import KnownKeys
from serac_core.scope.subject import said_of, subject_key
from serac_core.scope.subject_table import SubjectTable
from serac_core.scope.texts import Places, Texts

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encoder

    Matrix = NDArray[np.float32]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class EditRows:
    """Edits, in the order in which they were added.

    Attributes
    ----------
    ids, prompts:
        (E,)
    subjects:
        The words that name each subject; the edits about it.
    subject_E:
        int32; row in `subjects`, -1 where whole texts are compared.
    key_E:
        uint32; row of each edit's key.
    digests_K32:
        SHA-256 of the text of each key, as bytes.
    about_subjects:
        N, how many keys are of edits with a subject.
    places_of_id, places_of_prompt:
        Of the ids; of the normalised prompts of edits that are compared by their whole text.
    """

    ids: Texts
    prompts: Texts
    subjects: SubjectTable
    subject_E: NDArray[np.int32]
    key_E: NDArray[np.uint32]
    digests_K32: NDArray[np.uint8]
    about_subjects: int
    places_of_id: Places
    places_of_prompt: Places

    @classmethod
    def of(cls, edits: Sequence[Edit]) -> tuple[EditRows, list[str]]:
        """The rows of edits, and (K,) the texts of their keys.

        A key is what the prompt says about the subject
        (:func:`serac_core.edits.inferred_subject.subject_or_inferred`); the whole prompt of an edit
        without one or whose prompt doesn't name it. Edits that say the same share a key.
        """
        names: list[str] = []
        numbers: list[int] = []
        about: dict[str, int] = {}
        whole: dict[str, int] = {}
        for edit in edits:
            subject = subject_or_inferred(edit)
            said = said_of(edit.prompt, subject)
            if said is None:
                names.append("")
                numbers.append(whole.setdefault(edit.prompt, len(whole)))
            else:
                names.append(" ".join(subject_key(subject)))
                numbers.append(about.setdefault(said, len(about)))
        subjects, subject_E = SubjectTable.of(names)
        is_whole_E = subject_E < 0
        texts = [*about, *whole]
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        wholes = np.flatnonzero(is_whole_E)
        rows = cls(
            Texts.of(edit.id for edit in edits),
            Texts.of(edit.prompt for edit in edits),
            subjects,
            subject_E,
            (np.array(numbers, dtype=np.int64) + is_whole_E * len(about)).astype(np.uint32),
            np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32),
            len(about),
            Places.of((edit.id for edit in edits), range(len(edits))),
            Places.of((normalize_text(edits[place].prompt) for place in wholes.tolist()), wholes),
        )
        return rows, texts

    @classmethod
    def joined(
        cls, parts: Sequence[tuple[EditRows, NDArray[np.bool_]]]
    ) -> tuple[EditRows, NDArray[np.int64]]:
        """The edits of all parts that their masks keep, as if they had been added at once, and
        (K,) the row of each key among those of all parts."""
        kept = [is_kept_E for _, is_kept_E in parts]
        rows = [part for part, _ in parts]
        ends = np.cumsum([np.count_nonzero(is_kept_E) for is_kept_E in kept])
        new_places = [
            np.where(is_kept_E, np.cumsum(is_kept_E) - 1 + end - np.count_nonzero(is_kept_E), -1)
            for is_kept_E, end in zip(kept, ends.tolist(), strict=True)
        ]
        subjects, subject_E = SubjectTable.joined(
            [(part.subjects, part.subject_E[is_kept_E]) for part, is_kept_E in parts]
        )
        starts = np.cumsum([0, *(len(part.digests_K32) for part in rows)]).tolist()
        key_E = np.concatenate(
            [
                part.key_E[is_kept_E].astype(np.int64) + start
                for (part, is_kept_E), start in zip(parts, starts[:-1], strict=True)
            ]
        )
        digests_A32 = np.concatenate([part.digests_K32 for part in rows])
        is_whole_A = np.concatenate(
            [np.arange(len(part.digests_K32)) >= part.about_subjects for part in rows]
        )
        same_A = _first_of_equal(digests_A32, is_whole_A)
        found, first_E = np.unique(same_A[key_E], return_index=True)
        source_K = found[np.lexsort((first_E, is_whole_A[found]))]
        new_A = np.zeros(len(digests_A32), dtype=np.int64)
        new_A[source_K] = np.arange(len(source_K))
        joined = cls(
            Texts.joined([part.ids.kept(is_kept_E) for part, is_kept_E in parts]),
            Texts.joined([part.prompts.kept(is_kept_E) for part, is_kept_E in parts]),
            subjects,
            subject_E,
            new_A[same_A[key_E]].astype(np.uint32),
            digests_A32[source_K],
            int(np.count_nonzero(~is_whole_A[source_K])),
            Places.joined([part.places_of_id for part in rows], new_places),
            Places.joined([part.places_of_prompt for part in rows], new_places),
        )
        return joined, source_K

    def __len__(self) -> int:
        return len(self.subject_E)

    def subject_of(self, place: int) -> tuple[str, ...]:
        """The words that name an edit's subject; () where whole texts are compared."""
        row = int(self.subject_E[place])
        return () if row < 0 else tuple(self.subjects.names[row].split(" "))

    @cached_property
    def whole_places(self) -> NDArray[np.int64]:
        """Places of the edits that are compared by their whole text."""
        return np.flatnonzero(self.subject_E < 0)

    def keys_with(
        self, digests_M32: NDArray[np.uint8], *, of_whole_texts: bool
    ) -> NDArray[np.int64]:
        """(M,) the rows of keys with these digests; -1 for none."""
        first = self.about_subjects if of_whole_texts else 0
        last = len(self.digests_K32) if of_whole_texts else self.about_subjects
        if first == last:
            return np.full(len(digests_M32), -1, dtype=np.int64)
        heads_H, order_H = self._heads[of_whole_texts]
        asked = np.ascontiguousarray(digests_M32[:, :8]).view(np.uint64)[:, 0]
        near = np.minimum(np.searchsorted(heads_H, asked), last - first - 1)
        rows = order_H[near] + first
        is_same = (self.digests_K32[rows] == digests_M32).all(axis=1)
        return np.where(is_same, rows, -1)

    @cached_property
    def _heads(self) -> tuple[tuple[NDArray[np.uint64], NDArray[np.int64]], ...]:
        """The first 8 bytes of each digest, ascending, and their order: of keys with a subject,
        of whole texts."""
        made = []
        for digests in np.split(self.digests_K32, [self.about_subjects]):
            heads = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
            order = np.argsort(heads, kind="stable")
            made.append((heads[order], order))
        return tuple(made)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds of them."""
        return {
            "ids": self.ids.bytes_B,
            "ids.starts": self.ids.starts_N1,
            "prompts": self.prompts.bytes_B,
            "prompts.starts": self.prompts.starts_N1,
            "subjects": self.subjects.names.bytes_B,
            "subjects.starts": self.subjects.names.starts_N1,
            "subjects.hashes": self.subjects.hashes_S,
            "subjects.first": self.subjects.starts_S1,
            "subjects.places": self.subjects.places_P,
            "subjects.lengths": self.subjects.lengths,
            "subject": self.subject_E,
            "key": self.key_E,
            "digests": self.digests_K32,
            "about_subjects": np.array([self.about_subjects], dtype=np.uint32),
            "id.hashes": self.places_of_id.hashes_N,
            "id.places": self.places_of_id.places_N,
            "prompt.hashes": self.places_of_prompt.hashes_N,
            "prompt.places": self.places_of_prompt.places_N,
        }

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> EditRows:
        """The rows that a file holds; KeyError where an array is missing."""
        return cls(
            Texts(arrays["ids"], arrays["ids.starts"]),
            Texts(arrays["prompts"], arrays["prompts.starts"]),
            SubjectTable(
                arrays["subjects.hashes"],
                Texts(arrays["subjects"], arrays["subjects.starts"]),
                arrays["subjects.first"],
                arrays["subjects.places"],
                arrays["subjects.lengths"],
            ),
            arrays["subject"],
            arrays["key"],
            arrays["digests"],
            int(arrays["about_subjects"][0]),
            Places(arrays["id.hashes"], arrays["id.places"]),
            Places(arrays["prompt.hashes"], arrays["prompt.places"]),
        )


@dataclass(frozen=True)
class KeyRows:
    """The keys of a segment's edits by one encoder.

    Attributes
    ----------
    keys_KD:
        Unit vectors, float32: what a router compares is what was encoded, bit for bit.
    known:
        What the encoder's cohort knows of the first N.
    """

    keys_KD: Matrix
    known: KnownKeys

    @classmethod
    def encoded(
        cls,
        edits: EditRows,
        texts: Sequence[str],
        encoder: Encoder,
        before: Sequence[Segment] = (),
        batch_size: int = 1,
    ) -> tuple[KeyRows, int]:
        """The keys of these texts, and how many were encoded: those that no segment before has.

        Parameters
        ----------
        texts:
            Of the keys, as :meth:`EditRows.of` gives them.
        batch_size:
            Keys in one encoder pass; more than one are compared with the cohort all at once.
        """
        number, about = len(texts), edits.about_subjects
        row_K = np.full(number, -1, dtype=np.int64)
        segment_K = np.full(number, -1, dtype=np.int64)
        for segment, old in enumerate(before):
            for rows, of_whole_texts in ((slice(0, about), False), (slice(about, number), True)):
                found = old.edits.keys_with(edits.digests_K32[rows], of_whole_texts=of_whole_texts)
                row_K[rows] = np.where(found >= 0, found, row_K[rows])
                segment_K[rows] = np.where(found >= 0, segment, segment_K[rows])
        new = np.flatnonzero(segment_K < 0)
        vectors: Matrix = np.empty((0, 0), dtype=np.float32)
        if len(new):
            vectors = encoder.encode([texts[n] for n in new.tolist()], batch_size=batch_size)
        scorer, new_about = encoder.scorer, int(np.searchsorted(new, about))
        at_once = max(1, new_about) if batch_size > 1 else 1
        known = [
            scorer.known(vectors[first : min(first + at_once, new_about)])
            for first in range(0, new_about, at_once)
        ] or [scorer.known(vectors[:0])]
        parts = [cls(vectors, known_joined(known))]
        sources = [new]
        for segment, old in enumerate(before):
            taken = np.flatnonzero(segment_K == segment)
            if len(taken):
                of_about = row_K[taken[: int(np.searchsorted(taken, about))]]
                parts.append(cls(old.keys.keys_KD[row_K[taken]], old.keys.known.of(of_about)))
                sources.append(taken)
        if len(parts) == 1:
            return parts[0], len(new)
        dimensions = max(part.keys_KD.shape[1] for part in parts)
        keys_KD = np.empty((number, dimensions), dtype=np.float32)
        for part, source in zip(parts, sources, strict=True):
            if len(source):
                keys_KD[source] = part.keys_KD
        order = np.argsort(np.concatenate([source[source < about] for source in sources]))
        return cls(keys_KD, known_joined([part.known for part in parts]).of(order)), len(new)

    @classmethod
    def joined(cls, parts: Sequence[KeyRows], source_K: NDArray[np.int64], about: int) -> KeyRows:
        """Some keys of all parts.

        Parameters
        ----------
        source_K:
            Their rows among those of all parts, as :meth:`EditRows.joined` gives them.
        about:
            How many of them are of edits with a subject.
        """
        starts = np.cumsum([0, *(len(part.keys_KD) for part in parts)])
        segment_K = np.searchsorted(starts, source_K, side="right") - 1
        row_K = source_K - starts[segment_K]
        dimensions = max(part.keys_KD.shape[1] for part in parts)
        keys_KD = np.empty((len(source_K), dimensions), dtype=np.float32)
        known, places = [], []
        for segment, part in enumerate(parts):
            taken = np.flatnonzero(segment_K == segment)
            if len(taken):
                keys_KD[taken] = part.keys_KD[row_K[taken]]
            taken = taken[taken < about]
            known.append(part.known.of(row_K[taken]))
            places.append(taken)
        return cls(keys_KD, known_joined(known).of(np.argsort(np.concatenate(places))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds of them; of a key one after the other."""
        made: dict[str, NDArray[Any]] = {"keys": self.keys_KD}
        for name, axis in _KNOWN.items():
            value = np.moveaxis(getattr(self.known, name), axis, 0)
            made[name] = value.astype(np.int32) if value.dtype.kind == "i" else value
        return made

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> KeyRows:
        """The keys that a file holds; KeyError where an array is missing."""
        known = {name: np.moveaxis(arrays[name], 0, axis) for name, axis in _KNOWN.items()}
        return cls(arrays["keys"], KnownKeys(**known))


@dataclass(frozen=True)
class Segment:
    """Edits that were added together, their keys, and which of them were removed since.

    Attributes
    ----------
    is_removed_E:
        None while none was.
    """

    edits: EditRows
    keys: KeyRows
    is_removed_E: NDArray[np.bool_] | None = None

    @property
    def kept_mask(self) -> NDArray[np.bool_]:
        """(E,) whether each edit was not removed."""
        if self.is_removed_E is None:
            return np.ones(len(self.edits), dtype=np.bool_)
        return ~self.is_removed_E

    @property
    def removed(self) -> int:
        """How many edits were removed."""
        return 0 if self.is_removed_E is None else int(np.count_nonzero(self.is_removed_E))

    def has(self, row: int) -> bool:
        """Whether an edit was not removed."""
        return self.is_removed_E is None or not self.is_removed_E[row]

    def kept(self, rows: NDArray[Any] | None = None) -> NDArray[np.int64]:
        """Those of the rows, of all rows without any, whose edits were not removed."""
        found = np.arange(len(self.edits)) if rows is None else rows.astype(np.int64)
        return found if self.is_removed_E is None else found[~self.is_removed_E[found]]


_KNOWN = {found.name: found.name.rpartition("_")[2].index("N") for found in fields(KnownKeys)}
"""What is kept of :class:`KnownKeys`, and which axis of it is that of the keys."""


def known_joined(parts: Sequence[KnownKeys]) -> KnownKeys:
    """What is known of the keys of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return KnownKeys(
        **{
            name: np.concatenate([getattr(part, name) for part in parts], axis=axis)
            for name, axis in _KNOWN.items()
        }
    )


def _first_of_equal(
    digests_A32: NDArray[np.uint8], is_whole_A: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(A,) for each key the first one of the same digest and kind."""
    words_A4 = np.ascontiguousarray(digests_A32).view(np.uint64)
    order = np.lexsort((words_A4[:, 1], words_A4[:, 0], is_whole_A))
    differs = (words_A4[order[1:]] != words_A4[order[:-1]]).any(axis=1)
    differs |= is_whole_A[order[1:]] != is_whole_A[order[:-1]]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), np.bool_), differs]))
    same_A = np.empty(len(order), dtype=np.int64)
    same_A[order] = np.repeat(order[first], np.diff(np.append(first, len(order))))
    return same_A
