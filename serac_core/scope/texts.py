"""Many texts in two arrays, their bytes one after the other and where each begins; and a table of
hashes that finds a text among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 16  # texts whose bytes are gathered at once


@dataclass(frozen=True)
class Texts:
    """N texts in UTF-8; lone surrogates survive.

    Attributes
    ----------
    bytes_B:
        uint8.
    starts_N1:
        uint64; where each begins, and where the last ends.
    """

    bytes_B: NDArray[np.uint8]
    starts_N1: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts_N1 = np.fromiter(
            accumulate(map(len, parts), initial=0), dtype=np.uint64, count=len(parts) + 1
        )
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), starts_N1)

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of all parts, in order."""
        sizes_N = np.concatenate([np.diff(part.starts_N1) for part in parts])
        return cls(np.concatenate([part.bytes_B for part in parts]), _starts(sizes_N))

    def __len__(self) -> int:
        return len(self.starts_N1) - 1

    def __getitem__(self, place: int) -> str:
        return self.bytes_of(place).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def bytes_of(self, place: int) -> bytes:
        """One text in UTF-8."""
        return self.bytes_B[int(self.starts_N1[place]) : int(self.starts_N1[place + 1])].tobytes()

    def kept(self, is_kept_N: NDArray[np.bool_]) -> Texts:
        """Those of a mask, in order."""
        sizes_N = np.diff(self.starts_N1)
        is_kept_B = np.repeat(is_kept_N, sizes_N.astype(np.int64))
        return Texts(self.bytes_B[is_kept_B], _starts(sizes_N[is_kept_N]))

    def taken(self, places_N: NDArray[np.int64]) -> Texts:
        """The texts at some places, in their order."""
        starts = self.starts_N1.astype(np.int64)
        parts = []
        for first in range(0, len(places_N), _AT_ONCE):
            places = places_N[first : first + _AT_ONCE]
            sizes = starts[places + 1] - starts[places]
            shift = starts[places] - np.cumsum(sizes) + sizes
            parts.append(self.bytes_B[np.repeat(shift, sizes) + np.arange(sizes.sum())])
        bytes_B = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
        return Texts(bytes_B, _starts(np.diff(self.starts_N1)[places_N]))


@dataclass(frozen=True)
class Places:
    """Where a text may stand among others, by a hash of it; who asks compares the texts.

    Attributes
    ----------
    hashes_N:
        uint64, ascending.
    places_N:
        uint32; of equal hashes ascending.
    """

    hashes_N: NDArray[np.uint64]
    places_N: NDArray[np.uint32]

    @classmethod
    def of(cls, texts: Iterable[str], places: Sequence[int] | NDArray[np.int64]) -> Places:
        """The places of texts, ascending."""
        hashes = np.fromiter(map(hash_of_text, texts), dtype=np.uint64, count=len(places))
        return cls._sorted(hashes, np.asarray(places, dtype=np.uint32))

    @classmethod
    def joined(cls, parts: Sequence[Places], new_places: Sequence[NDArray[np.int64]]) -> Places:
        """Of all parts; `new_places` has the new place of each old one, -1 where there is none."""
        hashes = np.concatenate([part.hashes_N for part in parts])
        places = np.concatenate(
            [new[part.places_N] for part, new in zip(parts, new_places, strict=True)]
        )
        is_kept, order = places >= 0, np.argsort(places, kind="stable")
        order = order[is_kept[order]]
        return cls._sorted(hashes[order], places[order].astype(np.uint32))

    @classmethod
    def _sorted(cls, hashes_N: NDArray[np.uint64], places_N: NDArray[np.uint32]) -> Places:
        order = np.argsort(hashes_N, kind="stable")
        return cls(hashes_N[order], places_N[order])

    def find(self, text: str) -> list[int]:
        """Places whose text has the hash of this one."""
        hash_ = np.uint64(hash_of_text(text))
        first, last = (int(self.hashes_N.searchsorted(hash_, side)) for side in ("left", "right"))
        return self.places_N[first:last].tolist() if first < last else []


def hash_of_text(text: str) -> int:
    """64 bits, the same in every process."""
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _starts(sizes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    starts_N1 = np.zeros(len(sizes_N) + 1, dtype=np.uint64)
    np.cumsum(sizes_N, out=starts_N1[1:])
    return starts_N1
