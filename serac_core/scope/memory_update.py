"""The memory of the live edits, made of the one before where edits were only added or taken away.

The last memory by the same encoders is kept in the cache with the edits that it holds. New edits
become a segment of their own, what is gone is marked: files that are there stay as they are, so
that an update copies and hashes them and encodes what is new. What is decided by the memory is the
same as if it had been built at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.edits.atomic import folder_aside
from serac_core.edits.kept import keeping, reading_kept
from serac_core.edits.live import line_id
from serac_core.edits.record import Edit
from serac_core.scope.live_memory import LiveMemory, UnknownEdit
from serac_core.scope.memory_files import FORMAT, DamagedMemory, ForeignMemory
from serac_core.scope.memory_store import build_memories, exported_encoders

if TYPE_CHECKING:
    from serac_core.scope.session import OnnxEncoder

_FOLDER = "live-memory"
_EDITS_FILE = "edits.jsonl"
_MEMORY = "memory"
_KEPT = 2


def build_live_memories(
    edits: str | Path,
    encoder_dir: str | Path,
    out: str | Path,
    cache_dir: str | Path,
    *,
    provider: str = "cpu",
) -> tuple[int, dict[str, int]]:
    """Write the memories of the edits of a file, by every exported variant.

    Returns
    -------
    (edits, encoded)
        How many edits there are, and keys that were newly encoded, by variant.

    Raises
    ------
    UnreadableEdits, UnknownVariant, ProviderUnavailable, UnusableEncoder, UnreadableCohort,
    UnwritableOutput
    """
    from serac_core.edits.jsonl import read_edits

    edits, out = Path(edits), Path(out)
    encoders = exported_encoders(encoder_dir, provider)
    digests = " ".join(f"{name} {encoder.digest}" for name, encoder in sorted(encoders.items()))
    key = hashlib.sha256(f"{FORMAT} {digests}".encode()).hexdigest()[:32]
    kept = Path(cache_dir) / _FOLDER / key
    encoded = None
    with reading_kept(kept), suppress(DamagedMemory, ForeignMemory, UnknownEdit):
        if kept.is_dir() and edits.is_file():
            encoded = _changed(kept, edits, encoders, out)
    if encoded is None:
        encoded = build_memories(read_edits(edits), encoder_dir, out, cache_dir, encoders=encoders)
    with keeping(kept, _KEPT) as folder:
        shutil.copyfile(edits, folder / _EDITS_FILE)
        shutil.copytree(out, folder / _MEMORY, copy_function=shutil.copyfile)
    with edits.open("rb") as handle:
        return sum(1 for line in handle if line.strip()), encoded


def _changed(
    kept: Path, edits: Path, encoders: Mapping[str, OnnxEncoder], out: Path
) -> dict[str, int] | None:
    """Write the kept memory with what changed since; None where more changed than edits that came
    at the end or went."""
    before = (kept / _EDITS_FILE).read_bytes().splitlines(keepends=True)
    now = edits.read_bytes().splitlines(keepends=True)
    held, wanted = set(before), set(now)
    staying = [line for line in before if line in wanted]
    if now[: len(staying)] != staying or any(line in held for line in now[len(staying) :]):
        return None
    gone = [line_id(line) for line in before if line not in wanted]
    new = [Edit.model_validate(json.loads(line)) for line in now[len(staying) :]]
    encoded = dict.fromkeys(encoders, 0)
    with folder_aside(out) as folder:
        shutil.copytree(kept / _MEMORY, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        live = LiveMemory.open(folder, list(encoders.values()))
        if gone:
            live.retract(gone)
        if new:
            encoded |= live.add(new, batch_size=1).encoded
        if len(live) != len(now):
            return None
    return encoded
