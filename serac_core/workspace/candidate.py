"""The candidate: a clone of the person's repository, on top of the last release."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from serac_core.errors import SeracError
from serac_core.workspace.commands import git, run_git
from serac_core.workspace.inputs import inspect_inputs, require_committed, snapshot
from serac_core.workspace.runs import Run

RELEASES = "releases"
GATE_FILE = "gate.json"
LOCK_FILE = "dvc.lock"
WIDTHS_FILE = "widths.json"
# Written by runs only; where two histories differ in them, the releases branch is right.
GENERATED = {LOCK_FILE, GATE_FILE, WIDTHS_FILE}


class MergeConflict(SeracError):
    """The person's commits and the last release changed the same lines."""


class TargetUnreachable(SeracError):
    """The repository that releases are published to can't be read."""


@dataclass(frozen=True)
class Candidate:
    """A clone that holds the person's commit merged into the last release.

    Attributes
    ----------
    commit:
        The merged commit.
    target:
        Git URL or path that releases are published to.
    releases:
        Commit of the branch `releases` when the clone was taken; "" when there was none.
    is_released:
        Every file is as in the last release: there is nothing to do.
    snapshot_of:
        Uncommitted inputs of the person's that the candidate includes.
    """

    commit: str
    target: str
    releases: str
    is_released: bool = False
    snapshot_of: tuple[str, ...] = ()


def take_candidate(
    run: Run, *, publish_to: str = "", include_uncommitted: bool = False
) -> Candidate:
    """Clone the checkout into the run's folder and merge it into the latest release.

    Raises
    ------
    UncommittedInputs
        Inputs of the pipeline have uncommitted changes and were not to be included.
    MergeConflict
        The person's commits and the releases branch contradict each other.
    TargetUnreachable
        `publish_to` names no readable repository.
    """
    inputs = inspect_inputs(run.checkout)
    if not include_uncommitted:
        require_committed(inputs)
    target, releases = open_clone(run, publish_to)
    if inputs.dirty:
        snapshot(run.checkout, run.workspace, inputs, releases)
    commit = merge_into(run.workspace, releases)
    is_released = bool(releases) and same_tree(run.workspace, releases, commit)
    return Candidate(commit, target, releases, is_released, inputs.dirty)


def open_clone(run: Run, publish_to: str) -> tuple[str, str]:
    """Clone the checkout into the run's folder, with its DVC cache.

    Returns
    -------
    (target, releases)
        The publishing target, and the commit of its branch `releases` ("": there is none).

    Raises
    ------
    TargetUnreachable
    """
    target = publish_target(run.checkout, publish_to)
    take_clone(run.checkout, run.workspace, target)
    share_cache(run.checkout, run.workspace)
    return target, _commit_of_releases(run.workspace)


def publish_target(checkout: Path, publish_to: str) -> str:
    """The URL or absolute path that `registry.publish_to` means; empty: the checkout itself."""
    if not publish_to:
        return str(checkout)
    beside = checkout / publish_to
    return str(beside.resolve()) if beside.exists() else publish_to


def take_clone(checkout: Path, workspace: Path, target: str) -> None:
    """Clone the checkout, with the releases and the tags of the publishing target as
    `refs/remotes/publish/*` and tags.

    Raises
    ------
    TargetUnreachable
    """
    workspace.parent.mkdir(parents=True, exist_ok=True)
    git(workspace.parent, "clone", "--quiet", "--origin", "checkout", str(checkout), str(workspace))
    git(workspace, "remote", "add", "publish", target)
    tags = git(workspace, "tag", "--list").split()
    if tags and target != str(checkout):
        # Versions and assignments are the target's alone; the checkout may be behind or ahead.
        git(workspace, "tag", "--delete", *tags)
    fetched = run_git(
        workspace,
        "fetch",
        "--quiet",
        "publish",
        f"+refs/heads/{RELEASES}*:refs/remotes/publish/{RELEASES}*",
        "+refs/tags/*:refs/tags/*",
    )
    if fetched.returncode:
        raise TargetUnreachable(
            f"registry.publish_to: {target!r} can't be read: {fetched.stderr.strip()}",
            remedy="check the URL, the network and your access; empty means this repository",
        )
    for key, default in (("user.name", "serac"), ("user.email", "serac@localhost")):
        found = run_git(checkout, "config", key)
        git(workspace, "config", key, found.stdout.strip() or default)


def share_cache(checkout: Path, workspace: Path) -> None:
    """Let the clone use the checkout's local DVC settings (credentials) and its cache.

    By copies: a stage that is killed while it writes must never write into the cache
    through a link.
    """
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo(str(checkout)) as repo:
        cache_dir = str(repo.cache.local_cache_dir)
    local = Path(".dvc") / "config.local"
    if (checkout / local).is_file() and checkout != workspace:
        shutil.copy(checkout / local, workspace / local)  # who may read it, too
    with Config(str(workspace / ".dvc")).edit("local") as settings:
        settings["cache"]["dir"] = cache_dir
        settings["cache"]["type"] = "copy"
        settings["core"]["check_update"] = False


def _commit_of_releases(workspace: Path) -> str:
    found = run_git(workspace, "rev-parse", "--verify", "--quiet", f"publish/{RELEASES}^{{commit}}")
    return found.stdout.strip() if found.returncode == 0 else ""


def merge_into(workspace: Path, releases: str, revision: str = "HEAD") -> str:
    """Put the clone on branch `candidate`: the releases branch with a commit merged in."""
    head = git(workspace, "rev-parse", revision)
    git(workspace, "checkout", "--quiet", "-B", "candidate", releases or head)
    if releases:
        merge = run_git(workspace, "merge", "--quiet", "--no-edit", "--no-verify", head)
        if merge.returncode:
            _settle_generated_files(workspace, merge.stdout + merge.stderr)
    return git(workspace, "rev-parse", "HEAD")


def _settle_generated_files(workspace: Path, words: str) -> None:
    conflicts = set(git(workspace, "diff", "--name-only", "--diff-filter=U").splitlines())
    by_hand = sorted(conflicts - GENERATED)
    if by_hand or not conflicts:
        raise MergeConflict(
            f"your commits and the last release disagree: {', '.join(by_hand) or words.strip()}",
            remedy=f"git merge {RELEASES}, settle the conflict, commit, and run again",
        )
    git(workspace, "checkout", "--ours", "--", *sorted(conflicts))
    git(workspace, "add", "--", *sorted(conflicts))
    git(workspace, "commit", "--quiet", "--no-edit", "--no-verify")


def same_tree(workspace: Path, first: str, second: str, *paths: str) -> bool:
    """Whether two commits (or, with `second` "", the working folder) hold the same files."""
    revisions = [first, second] if second else [first]
    found = run_git(workspace, "diff", "--quiet", *revisions, "--", *paths)
    return found.returncode == 0
