"""The files of an edit memory: arrays that are mapped, a manifest that says which files count.

A folder holds `manifest.json`; of each segment `edits-<n>.safetensors` with the edits and
`keys-<n>-<variant>.safetensors` with the keys that each variant of the encoder made; and, once
edits were removed, `removed-<n>.safetensors` with their places. A file is written once and never
changes. The manifest comes last, in one rename, and only then are files deleted that it no longer
lists: who reads meanwhile gets the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.atomic import UnwritableOutput, write_atomically
from serac_core.errors import SeracError

FORMAT = 3
"""Changes with the layout, and with what :meth:`serac_core.scope.cohort.CohortScorer.known` gives
of the same key and cohort."""
MANIFEST_FILE = "manifest.json"

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_OURS = re.compile(r"(edits-\d+|keys-\d+-\w+|removed-\d+)\.safetensors")


class DamagedMemory(SeracError):
    """A file of the memory is missing, truncated, altered or of another format."""


class ForeignMemory(SeracError):
    """The memory's keys were made by another encoder than the one that reads them."""


@dataclass(frozen=True)
class FileMark:
    """What a file must be: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class SegmentFiles:
    """The files of a segment: the edits, and the keys by variant."""

    edits: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a memory's folder holds.

    Attributes
    ----------
    generation:
        Grows by one with every change.
    edits:
        How many there are, without those removed.
    variants:
        Digest of each variant's encoder.
    removed:
        The file with the places of removed edits.
    files:
        Every file but the manifest.
    """

    generation: int
    edits: int
    variants: Mapping[str, str]
    segments: tuple[SegmentFiles, ...]
    removed: str | None
    files: Mapping[str, FileMark]

    def content(self) -> bytes:
        """The manifest as its file holds it, with its own checksum."""
        value = {
            "format": FORMAT,
            "generation": self.generation,
            "edits": self.edits,
            "variants": dict(self.variants),
            "segments": [
                {"edits": segment.edits, "keys": dict(segment.keys)} for segment in self.segments
            ],
            "removed": self.removed,
            "files": {name: vars(mark) for name, mark in self.files.items()},
        }
        return _as_json({**value, "sha256": _sha256_of(value)})


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a folder, and its bytes.

    Raises
    ------
    DamagedMemory
    """
    path = folder / MANIFEST_FILE
    try:
        content = path.read_bytes()
        value = json.loads(content)
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}, this code reads {FORMAT}")
        checksum = value.pop("sha256")
        if checksum != _sha256_of(value):
            raise ValueError("altered: its own SHA-256 is another")
        files = {name: FileMark(**mark) for name, mark in value["files"].items()}
        segments = tuple(
            SegmentFiles(segment["edits"], segment["keys"]) for segment in value["segments"]
        )
        manifest = Manifest(
            value["generation"],
            value["edits"],
            value["variants"],
            segments,
            value["removed"],
            files,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, repr(error)) from error
    return manifest, content


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in place and delete the files that it doesn't list.

    Raises
    ------
    UnwritableOutput
        What was there counts, as before.
    """
    write_atomically(folder / MANIFEST_FILE, [manifest.content()])
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in manifest.files:
            path.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> FileMark:
    """Write arrays in the safetensors format, fsynced; the same arrays give the same bytes.

    Raises
    ------
    UnwritableOutput
    """
    given = {name: _little(array) for name, array in arrays.items()}
    order = sorted(given, key=lambda name: (-given[name].dtype.itemsize, name))
    header, done = {}, 0
    for name in order:
        array = given[name]
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [done, done + array.nbytes],
        }
        done += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    hashing = hashlib.sha256()
    try:
        with path.open("wb") as handle:
            head = len(text).to_bytes(8, "little") + text
            parts: list[Any] = [given[name].data for name in order if given[name].size]
            for part in (head, *parts):
                hashing.update(part)
                handle.write(part)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise UnwritableOutput(
            f"{path}: can't be written: {error.strerror or error}",
            remedy="free space or choose a place you may write to; what was there is unchanged",
        ) from error
    return FileMark(8 + len(text) + done, hashing.hexdigest())


def map_arrays(path: Path, mark: FileMark | None) -> dict[str, NDArray[Any]]:
    """Map the arrays of a file, read-only, once its size and checksum are found right.

    Raises
    ------
    DamagedMemory
    """
    if mark is None:
        raise damaged(path, "the manifest doesn't list it")
    try:
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size != mark.size:
                raise damaged(path, f"{size} bytes, the manifest says {mark.size}")
            found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != mark.sha256:
                raise damaged(path, f"SHA-256 is {found}, the manifest says {mark.sha256}")
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    try:
        first = 8 + int.from_bytes(mapped[:8], "little")
        arrays = {}
        for name, array in json.loads(mapped[8:first]).items():
            dtype: np.dtype[Any] = _DTYPES[array["dtype"]]
            shape = tuple(map(int, array["shape"]))
            count = math.prod(shape)
            start = first + int(array["data_offsets"][0]) if count else 0
            arrays[name] = np.frombuffer(mapped, dtype, count, start).reshape(shape)
        return arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, repr(error)) from error


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def damaged(path: Path, why: str) -> DamagedMemory:
    return DamagedMemory(
        f"{path}: not as it was written: {why}",
        remedy="build the memory again (`serac memory build`), or fetch the release again",
    )


def foreign(folder: Path, variants: Mapping[str, str], digest: str) -> ForeignMemory:
    """The error for an encoder by which a folder has no keys."""
    made_by = ", ".join(sorted(found[:12] for found in variants.values()))
    return ForeignMemory(
        f"{folder}: made by encoder {made_by}, not by {digest[:12]}",
        remedy="build it with this encoder: `serac memory build`",
    )


def _as_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _sha256_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_as_json(value)).hexdigest()
