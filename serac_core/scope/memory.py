"""The edit memory: the live edits as the scope classifier sees them.

What is encoded of an edit, its key, is what its prompt says about the subject: the prompt with
the subject masked. Where the record names no subject, it is the only name in the prompt
(:mod:`serac_core.edits.inferred_subject`). An edit without either, or whose prompt doesn't name its
subject, is kept by its whole prompt. Edits that say the same of different subjects share one key.

A memory is a row of segments (:mod:`serac_core.scope.memory_segment`) and what was removed from
each; it never changes. :class:`serac_core.scope.live_memory.LiveMemory` adds and removes edits by
putting another memory in its place. An edit is told by its place: its number in the order in which
edits were added, removed ones included.

Shapes: B queries, E edits, K keys, D dimensions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.memory_files import DamagedMemory, ForeignMemory
from serac_core.scope.memory_segment import EditRows, KeyRows, Segment, known_joined
from serac_core.scope.subject_table import SubjectFinder, hash_of

if TYPE_CHECKING:
    from serac_core.scope.cohort import KnownKeys
    from serac_core.scope.encoder import Encoder

    Matrix = NDArray[np.float32]

__all__ = [
    "DamagedMemory",
    "EditMemory",
    "ForeignMemory",
    "MemoryEntry",
]

BLOCK_SCORES = 1 << 24
"""Most scores that a search holds at once (64 MB)."""
_ROUNDING = 1e-5  # by which a product of matrices may differ from the exact cosine


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One edit in the memory.

    Attributes
    ----------
    subject:
        The words that name it (:func:`serac_core.scope.subject.subject_key`); () where whole
        texts are compared.
    """

    id: str
    prompt: str
    subject: tuple[str, ...]


@dataclass(frozen=True)
class EditMemory:
    """Keys of a set of edits, made by one variant of one encoder.

    Made by :meth:`build` or :meth:`load`. Its length is the number of edits that are not removed.

    Attributes
    ----------
    encoder_digest:
        Of the encoder that made the keys.
    """

    segments: tuple[Segment, ...]
    encoder_digest: str

    def __len__(self) -> int:
        return self.starts[-1] - sum(part.removed for part in self.segments)

    @classmethod
    def build(
        cls,
        edits: Sequence[Edit],
        encoder: Encoder,
        previous: EditMemory | None = None,
        batch_size: int = 1,
    ) -> EditMemory:
        """Encode the keys of the edits; only those that `previous` doesn't hold.

        Parameters
        ----------
        previous:
            A memory to take keys from; one of another encoder is not used.
        batch_size:
            Keys in one encoder pass. One at a time gives the same bytes whether the keys are
            made at once or little by little; more is faster and may differ in rounding.
        """
        is_known = previous is not None and previous.encoder_digest == encoder.digest
        before = previous.segments if previous is not None and is_known else ()
        rows, texts = EditRows.of(edits)
        keys, _ = KeyRows.encoded(rows, texts, encoder, before, batch_size)
        return cls((Segment(rows, keys),), encoder.digest)

    @classmethod
    def load(cls, folder: str | Path, encoder_digest: str) -> EditMemory:
        """Map the keys that the encoder of this digest made; every file that is used is checked.

        Raises
        ------
        DamagedMemory
            A file is missing or isn't what the manifest says it is.
        ForeignMemory
        """
        from serac_core.scope.memory_store import read_stored

        stored = read_stored(folder, [encoder_digest])
        return next(iter(stored.memories.values()))

    def save(self, folder: str | Path, variant: str = "fp32") -> None:
        """Write this memory as the only variant of a folder; see
        :func:`serac_core.scope.memory_store.save_memories`."""
        from serac_core.scope.memory_store import save_memories

        save_memories(folder, {variant: self})

    @cached_property
    def starts(self) -> list[int]:
        """The place of each segment's first edit, and the one after the last."""
        return list(accumulate((len(part.edits) for part in self.segments), initial=0))

    def entry(self, place: int) -> MemoryEntry:
        """The edit at a place."""
        segment, row = self._found(place)
        edits = self.segments[segment].edits
        return MemoryEntry(edits.ids[row], edits.prompts[row], edits.subject_of(row))

    def has_subject(self, place: int) -> bool:
        """Whether an edit comes into question by its subject, not by its whole text."""
        segment, row = self._found(place)
        return bool(self.segments[segment].edits.subject_E[row] >= 0)

    @property
    def places(self) -> NDArray[np.int64]:
        """(E,) the places of the edits, the newest last."""
        return self._joined(part.kept() for part in self.segments)

    def places_of_id(self, edit_id: str) -> list[int]:
        """The places of the edits of this id."""
        return [
            start + row
            for start, part in zip(self.starts, self.segments, strict=False)
            for row in part.edits.places_of_id.find(edit_id)
            if part.has(row) and part.edits.ids[row] == edit_id
        ]

    @cached_property
    def subjects(self) -> SubjectFinder:
        """Finds the subjects of the edits in a text."""
        # Over the parts, not over `self`: a memory that held itself would stay mapped until a
        # collection of all garbage, which stops a server for half a second.
        about = partial(_about, self.segments, self.starts)
        return SubjectFinder([part.edits.subjects for part in self.segments], about)

    def about(self, subject: tuple[str, ...]) -> list[int]:
        """Places of the edits about a subject, the newest last."""
        return _about(self.segments, self.starts, hash_of(subject), " ".join(subject).encode())

    @cached_property
    def whole_texts(self) -> NDArray[np.int64]:
        """Places of the edits that are compared by their whole prompt, the newest last."""
        return self._joined(part.kept(part.edits.whole_places) for part in self.segments)

    def is_whole_prompt(self, text: str) -> bool:
        """Whether a text is the prompt of an edit that is compared by its whole prompt, as
        :func:`serac_core.edits.record.normalize_text` has it."""
        normal = normalize_text(text)
        return any(
            part.has(row) and normalize_text(part.edits.prompts[row]) == normal
            for part in self.segments
            for row in part.edits.places_of_prompt.find(normal)
        )

    def keys_of(self, places: Sequence[int]) -> tuple[Matrix, KnownKeys, NDArray[np.int64]]:
        """The keys of edits with a subject, each once, what the cohort knows of them, and for
        each place the number of its key."""
        found, number_P = self._keys_of(np.asarray(places, dtype=np.int64))
        keys_ND = np.concatenate([keys.keys_KD[rows] for keys, rows in found])
        return keys_ND, known_joined([keys.known.of(rows) for keys, rows in found]), number_P

    def search(
        self, queries_BD: Matrix, k: int = 1, among: Sequence[int] | NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], Matrix]:
        """The edits whose keys are nearest to each query, exactly; ties go to the newest edit.

        Parameters
        ----------
        queries_BD:
            Unit vectors of the encoder that made the keys.
        among:
            Places of the edits to choose from, ascending; None for all.

        Returns
        -------
        (places, scores)
            Both (B, min(k, edits to choose from)): places and cosines in [-1, 1], best first.
        """
        chosen_C = self.places if among is None else np.asarray(among, dtype=np.int64)
        width = min(k, len(chosen_C))
        places_BW = np.empty((len(queries_BD), width), dtype=np.int64)
        scores_BW = np.empty((len(queries_BD), width), dtype=np.float32)
        if not width:
            return places_BW, scores_BW
        bounds = np.searchsorted(chosen_C, self.starts).tolist()
        parts = [
            (part, part.edits.key_E[chosen_C[first:last] - start])
            for part, first, last, start in zip(
                self.segments, bounds, bounds[1:], self.starts, strict=False
            )
        ]
        most = max(len(chosen_C), *(len(part.keys.keys_KD) for part in self.segments))
        block = max(1, BLOCK_SCORES // most)
        for first in range(0, len(queries_BD), block):
            some_BD = queries_BD[first : first + block]
            near_BC = np.concatenate([_cosines(some_BD, part, key_C) for part, key_C in parts], 1)
            for row, near_C in enumerate(near_BC, start=first):
                least = np.partition(near_C, -width)[-width]
                near = chosen_C[near_C >= least - _ROUNDING]
                cosine_N = self._exact(queries_BD[row], near)
                best = np.lexsort((-near, -cosine_N))[:width]
                places_BW[row], scores_BW[row] = near[best], cosine_N[best]
        return places_BW, scores_BW

    def _exact(self, query_D: Matrix, places: NDArray[np.int64]) -> Matrix:
        """The cosine of a query to each edit's key; the same for keys of the same text."""
        found, number_P = self._keys_of(places)
        keys_ND = np.concatenate([keys.keys_KD[rows] for keys, rows in found])
        cosine_N: Matrix = np.clip(np.einsum("nd,d->n", keys_ND, query_D), -1, 1)
        return cosine_N[number_P]

    def _keys_of(
        self, places_P: NDArray[np.int64]
    ) -> tuple[list[tuple[KeyRows, NDArray[np.int64]]], NDArray[np.int64]]:
        """The rows of the edits' keys, by segment, and for each edit the number of its key among
        them. A text that is a key of several segments has one number, so that a tie is exact."""
        segment_P = np.searchsorted(self.starts, places_P, side="right") - 1
        number_P = np.empty(len(places_P), dtype=np.int64)
        found: list[tuple[KeyRows, NDArray[np.int64]]] = []
        digests: list[bytes] = []
        for segment in np.unique(segment_P).tolist():
            part, is_here_P = self.segments[segment], segment_P == segment
            rows = part.edits.key_E[places_P[is_here_P] - self.starts[segment]]
            rows, of_row = np.unique(rows.astype(np.int64), return_inverse=True)
            number_P[is_here_P] = of_row + len(digests)
            found.append((part.keys, rows))
            digests += [digest.tobytes() for digest in part.edits.digests_K32[rows]]
        if len(found) > 1:
            first: dict[bytes, int] = {}
            same = [first.setdefault(digest, number) for number, digest in enumerate(digests)]
            number_P = np.array(same, dtype=np.int64)[number_P]
        return found, number_P

    def _found(self, place: int) -> tuple[int, int]:
        segment = bisect_right(self.starts, place) - 1
        return segment, place - self.starts[segment]

    def _joined(self, rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        found = [part + start for part, start in zip(rows, self.starts, strict=False)]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _about(
    segments: Sequence[Segment], starts: Sequence[int], hash_: int, name: bytes
) -> list[int]:
    """Places of the edits about a subject."""
    places: list[int] = []
    for start, part in zip(starts, segments, strict=False):
        row = part.edits.subjects.row_of(hash_, name)
        if row is not None:
            places += (part.kept(part.edits.subjects.places_of(row)) + start).tolist()
    return places


def _cosines(queries_BD: Matrix, part: Segment, key_C: NDArray[np.uint32]) -> Matrix:
    """(B, C) the cosine of each query to the key of each chosen edit of a segment, but for
    rounding."""
    if not len(key_C):
        return np.empty((len(queries_BD), 0), dtype=np.float32)
    first, last = int(key_C.min()), int(key_C.max()) + 1
    cosine_BK: Matrix = queries_BD @ part.keys.keys_KD[first:last].T
    return cosine_BK[:, key_C.astype(np.int64) - first]
