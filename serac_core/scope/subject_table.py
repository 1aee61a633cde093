"""Finds which of a million subjects a text names, with no Python object a subject.

A subject's hash is a polynomial in the hashes of its words, modulo 2^64: word number i counts
`hash * BASE**i`. Sums of these from the beginning of a text give the hash of any span of it, so
that all spans are hashed at once and looked up in a sorted array. What has an equal hash is
compared word by word.

Shapes: S subjects, P edits with a subject, W words of a text, N spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from serac_core.scope.subject import Mention, Word, is_joined, name_end, singular_of, words_of
from serac_core.scope.texts import Texts, hash_of_text

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
_INVERSE = pow(_BASE, -1, 1 << 64)
_MODULUS = (1 << 64) - 1

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class SubjectTable:
    """The subjects of a segment and the edits about each.

    Attributes
    ----------
    hashes_S:
        Ascending.
    names:
        The words of each, with a space between.
    starts_S1:
        uint32; where each subject's places begin in `places_P`.
    places_P:
        uint32; places of the edits about each, ascending.
    lengths:
        uint32; how many words subjects have, each number once, descending.
    """

    hashes_S: Hashes
    names: Texts
    starts_S1: NDArray[np.uint32]
    places_P: NDArray[np.uint32]
    lengths: NDArray[np.uint32]

    @classmethod
    def of(cls, names: Sequence[str]) -> tuple[SubjectTable, NDArray[np.int32]]:
        """The table of edits whose subjects are these, "" for none, and (E,) the row of each
        edit's subject, -1 for none."""
        rows: dict[str, int] = {}
        found_E = np.fromiter(
            (rows.setdefault(name, len(rows)) if name else -1 for name in names),
            dtype=np.int64,
            count=len(names),
        )
        unsorted = list(rows)
        hashes_S = np.array([hash_of(name.split(" ")) for name in unsorted], dtype=np.uint64)
        order_S = _in_order(hashes_S, np.arange(len(unsorted)), unsorted.__getitem__)
        number_S = np.full(len(unsorted) + 1, -1, dtype=np.int64)  # the last stands for none
        number_S[order_S] = np.arange(len(unsorted))
        sorted_names = Texts.of(unsorted[row] for row in order_S.tolist())
        return cls._of_rows(hashes_S[order_S], sorted_names, number_S[found_E])

    @classmethod
    def joined(
        cls, parts: Sequence[tuple[SubjectTable, NDArray[np.int32]]]
    ) -> tuple[SubjectTable, NDArray[np.int32]]:
        """The table of the edits of all parts, in order; each part as :meth:`of` gives it, the
        rows of the edits that are kept."""
        sizes = np.cumsum([0, *(len(table.hashes_S) for table, _ in parts)])
        names = Texts.joined([table.names for table, _ in parts])
        hashes_A = np.concatenate([table.hashes_S for table, _ in parts])
        row_E = np.concatenate(
            [
                np.where(row_E < 0, np.int64(-1), row_E.astype(np.int64) + start)
                for (_, row_E), start in zip(parts, sizes[:-1].tolist(), strict=True)
            ]
        )
        is_used_A = np.zeros(len(hashes_A), dtype=np.bool_)
        is_used_A[row_E[row_E >= 0]] = True
        used = _in_order(hashes_A, np.flatnonzero(is_used_A), names.__getitem__)
        is_first = np.ones(len(used), dtype=np.bool_)
        for place in _equal_to_the_last(hashes_A[used]).tolist():
            is_first[place] = names.bytes_of(used[place]) != names.bytes_of(used[place - 1])
        number_A = np.full(len(hashes_A) + 1, -1, dtype=np.int64)
        number_A[used] = np.cumsum(is_first) - 1
        order_S = used[is_first]
        return cls._of_rows(hashes_A[order_S], names.taken(order_S), number_A[row_E])

    @classmethod
    def _of_rows(
        cls, hashes_S: Hashes, names: Texts, row_E: NDArray[np.int64]
    ) -> tuple[SubjectTable, NDArray[np.int32]]:
        with_subject = np.flatnonzero(row_E >= 0)
        order_P = np.argsort(row_E[with_subject], kind="stable")
        starts_S1 = np.searchsorted(row_E[with_subject][order_P], np.arange(len(hashes_S) + 1))
        spaces_B = np.concatenate([[0], np.cumsum(names.bytes_B == ord(" "))])
        ends_S1 = names.starts_N1.astype(np.int64)
        length_S = spaces_B[ends_S1[1:]] - spaces_B[ends_S1[:-1]] + 1
        table = cls(
            hashes_S,
            names,
            starts_S1.astype(np.uint32),
            with_subject[order_P].astype(np.uint32),
            np.unique(length_S)[::-1].astype(np.uint32),
        )
        return table, row_E.astype(np.int32)

    def __len__(self) -> int:
        return len(self.hashes_S)

    def has_hash(self, hashes_N: Hashes) -> NDArray[np.bool_]:
        """(N,) whether a subject may have this hash."""
        if not len(self.hashes_S):
            return np.zeros(len(hashes_N), dtype=np.bool_)
        rows_N = np.searchsorted(self.hashes_S, hashes_N)
        np.minimum(rows_N, len(self.hashes_S) - 1, out=rows_N)
        return np.asarray(self.hashes_S[rows_N] == hashes_N)

    def row_of(self, hash_: int, name: bytes) -> int | None:
        """The row of a subject; None if it isn't there."""
        row = int(np.searchsorted(self.hashes_S, np.uint64(hash_)))
        while row < len(self.hashes_S) and int(self.hashes_S[row]) == hash_:
            if self.names.bytes_of(row) == name:
                return row
            row += 1
        return None

    def places_of(self, row: int) -> NDArray[np.uint32]:
        """The places of the edits about a subject."""
        return self.places_P[int(self.starts_S1[row]) : int(self.starts_S1[row + 1])]


class SubjectFinder:
    """:meth:`serac_core.scope.subject.SubjectIndex.find` over tables.

    Parameters
    ----------
    about:
        The places of the edits about a subject, by hash and name; a subject without any is not
        found.
    """

    def __init__(
        self, tables: Sequence[SubjectTable], about: Callable[[int, bytes], Sequence[int]]
    ) -> None:
        self._tables = [table for table in tables if len(table)]
        self._about = about

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        lengths = np.concatenate([table.lengths for table in self._tables]).astype(np.int64)
        return np.unique(lengths)[::-1]

    def find(self, text: str) -> list[Mention]:
        """The mentions in the order of the text, as `SubjectIndex` finds them."""
        words = words_of(text) if self._tables else []
        if not words:
            return []
        spans = _Spans(words, text, self._lengths)
        is_hit_N = np.zeros(len(spans.hashes_N), dtype=np.bool_)
        for table in self._tables:
            is_hit_N |= table.has_hash(spans.hashes_N)
        if not is_hit_N.any():
            return []
        found: list[Mention] = []
        covered: list[tuple[int, int]] = []
        for choices in spans.in_order(np.flatnonzero(is_hit_N)):
            for hash_, key, start, end in choices:
                if not self._about(hash_, " ".join(key).encode()):
                    continue
                end = name_end(text, start, end)
                inside = any(a <= start and end <= b for a, b in covered)
                if not inside and not is_joined(text, start, end):
                    found.append(Mention(key, start, end))
                    covered.append((start, end))
                break  # the words themselves go before their singular
        return sorted(found, key=lambda mention: mention.start)


class _Spans:
    """Hashes of the spans of a text whose lengths subjects have, longest first, and of those
    whose last word may be a plural, with its singular."""

    def __init__(self, words: Sequence[Word], text: str, lengths: NDArray[np.int64]) -> None:
        self._words = words
        power_W, inverse_W = _powers(len(words))
        hash_W = np.array([hash_of_word(word.folded) for word in words], dtype=np.uint64)
        sums_W1 = np.zeros(len(words) + 1, dtype=np.uint64)
        np.cumsum(hash_W * power_W, out=sums_W1[1:])
        ends = np.arange(len(words)) + lengths[:, None]
        row, self._first_N = np.nonzero(ends <= len(words))
        self._length_N = lengths[row]
        last_N = self._first_N + self._length_N
        hashes_N = (sums_W1[last_N] - sums_W1[self._first_N]) * inverse_W[self._first_N]
        self._singular = {
            number: singular
            for number, word in enumerate(words)
            if (singular := singular_of(word, text))
        }
        self._plural_of = np.empty(0, dtype=np.int64)
        self.hashes_N = hashes_N
        if self._singular:
            change_W = np.zeros(len(words), dtype=np.uint64)
            is_plural_W = np.zeros(len(words), dtype=np.bool_)
            for number, singular in self._singular.items():
                is_plural_W[number] = True
                change_W[number] = hash_of_word(singular)
            change_W -= hash_W * is_plural_W
            self._plural_of = np.flatnonzero(is_plural_W[last_N - 1])
            of = self._plural_of
            change_N = change_W[last_N[of] - 1] * power_W[self._length_N[of] - 1]
            self.hashes_N = np.concatenate([hashes_N, hashes_N[of] + change_N])

    def in_order(
        self, hits: NDArray[np.int64]
    ) -> Iterable[list[tuple[int, tuple[str, ...], int, int]]]:
        """Of each span that was hit, longest first: hash, words, start and end in the text; then
        the same of its singular, where that was hit."""
        spans = len(self._first_N)
        of_span: dict[int, list[int]] = {}
        for number in hits.tolist():
            span = number if number < spans else int(self._plural_of[number - spans])
            of_span.setdefault(span, []).append(number)
        for span in sorted(of_span):
            first, length = int(self._first_N[span]), int(self._length_N[span])
            last = first + length - 1
            start, end = self._words[first].start, self._words[last].end
            key = tuple(word.folded for word in self._words[first : last + 1])
            yield [
                (
                    int(self.hashes_N[number]),
                    key if number < spans else (*key[:-1], self._singular[last]),
                    start,
                    end,
                )
                for number in of_span[span]
            ]


def hash_of(words: Sequence[str]) -> int:
    """The hash of a subject, as those of spans are."""
    total, power = 0, 1
    for word in words:
        total += hash_of_word(word) * power
        power = power * _BASE & _MODULUS
    return total & _MODULUS


@lru_cache(maxsize=1 << 16)
def hash_of_word(word: str) -> int:
    """64 bits, the same in every process."""
    return hash_of_text(word)


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first `count` powers of the base and of its inverse, from the 0th on."""
    power, inverse = _powers_up_to(1 << max(6, (count - 1).bit_length()))
    return power[:count], inverse[:count]


@lru_cache(maxsize=16)
def _powers_up_to(size: int) -> tuple[Hashes, Hashes]:
    bases = np.full((2, size), 1, dtype=np.uint64)
    bases[0, 1:], bases[1, 1:] = _BASE, _INVERSE
    power, inverse = np.cumprod(bases, axis=1, dtype=np.uint64)
    return power, inverse


def _in_order(
    hashes_A: Hashes, rows: NDArray[np.int64], name_of: Callable[[int], str]
) -> NDArray[np.int64]:
    """The rows by hash, equal ones by name."""
    rows = rows[np.argsort(hashes_A[rows], kind="stable")]
    equal = _equal_to_the_last(hashes_A[rows])
    for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1) if len(equal) else ():
        part = slice(int(run[0]) - 1, int(run[-1]) + 1)
        rows[part] = sorted(rows[part].tolist(), key=name_of)
    return rows


def _equal_to_the_last(hashes_N: Hashes) -> NDArray[np.int64]:
    """Places of those that equal the one before."""
    return np.flatnonzero(hashes_N[1:] == hashes_N[:-1]) + 1
