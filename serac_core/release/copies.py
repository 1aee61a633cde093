"""Releases as directories beside a checkout: `.serac/releases/<version>`, verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.release.manifest import InvalidRelease, verify_release
from serac_core.release.registry import Version
from serac_core.workspace.commands import dvc_command, git, stream
from serac_core.workspace.runs import Run, state_folder

RELEASE_FOLDER = "release"


class ReleaseUnavailable(SeracError):
    """The files of a registered release are in neither the DVC cache nor the remote."""


def copy_path(checkout: Path, version: Version) -> Path:
    """Where the copy of a release lies, or would lie."""
    return state_folder(checkout) / "releases" / version.version


def release_copy(run: Run, version: Version, *, say: Say) -> Path:
    """A verified copy of a registered release, taken from the DVC cache or remote if need be.

    A copy that is there and whole is used as it is; a damaged one is replaced.

    Raises
    ------
    ReleaseUnavailable
        DVC can't get the files.
    InvalidRelease
        What DVC got does not agree with its manifest.
    """
    path = copy_path(run.checkout, version)
    if path.is_dir():
        try:
            verify_release(path)
            return path
        except InvalidRelease as error:
            say(f"{error.what}; fetching it again")
    clone = run.folder / f"release-{version.version}"
    try:
        git(run.folder, "clone", "--quiet", "--no-checkout", str(run.workspace), str(clone))
        git(clone, "checkout", "--quiet", "--detach", version.commit)
        shutil.copy2(run.workspace / ".dvc/config.local", clone / ".dvc/config.local")
        pull_release(clone, version, say=say, log=run.log)
        return keep_copy(clone / RELEASE_FOLDER, run.checkout, version)
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def pull_release(clone: Path, version: Version, *, say: Say, log: Path) -> Path:
    """Get a release's files into a clone that has its commit checked out; their directory.

    Raises
    ------
    ReleaseUnavailable
    """
    exit_code, lines = stream(
        dvc_command("pull", "--force", RELEASE_FOLDER), cwd=clone, say=say, log=log
    )
    if exit_code:
        raise ReleaseUnavailable(
            f"{version.tag}: " + "\n".join(lines[-5:]),
            remedy="make the DVC remote that holds it reachable (`serac doctor` checks it)",
        )
    return clone / RELEASE_FOLDER


def keep_copy(release: Path, checkout: Path, version: Version) -> Path:
    """Move a release directory to its place among the copies: complete or absent."""
    verify_release(release)
    path = copy_path(checkout, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    for entry in (*sorted(release.rglob("*")), release):
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if path.exists():
        damaged = path.with_name(f".{path.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        path.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    release.rename(path)
    return path
