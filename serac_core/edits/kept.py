"""Folders that are kept in a cache: replaced whole, read while none replaces them, the oldest
removed."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serac_core.edits.atomic import folder_aside

_LOCK = ".lock"


@contextmanager
def reading_kept(folder: Path) -> Iterator[Path]:
    """A kept folder, which no other process replaces or removes meanwhile; it need not be there."""
    with _locked(folder.parent, fcntl.LOCK_SH):
        yield folder


@contextmanager
def keeping(folder: Path, most: int) -> Iterator[Path]:
    """A new folder to fill, which takes the place of a kept one; of its neighbours, the `most`
    newest stay.

    Raises
    ------
    UnwritableOutput
        What was kept stays.
    """
    with _locked(folder.parent, fcntl.LOCK_EX):
        with folder_aside(folder) as aside:
            yield aside
        folder.touch()
        kept = [path for path in folder.parent.iterdir() if path.is_dir()]
        for old in sorted(kept, key=lambda path: path.stat().st_mtime)[:-most]:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(parent: Path, how: int) -> Iterator[None]:
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / _LOCK).open("a") as lock:
        fcntl.flock(lock, how)
        yield
