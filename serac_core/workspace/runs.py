"""A run's own folder beside the person's checkout, and what dead runs left behind.

`.serac/runs/<run id>/` holds `run.json` (whose process it is), `run.log` and, while
the run lasts, `workspace/`: the clone that the run works in.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.tether import kill_marked, tether_descendants
from serac_core.workspace.commands import run_git

_RUNS_KEPT = 20


class NotACheckout(SeracError):
    """The folder is not the root of a Git repository with a DVC pipeline and a commit."""


class RunInProgress(SeracError):
    """The same flow already runs for this checkout."""


@dataclass(frozen=True)
class Run:
    """One run of a flow: where it works and where it leaves what people look at.

    Attributes
    ----------
    id:
        Sortable by start time, unique.
    checkout:
        The person's repository; a run writes to its `.serac` folder and nowhere else (an update
        also moves what it took from the inbox).
    flow:
        Name of the flow.
    """

    id: str
    checkout: Path
    flow: str = "retrain"

    @property
    def folder(self) -> Path:
        return state_folder(self.checkout) / "runs" / self.id

    @property
    def workspace(self) -> Path:
        """The run's clone; gone when the run has ended."""
        return self.folder / "workspace"

    @property
    def incoming(self) -> Path:
        """The run's copies of files that it was given; gone when the run has ended."""
        return self.folder / "incoming"

    def clear_workspace(self) -> None:
        """Remove the clone, to take another one."""
        _remove(self.workspace)

    @property
    def log(self) -> Path:
        """Everything that the stages printed."""
        return self.folder / "run.log"

    @property
    def reports(self) -> Path:
        """Reports of a run that published nothing: validation results, evaluation."""
        return state_folder(self.checkout) / "reports" / self.id

    @property
    def cache(self) -> Path:
        """What is kept from run to run because computing it takes time."""
        return state_folder(self.checkout) / "cache"

    @property
    def stage_environment(self) -> dict[str, str]:
        """Checkpoints outlive the clone: a run that follows a killed one takes them up."""
        return {"SERAC_CACHE_DIR": str(self.cache)}


def state_folder(checkout: Path) -> Path:
    """Where everything of ours that is not versioned lies; ignored by Git and DVC."""
    return checkout / ".serac"


def find_checkout(path: str | Path = ".") -> Path:
    """The root of the repository that a path lies in.

    Raises
    ------
    NotACheckout
        It is in no Git repository, has no commit, no `.dvc` folder or no dvc.yaml.
    """
    path = Path(path).absolute()
    remedy = "run in a clone of the project, or name one with --checkout"
    if not path.is_dir():
        raise NotACheckout(f"{path}: no such folder", remedy=remedy)
    found = run_git(path, "rev-parse", "--show-toplevel")
    if found.returncode:
        raise NotACheckout(f"{path}: not in a Git repository", remedy=remedy)
    root = Path(found.stdout.rstrip("\n"))
    for name, command in ((".dvc", "dvc init"), ("dvc.yaml", "restore the file")):
        if not (root / name).exists():
            raise NotACheckout(f"{root}: has no {name}", remedy=command)
    if run_git(root, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
        raise NotACheckout(f"{root}: has no commit yet", remedy="git add and git commit first")
    return root


@contextmanager
def start_run(
    checkout: Path, flow: str, *, wait: bool = False, say: Say = lambda line: None
) -> Iterator[Run]:
    """Open a run: one at a time per flow, after clearing up after dead ones.

    With `wait`, a run that meets another one begins when that has ended.

    The clone is removed when the block ends, however it ends; the log stays
    (of the last 20 runs).

    Raises
    ------
    RunInProgress
        Another process runs the same flow for this checkout.
    """
    runs = state_folder(checkout) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f"{flow}.lock").open("a+") as lock:
        if not _take(lock) and wait:
            say(f"another {flow} run is at work for this checkout; this one waits for it")
            _take(lock, wait=True)
        elif not _take(lock):
            raise RunInProgress(
                f"another {flow} run is at work for this checkout ({lock.name})",
                remedy="wait for it to end, or end it",
            )
        _clear_dead_runs(runs)
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        run = Run(f"{started}-{secrets.token_hex(2)}", checkout, flow)
        run.folder.mkdir()
        with (run.folder / "run.json").open("a+") as record:
            _take(record, wait=True)
            owner: dict[str, object] = {"flow": flow, "pid": os.getpid()}
            _rewrite(record, {**owner, "mark": tether_descendants()})
            try:
                yield run
            finally:
                _remove(run.workspace)
                _remove(run.incoming)
                # The mark is this process's: without it no later run kills what it does next.
                _rewrite(record, owner)


def _take(file: IO[str], *, wait: bool = False) -> bool:
    """Lock a file for as long as it is open; False when another holds it and it may not wait.

    The kernel lets go when the holder dies, so no stale lock can stay.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _rewrite(file: IO[str], content: dict[str, object]) -> None:
    file.truncate(0)
    file.write(json.dumps(content) + "\n")
    file.flush()


def _clear_dead_runs(runs: Path) -> None:
    """End what dead runs left running, remove their clones and all but the newest logs."""
    ended = []
    for folder in sorted(path for path in runs.iterdir() if path.is_dir()):
        with (folder / "run.json").open("a+") as record:
            if not _take(record):
                continue
            record.seek(0)
            if mark := _read_mark(record.read()):
                kill_marked(mark)
        _remove(folder / "workspace")
        _remove(folder / "incoming")
        ended.append(folder)
    for folder in ended[:-_RUNS_KEPT]:
        _remove(folder)


def _read_mark(record: str) -> str:
    try:
        return str(json.loads(record)["mark"])
    except (ValueError, KeyError, TypeError):
        return ""  # killed before it had written it, so before it had started anything


def _remove(folder: Path) -> None:
    # A process killed a moment ago may still be ending a write: try again, then let it be seen.
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(folder)
