"""The edit memory that changes while it is read.

    live = LiveMemory.open("release/memory", [encoder])
    route = LiveRouter(Router(encoder, ...), live).route
    live.add(edits)          # in one thread
    route(["..."])           # in others
    live.retract(["e-1"])    # from here on no decision is for e-1

Readers hold a memory that never changes for as long as they decide; a change puts another one in
its place. One change at a time is made, also by several processes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_files import ForeignMemory, damaged, foreign, read_manifest
from serac_core.scope.memory_segment import EditRows, KeyRows, Segment
from serac_core.scope.memory_store import Stored, compacted, read_stored, write_stored

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encoder
    from serac_core.scope.router import Decision, Router

MOST_SEGMENTS = 16
"""With more, the newest become one, and so do older ones up to the first that is more than twice as
large as all after it: an edit is written again as often as the memory doubles. A segment costs a
look-up a query."""
MOST_REMOVED = 0.2
"""Share of the stored edits that may be removed ones; with more, all segments become one."""


class UnknownEdit(SeracError):
    """An id names no edit of the memory."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change did: edits added and removed, keys encoded by variant."""

    added: int
    removed: int
    encoded: dict[str, int]


class LiveMemory:
    """The memory of a folder, for many readers and one writer at a time. Made by :meth:`open`.

    Every change is on disk, fsynced, when its method returns. The edits of all variants are
    changed together.
    """

    def __init__(self, folder: Path, encoders: Sequence[Encoder], stored: Stored) -> None:
        self._folder = folder
        self._encoders = {encoder.digest: encoder for encoder in encoders}
        self._stored = stored
        self._writing = threading.RLock()
        self._readers = threading.Condition()
        self._reading: dict[int, tuple[Stored, int]] = {}
        self._tickets = 0

    @classmethod
    def open(cls, folder: str | Path, encoders: Sequence[Encoder] = ()) -> LiveMemory:
        """Map a folder's memory.

        Parameters
        ----------
        encoders:
            Those of all variants that the folder holds, where edits are to be added; none are
            needed to retract.

        Raises
        ------
        DamagedMemory
        ForeignMemory
            The folder has no keys by one of the encoders.
        """
        folder = Path(folder)
        stored = read_stored(folder)
        for encoder in encoders:
            _variant_of(folder, stored, encoder.digest)
        return cls(folder, encoders, stored)

    def __len__(self) -> int:
        return self._stored.manifest.edits

    @contextmanager
    def reading(self, encoder_digest: str | None = None) -> Iterator[EditMemory]:
        """The memory as it is, for one batch of decisions; what removes edits meanwhile returns
        when the batch is done.

        Parameters
        ----------
        encoder_digest:
            Of the encoder whose keys are wanted; None for the first variant.
        """
        with self._readers:
            stored, self._tickets = self._stored, self._tickets + 1
            ticket = self._tickets
            self._reading[ticket] = stored, threading.get_ident()
        try:
            if encoder_digest is None:
                yield next(iter(stored.memories.values()))
            else:
                yield stored.memories[_variant_of(self._folder, stored, encoder_digest)]
        finally:
            with self._readers:
                del self._reading[ticket]
                self._readers.notify_all()

    def add(self, edits: Iterable[Edit], batch_size: int = 64) -> Changed:
        """Add edits in a new segment.

        An edit replaces that of its id and the one that it supersedes, of the memory or earlier
        among `edits`; one whose status is `retracted` only removes.

        Parameters
        ----------
        batch_size:
            As in :meth:`EditMemory.build`.

        Raises
        ------
        ForeignMemory
            The encoder of a variant was not given.
        UnwritableOutput, DamagedMemory
            The memory is as before.
        """
        new: dict[str, Edit] = {}
        replaced: dict[str, None] = {}
        for edit in edits:
            for old in (edit.supersedes, edit.id):
                if old:
                    new.pop(old, None)
                    replaced[old] = None
            if edit.status == "active":
                new[edit.id] = edit
        with self._changing() as stored:
            memories = dict(stored.memories)
            encoded = dict.fromkeys(memories, 0)
            removed = _remove(memories, replaced)
            if new:
                rows, texts = EditRows.of(list(new.values()))
                for variant, memory in memories.items():
                    encoder = self._encoder_of(variant, memory)
                    keys, encoded[variant] = KeyRows.encoded(
                        rows, texts, encoder, memory.segments, batch_size
                    )
                    segments = (*memory.segments, Segment(rows, keys))
                    memories[variant] = replace(memory, segments=segments)
            if new or removed:
                self._put(memories, stored, wait=removed > 0)
        return Changed(len(new), removed, encoded)

    def supersede(self, edit: Edit) -> Changed:
        """Add an edit in the place of the one that it supersedes.

        Raises
        ------
        UnknownEdit
            It names none of the memory. The memory is as before.
        """
        with self._writing:
            self._require([edit.supersedes or ""])
            return self.add([edit])

    def retract(self, ids: Sequence[str]) -> Changed:
        """Remove edits. When this returns, no decision under way is for one of them.

        Raises
        ------
        UnknownEdit
            An id is of no edit. The memory is as before.
        UnwritableOutput, DamagedMemory
            The memory is as before.
        """
        with self._changing() as stored:
            self._require(ids)
            memories = dict(stored.memories)
            removed = _remove(memories, ids)
            if removed:
                self._put(memories, stored, wait=True)
        return Changed(0, removed, dict.fromkeys(memories, 0))

    def refresh(self) -> bool:
        """Take over what another process wrote to the folder; whether there was something.

        Raises
        ------
        DamagedMemory, ForeignMemory
            The memory is as before.
        """
        with self._writing:
            return self._refresh()

    def _refresh(self) -> bool:
        manifest, _ = read_manifest(self._folder)
        if manifest == self._stored.manifest:
            return False
        stored = read_stored(self._folder, before=self._stored)
        for digest in self._encoders:
            _variant_of(self._folder, stored, digest)
        self._swap(stored, wait=True)
        return True

    @contextmanager
    def _changing(self) -> Iterator[Stored]:
        """Hold the lock of the folder, among threads and processes, and its newest state."""
        with self._writing:
            try:
                handle = os.open(self._folder, os.O_RDONLY)
            except OSError as error:
                raise damaged(self._folder, error.strerror or str(error)) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._refresh()
                yield self._stored
            finally:
                os.close(handle)

    def _put(self, memories: dict[str, EditMemory], before: Stored, *, wait: bool) -> None:
        write_stored(self._folder, _tidied(memories), before)
        self._swap(read_stored(self._folder, before=before), wait=wait)

    def _swap(self, stored: Stored, *, wait: bool) -> None:
        """Put a state in place; wait for those who decide by another one, but not for a reader
        of this thread."""
        own = threading.get_ident()
        with self._readers:
            self._stored = stored
            if wait:
                self._readers.wait_for(
                    lambda: all(
                        held is self._stored or thread == own
                        for held, thread in self._reading.values()
                    )
                )

    def _encoder_of(self, variant: str, memory: EditMemory) -> Encoder:
        if memory.encoder_digest not in self._encoders:
            raise ForeignMemory(
                f"{self._folder}: the encoder {memory.encoder_digest[:12]} of variant {variant} "
                "was not given",
                remedy="give the encoders of all variants that the memory holds",
            )
        return self._encoders[memory.encoder_digest]

    def _require(self, ids: Iterable[str]) -> None:
        memory = next(iter(self._stored.memories.values()))
        unknown = [edit_id for edit_id in ids if not memory.places_of_id(edit_id)]
        if unknown:
            raise UnknownEdit(
                f"{self._folder}: holds no edit {', '.join(map(repr, unknown[:5]))}"
                + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
                remedy="`serac edits list` names the edits",
            )


class LiveRouter:
    """A router over a memory that changes; each call decides by one state of it.

    Parameters
    ----------
    router:
        Of any memory by the same encoder: its thresholds and scale are used.
    """

    def __init__(self, router: Router, memory: LiveMemory) -> None:
        self._router = router
        self._memory = memory

    def route(self, queries: Sequence[str]) -> list[Decision]:
        """As :meth:`serac_core.scope.router.Router.route`."""
        with self._memory.reading(self._router.encoder.digest) as memory:
            return self._router.over(memory).route(queries)


def _tidied(memories: dict[str, EditMemory]) -> dict[str, EditMemory]:
    """The memories with segments joined, where there are too many or much was removed."""
    first = next(iter(memories.values()))
    sizes = [len(part.edits) for part in first.segments]
    if sum(sizes) - len(first) > MOST_REMOVED * sum(sizes):
        return compacted(memories)
    if len(sizes) <= MOST_SEGMENTS:
        return memories
    start, after = len(sizes) - 1, sizes[-1]
    while start and (start == len(sizes) - 1 or sizes[start - 1] <= 2 * after):
        start -= 1
        after += sizes[start]
    return compacted(memories, start)


def _remove(memories: dict[str, EditMemory], ids: Iterable[str]) -> int:
    """Mark the edits of these ids as removed, in all variants; how many there were."""
    first = next(iter(memories.values()))
    places = np.array(
        sorted({place for edit_id in ids for place in first.places_of_id(edit_id)}), dtype=np.int64
    )
    bounds = np.searchsorted(places, first.starts).tolist()
    masks = []
    for part, start, low, high in zip(
        first.segments, first.starts, bounds, bounds[1:], strict=False
    ):
        mask = part.is_removed_E
        if low < high:
            mask = ~part.kept_mask
            mask[places[low:high] - start] = True
        masks.append(mask)
    for variant, memory in memories.items():
        segments = tuple(
            replace(part, is_removed_E=mask)
            for part, mask in zip(memory.segments, masks, strict=True)
        )
        memories[variant] = replace(memory, segments=segments)
    return len(places)


def _variant_of(folder: Path, stored: Stored, digest: str) -> str:
    for variant, found in stored.manifest.variants.items():
        if found == digest:
            return variant
    raise foreign(folder, stored.manifest.variants, digest)
