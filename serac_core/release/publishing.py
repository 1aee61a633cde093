"""From an approved candidate to a published release: commit, tags, one push."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serac_core.release.registry import (
    EDITS,
    RELEASE,
    Registry,
    Version,
    assign,
    read_registry,
    register,
)
from serac_core.workspace.candidate import GATE_FILE, LOCK_FILE, WIDTHS_FILE
from serac_core.workspace.commands import git, run_git
from serac_core.workspace.pipeline import out_hash

LIVE_EDITS = "data/live"


@dataclass(frozen=True)
class Tagged:
    """A release that is committed and tagged in the run's clone, not yet published."""

    release: Version
    edits: Version | None
    tags: tuple[str, ...]


def commit_release(workspace: Path) -> str:
    """Commit on the candidate what a run writes: locks, verdict, widths, DVC settings."""
    version = read_registry(workspace).next_version(RELEASE)
    git(workspace, "add", "--update")
    git(workspace, "add", "--", LOCK_FILE, GATE_FILE, WIDTHS_FILE)
    git(workspace, "commit", "--quiet", "--no-verify", "-m", f"Release {RELEASE}@{version}")
    return git(workspace, "rev-parse", "HEAD")


def tag_release(workspace: Path, commit: str) -> Tagged:
    """Register the commit as the next release, and as the next edit set if the live edits
    changed, and assign it to `prod`."""
    registry = read_registry(workspace)
    release = register(workspace, RELEASE, registry.next_version(RELEASE), commit)
    tags = [release.tag]
    edits = None
    if _live_edits_changed(workspace, registry, commit):
        edits = register(workspace, EDITS, registry.next_version(EDITS), commit)
        tags.append(edits.tag)
    assignment = assign(workspace, release, registry.next_counter)
    return Tagged(release, edits, (*tags, assignment.tag))


def _live_edits_changed(workspace: Path, registry: Registry, commit: str) -> bool:
    latest = registry.latest(EDITS)
    if latest is None:
        return True
    return _live_edits_hash(workspace, commit) != _live_edits_hash(workspace, latest.commit)


def _live_edits_hash(workspace: Path, commit: str) -> str:
    found = run_git(workspace, "show", f"{commit}:{LOCK_FILE}")
    return out_hash(found.stdout, LIVE_EDITS) if found.returncode == 0 else ""
