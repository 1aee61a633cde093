"""Files and folders that are complete or absent: written aside, fsynced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serac_core.errors import SeracError


class UnwritableOutput(SeracError):
    """A file or folder can't be written (no such folder, no permission, disk full)."""


def fsync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that a reader sees the old content or all of the new, never a part.

    A link at `path` (as DVC makes into its cache) is replaced, not written through.

    Raises
    ------
    UnwritableOutput
        The folder can't be made or the file can't be written; what was there stays.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as handle:
            for chunk in chunks:
                handle.write(chunk)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
        fsync(path.parent)
    except OSError as error:
        raise UnwritableOutput(
            f"{path}: can't be written: {error.strerror or error}",
            remedy="free space or choose a place you may write to; what was there is unchanged",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when the block ends well.

    Raises
    ------
    UnwritableOutput
        The folder can't be written; what was at `path` stays.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        for entry in sorted(aside.rglob("*")):
            fsync(entry)
        fsync(aside)
        if path.exists():
            path.rename(replaced)
        aside.rename(path)
        fsync(path.parent)
    except OSError as error:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise UnwritableOutput(
            f"{path}: can't be written: {error.strerror or error}",
            remedy="free space or choose a place you may write to",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
