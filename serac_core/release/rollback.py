"""Back to an earlier release: the same version assigned to `prod` again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serac_core.config import load_params
from serac_core.progress import Say
from serac_core.release.copies import release_copy
from serac_core.release.registry import (
    Assignment,
    NothingToRollBackTo,
    assign,
    publish,
    read_registry,
)
from serac_core.workspace.candidate import publish_target, share_cache, take_clone
from serac_core.workspace.runs import Run, find_checkout, start_run


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes
    ----------
    before:
        The champion until now, e.g. `serac@v1.5.0`.
    assignment:
        The new assignment; its version is the champion now.
    copy:
        Verified directory of that release.
    """

    before: str
    assignment: Assignment
    copy: Path


def roll_back(checkout: str | Path, to: str | None, *, say: Say) -> RolledBack:
    """Make an earlier release the champion again and publish that.

    Its files are fetched and verified first: a release that can't be served is not assigned.

    Parameters
    ----------
    to:
        A version; None means the highest one below the champion's that held `prod`.

    Raises
    ------
    UnknownVersion, NothingToRollBackTo, ReleaseUnavailable, PublishRaceLost
    """
    with start_run(find_checkout(checkout), "rollback") as run:
        open_registry(run)
        registry = read_registry(run.workspace)
        before = registry.require_champion()
        target = registry.find(to) if to else registry.rollback_target()
        if target == before:
            raise NothingToRollBackTo(
                f"{target.tag} is the champion already",
                remedy="name another with --to; `serac releases list` shows them",
            )
        copy = release_copy(run, target, say=say)
        assignment = assign(run.workspace, target, registry.next_counter)
        publish(run.workspace, [assignment.tag])
    return RolledBack(before.tag, assignment, copy)


def fetch_release(checkout: str | Path, version: str | None, *, say: Say) -> Path:
    """A verified copy of a release (None: the champion), fetched if it is not at hand.

    Raises
    ------
    UnknownVersion, NoChampion, ReleaseUnavailable, InvalidRelease
    """
    with start_run(find_checkout(checkout), "fetch") as run:
        open_registry(run)
        registry = read_registry(run.workspace)
        wanted = registry.find(version) if version else registry.require_champion()
        return release_copy(run, wanted, say=say)


def open_registry(run: Run) -> None:
    """Clone the checkout with the versions and assignments of where releases are published."""
    settings = load_params(run.checkout / "params.yaml").registry
    take_clone(run.checkout, run.workspace, publish_target(run.checkout, settings.publish_to))
    share_cache(run.checkout, run.workspace)
