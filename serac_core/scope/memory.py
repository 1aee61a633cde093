"""The edit memory: the live edits as the scope classifier sees them.

What is encoded of an edit, its key, is what its prompt says about the subject: the prompt with
the subject masked. An edit without a subject, or whose prompt doesn't name it, is kept by its
whole prompt. Edits that say the same of different subjects share one key.

Shapes: B queries, E edits, K keys, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.atomic import folder_aside
from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.scope.subject import SubjectIndex, said_of, subject_key

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encoder

    Matrix = NDArray[np.float32]

FORMAT = 1
MANIFEST_FILE = "manifest.json"
ENTRIES_FILE = "ids.json"
BLOCK_SCORES = 1 << 24
"""Most scores that a search holds at once (64 MB)."""


class DamagedMemory(SeracError):
    """A file of the memory is missing, truncated, altered or of another format."""


class ForeignMemory(SeracError):
    """The memory's keys were made by another encoder than the one that reads them."""


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One edit in the memory.

    Attributes
    ----------
    subject:
        The words that name it (:func:`serac_core.scope.subject.subject_key`); () where whole
        texts are compared.
    key:
        Row of its key.
    """

    id: str
    prompt: str
    subject: tuple[str, ...]
    key: int


@dataclass(frozen=True)
class EditMemory:
    """Keys of a set of edits, made by one variant of one encoder.

    Made by :meth:`build` or :meth:`load`.

    Attributes
    ----------
    entries:
        (E,) in the order of the edit set, the newest last.
    key_hashes:
        (K,) SHA-256 of the text of each key, hexadecimal.
    keys_KD:
        Unit vectors, float32; memory-mapped when loaded.
    encoder_digest:
        Of the encoder that made the keys.
    """

    entries: tuple[MemoryEntry, ...]
    key_hashes: tuple[str, ...]
    keys_KD: Matrix
    encoder_digest: str

    def __len__(self) -> int:
        return len(self.entries)

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
        known: dict[str, Matrix] = {}
        if previous is not None and previous.encoder_digest == encoder.digest:
            known = dict(zip(previous.key_hashes, previous.keys_KD, strict=True))
        texts: dict[str, str] = {}
        rows: dict[str, int] = {}
        entries = []
        for edit in edits:
            said = said_of(edit.prompt, edit.subject)
            text = edit.prompt if said is None else said
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            texts[digest] = text
            row = rows.setdefault(digest, len(rows))
            subject = () if said is None else subject_key(edit.subject)
            entries.append(MemoryEntry(edit.id, edit.prompt, subject, row))
        new = [digest for digest in rows if digest not in known]
        if new:
            encoded = encoder.encode([texts[digest] for digest in new], batch_size=batch_size)
            known.update(zip(new, encoded, strict=True))
        keys_KD = (
            np.stack([known[digest] for digest in rows])
            if rows
            else np.empty((0, 0), dtype=np.float32)
        )
        return cls(tuple(entries), tuple(rows), keys_KD, encoder.digest)

    @cached_property
    def subjects(self) -> SubjectIndex:
        """Finds the subjects of the edits in a text."""
        return SubjectIndex(self._places_of_subject)

    def about(self, subject: tuple[str, ...]) -> tuple[int, ...]:
        """Places of the edits about a subject."""
        return self._places_of_subject.get(subject, ())

    @cached_property
    def whole_texts(self) -> tuple[int, ...]:
        """Places of the edits that are compared by their whole prompt."""
        return tuple(place for place, entry in enumerate(self.entries) if not entry.subject)

    @cached_property
    def key_of_entry(self) -> NDArray[np.int64]:
        """(E,) the row of each edit's key."""
        return np.array([entry.key for entry in self.entries], dtype=np.int64)

    @cached_property
    def _places_of_subject(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        places: dict[tuple[str, ...], list[int]] = {}
        for place, entry in enumerate(self.entries):
            if entry.subject:
                places.setdefault(entry.subject, []).append(place)
        return {subject: tuple(found) for subject, found in places.items()}

    def search(
        self, queries_BD: Matrix, k: int = 1, among: Sequence[int] | None = None
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
            Both (B, min(k, edits to choose from)): places in `entries` and cosines in [-1, 1],
            best first.
        """
        chosen_C = np.arange(len(self)) if among is None else np.asarray(among, dtype=np.int64)
        width = min(k, len(chosen_C))
        places_BW = np.empty((len(queries_BD), width), dtype=np.int64)
        scores_BW = np.empty((len(queries_BD), width), dtype=np.float32)
        if not width:
            return places_BW, scores_BW
        key_C = self.key_of_entry[chosen_C]
        block = max(1, BLOCK_SCORES // max(len(self.keys_KD), len(chosen_C)))
        for first in range(0, len(queries_BD), block):
            scores_BK = np.clip(queries_BD[first : first + block] @ self.keys_KD.T, -1, 1)
            for row, scores_C in enumerate(scores_BK[:, key_C], start=first):
                least = np.partition(scores_C, -width)[-width]
                near = np.flatnonzero(scores_C >= least)
                near = near[np.lexsort((-near, -scores_C[near]))][:width]
                places_BW[row], scores_BW[row] = chosen_C[near], scores_C[near]
        return places_BW, scores_BW

    def save(self, folder: str | Path, variant: str = "fp32") -> None:
        """Write this memory as the only variant of a folder; see :func:`save_memories`."""
        save_memories(folder, {variant: self})

    @classmethod
    def load(cls, folder: str | Path, encoder_digest: str) -> EditMemory:
        """Load the keys that the encoder of this digest made, memory-mapped.

        Raises
        ------
        DamagedMemory
            A file is missing or isn't what the manifest says it is.
        ForeignMemory
        """
        folder = Path(folder)
        keys_files, checksums = _read_manifest(folder)
        if encoder_digest not in keys_files:
            made_by = ", ".join(digest[:12] for digest in sorted(keys_files))
            raise ForeignMemory(
                f"{folder}: made by encoder {made_by}, not by {encoder_digest[:12]}",
                remedy="build it with this encoder: `serac memory build`",
            )
        keys_file = keys_files[encoder_digest]
        for file in (ENTRIES_FILE, keys_file):
            _verify(folder / file, checksums.get(file))
        rows = json.loads((folder / ENTRIES_FILE).read_text(encoding="utf-8"))
        keys_KD = np.load(
            folder / keys_file, mmap_mode="r" if rows["key_hashes"] else None, allow_pickle=False
        )
        entries = (
            MemoryEntry(id_, prompt, tuple(subject), key)
            for id_, prompt, subject, key in zip(
                rows["ids"], rows["prompts"], rows["subjects"], rows["keys"], strict=True
            )
        )
        return cls(tuple(entries), tuple(rows["key_hashes"]), keys_KD, encoder_digest)


def save_memories(folder: str | Path, memories: Mapping[str, EditMemory]) -> None:
    """Write the memories of one edit set, by variant, whole or not at all.

    `ids.json` holds the edits and which key each has, `keys_<variant>.npy` the keys,
    `manifest.json` a SHA-256 of each file and the digest of each variant's encoder.

    Raises
    ------
    UnwritableOutput
        What was there is unchanged.
    """
    first = next(iter(memories.values()))
    rows = {
        "ids": [entry.id for entry in first.entries],
        "prompts": [entry.prompt for entry in first.entries],
        "subjects": [entry.subject for entry in first.entries],
        "keys": [entry.key for entry in first.entries],
        "key_hashes": first.key_hashes,
    }
    variants = {
        variant: {"encoder_digest": memory.encoder_digest, "keys": f"keys_{variant}.npy"}
        for variant, memory in memories.items()
    }
    with folder_aside(folder) as aside:
        _write_json(aside / ENTRIES_FILE, rows)
        for variant, memory in memories.items():
            np.save(aside / variants[variant]["keys"], memory.keys_KD, allow_pickle=False)
        manifest = {
            "format": FORMAT,
            "edits": len(first),
            "variants": variants,
            "files": {path.name: _sha256(path) for path in sorted(aside.iterdir())},
        }
        _write_json(aside / MANIFEST_FILE, manifest)


def build_memories(
    edits: Sequence[Edit],
    encoder_dir: str | Path,
    out: str | Path,
    cache_dir: str | Path,
    *,
    provider: str = "cpu",
) -> dict[str, int]:
    """Build and write the memories of every exported variant.

    The keys of the last build by each encoder are kept in `<cache_dir>/memory/<digest>`, so
    that a build encodes what changed; the result is the same without them. A cache that is
    damaged is not used.

    Returns
    -------
    dict
        Keys that were newly encoded, by variant.

    Raises
    ------
    UnknownVariant, ProviderUnavailable, UnusableEncoder, UnwritableOutput
    """
    from serac_core.scope.session import OnnxEncoder, exported_variants

    memories: dict[str, EditMemory] = {}
    encoded: dict[str, int] = {}
    for variant in exported_variants(encoder_dir) or ["fp32"]:
        encoder = OnnxEncoder.load(encoder_dir, variant, "cuda" if variant == "fp16" else provider)
        cache = Path(cache_dir) / "memory" / encoder.digest
        previous = None
        if cache.exists():
            with suppress(DamagedMemory, ForeignMemory):
                previous = EditMemory.load(cache, encoder.digest)
        memory = EditMemory.build(edits, encoder, previous)
        known = set(previous.key_hashes) if previous else set()
        encoded[variant] = len(set(memory.key_hashes) - known)
        if encoded[variant]:
            memory.save(cache, variant)
        memories[variant] = memory
    save_memories(out, memories)
    return encoded


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_manifest(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Which file holds the keys of which encoder, and the SHA-256 of each file."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, this code reads {FORMAT}")
        keys_files = {
            str(variant["encoder_digest"]): str(variant["keys"])
            for variant in manifest["variants"].values()
        }
        return keys_files, dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def _verify(path: Path, expected: str | None) -> None:
    try:
        found = _sha256(path)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if found != expected:
        raise _damaged(path, f"SHA-256 is {found}, the manifest says {expected}")


def _damaged(path: Path, why: str) -> DamagedMemory:
    return DamagedMemory(
        f"{path}: not as it was written: {why}",
        remedy="build the memory again (`serac memory build`), or fetch the release again",
    )
