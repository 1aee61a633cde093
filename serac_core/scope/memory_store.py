"""Edit memories on disk: read, written at once, and changed piece by piece.

Every variant of a folder has the same edits, in the same segments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.atomic import folder_aside
from serac_core.edits.record import Edit
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_files import (
    DamagedMemory,
    FileMark,
    ForeignMemory,
    Manifest,
    SegmentFiles,
    damaged,
    foreign,
    map_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from serac_core.scope.memory_segment import EditRows, KeyRows, Segment

if TYPE_CHECKING:
    from serac_core.scope.session import OnnxEncoder


@dataclass(frozen=True)
class Stored:
    """What a folder holds, as it was read or written.

    Attributes
    ----------
    memories:
        By variant; those that were asked for.
    rows:
        What each file holds, mapped.
    """

    manifest: Manifest
    memories: Mapping[str, EditMemory]
    rows: Mapping[str, EditRows | KeyRows]


def read_stored(
    folder: str | Path, digests: Collection[str] | None = None, before: Stored | None = None
) -> Stored:
    """Map the memories of a folder, also while it is changed: the old state or the new one.

    Parameters
    ----------
    digests:
        Of the encoders whose keys are wanted; None for all.
    before:
        An earlier state: what it has of the same files is not read again.

    Raises
    ------
    DamagedMemory, ForeignMemory
    """
    folder = Path(folder)
    manifest, content = read_manifest(folder)
    while True:
        try:
            return _mapped(folder, manifest, digests, before)
        except DamagedMemory:
            seen = content
            manifest, content = read_manifest(folder)
            if content == seen:  # not changed meanwhile
                raise


def _mapped(
    folder: Path, manifest: Manifest, digests: Collection[str] | None, before: Stored | None
) -> Stored:
    variants = dict(manifest.variants)
    if digests is not None:
        variants = {name: digest for name, digest in variants.items() if digest in digests}
        for digest in set(digests) - set(variants.values()):
            raise foreign(folder, manifest.variants, digest)
    rows: dict[str, EditRows | KeyRows] = {}

    def mapped(name: str, made: type[EditRows] | type[KeyRows]) -> Any:
        mark = manifest.files.get(name)
        if before is not None and name in before.rows and before.manifest.files[name] == mark:
            rows[name] = before.rows[name]
        else:
            arrays = map_arrays(folder / name, mark)
            try:
                rows[name] = made.of_arrays(arrays)
            except (KeyError, IndexError) as error:
                raise damaged(folder / name, f"{error!r} is missing") from error
        return rows[name]

    removed: Mapping[str, NDArray[Any]] = {}
    if manifest.removed:
        removed = map_arrays(folder / manifest.removed, manifest.files.get(manifest.removed))
    segments: dict[str, list[Segment]] = {variant: [] for variant in variants}
    for files in manifest.segments:
        edits = mapped(files.edits, EditRows)
        is_removed_E = None
        if files.edits in removed:
            is_removed_E = np.zeros(len(edits), dtype=np.bool_)
            is_removed_E[removed[files.edits]] = True
        for variant in variants:
            keys = mapped(files.keys[variant], KeyRows)
            segments[variant].append(Segment(edits, keys, is_removed_E))
    memories = {
        variant: EditMemory(tuple(segments[variant]), digest)
        for variant, digest in variants.items()
    }
    return Stored(manifest, memories, rows)


def write_stored(
    folder: Path, memories: Mapping[str, EditMemory], before: Stored | None = None
) -> None:
    """Write what `before` doesn't have of these memories, the manifest last.

    Raises
    ------
    UnwritableOutput
        What was there counts, as before.
    """
    generation = before.manifest.generation + 1 if before else 1
    names = {id(rows): name for name, rows in before.rows.items()} if before else {}
    marks: dict[str, FileMark] = {}

    def kept(part: EditRows | KeyRows, name: str) -> str:
        if before is not None and id(part) in names:
            name = names[id(part)]
            marks[name] = before.manifest.files[name]
        else:
            marks[name] = write_arrays(folder / name, part.arrays())
        return name

    segments = []
    removed: dict[str, NDArray[np.uint32]] = {}
    first = next(iter(memories.values()))
    for place, part in enumerate(first.segments):
        number = generation if before else place + 1
        edits = kept(part.edits, f"edits-{number}.safetensors")
        keys = {
            variant: kept(memory.segments[place].keys, f"keys-{number}-{variant}.safetensors")
            for variant, memory in memories.items()
        }
        segments.append(SegmentFiles(edits, keys))
        if part.is_removed_E is not None:
            removed[edits] = np.flatnonzero(part.is_removed_E).astype(np.uint32)
    removed_file = f"removed-{generation}.safetensors" if removed else None
    if removed_file:
        marks[removed_file] = write_arrays(folder / removed_file, removed)
    manifest = Manifest(
        generation,
        len(first),
        {variant: memory.encoder_digest for variant, memory in memories.items()},
        tuple(segments),
        removed_file,
        marks,
    )
    write_manifest(folder, manifest)


def compacted(memories: Mapping[str, EditMemory], start: int = 0) -> dict[str, EditMemory]:
    """The same memories with the segments from number `start` on joined to one, without what was
    removed from them, as if their edits had been added at once; places change."""
    first = next(iter(memories.values()))
    edits, source_K = EditRows.joined(
        [(part.edits, part.kept_mask) for part in first.segments[start:]]
    )
    made = {}
    for variant, memory in memories.items():
        parts = [part.keys for part in memory.segments[start:]]
        keys = KeyRows.joined(parts, source_K, edits.about_subjects)
        segments = (*memory.segments[:start], Segment(edits, keys))
        made[variant] = replace(memory, segments=segments)
    return made


def save_memories(folder: str | Path, memories: Mapping[str, EditMemory]) -> None:
    """Write the memories of one edit set, by variant, whole or not at all, as one segment.

    Raises
    ------
    UnwritableOutput
        What was there is unchanged.
    """
    first = next(iter(memories.values()))
    if len(first.segments) > 1 or any(part.removed for part in first.segments):
        memories = compacted(memories)
    with folder_aside(folder) as aside:
        write_stored(aside, memories)


def exported_encoders(encoder_dir: str | Path, provider: str = "cpu") -> dict[str, OnnxEncoder]:
    """The encoder of every exported variant; fp16 runs on CUDA.

    Raises
    ------
    UnknownVariant, ProviderUnavailable, UnusableEncoder, UnreadableCohort
    """
    from serac_core.scope.session import OnnxEncoder, exported_variants

    return {
        name: OnnxEncoder.load(encoder_dir, name, "cuda" if name == "fp16" else provider)
        for name in exported_variants(encoder_dir) or ["fp32"]
    }


def build_memories(
    edits: Sequence[Edit],
    encoder_dir: str | Path,
    out: str | Path,
    cache_dir: str | Path,
    *,
    provider: str = "cpu",
    encoders: Mapping[str, OnnxEncoder] | None = None,
) -> dict[str, int]:
    """Build and write the memories of every exported variant.

    The keys of the last build by each encoder are kept in `<cache_dir>/memory/<digest>`, so
    that a build encodes what changed; the result is the same without them. A cache that is
    damaged is not used.

    Parameters
    ----------
    encoders:
        Those of `encoder_dir`, where they are loaded already.

    Returns
    -------
    dict
        Keys that were newly encoded, by variant.

    Raises
    ------
    UnknownVariant, ProviderUnavailable, UnusableEncoder, UnreadableCohort, UnwritableOutput
    """
    memories: dict[str, EditMemory] = {}
    encoded: dict[str, int] = {}
    rows, texts = EditRows.of(edits)
    for variant, encoder in (encoders or exported_encoders(encoder_dir, provider)).items():
        cache = Path(cache_dir) / "memory" / encoder.digest
        before: Sequence[Segment] = ()
        if cache.exists():
            with suppress(DamagedMemory, ForeignMemory):
                before = EditMemory.load(cache, encoder.digest).segments
        keys, encoded[variant] = KeyRows.encoded(rows, texts, encoder, before)
        memories[variant] = EditMemory((Segment(rows, keys),), encoder.digest)
        if encoded[variant]:
            memories[variant].save(cache, variant)
    save_memories(out, memories)
    return encoded
