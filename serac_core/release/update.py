"""The candidate of an update: a clone of the champion, without what people have in progress."""

from __future__ import annotations

from pathlib import Path

import yaml

from serac_core.config import Params, load_params
from serac_core.edits.edit_files import EditFiles, edit_files, next_update
from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.release.registry import Version, read_registry
from serac_core.workspace.candidate import (
    GENERATED,
    Candidate,
    merge_into,
    open_clone,
    same_tree,
)
from serac_core.workspace.commands import dvc_command, git, run_git, stream
from serac_core.workspace.pipeline import RemoteUnreachable, changed_stages
from serac_core.workspace.runs import Run

SERVING = ("validate-edits", "live-edits", "memory", "evaluate-live", "package")
"""The stages that an update may run, in their order: those that live edits are made into."""


class NothingToUpdate(SeracError):
    """There is no release yet: its models would have to be trained."""


class UpdatesNotServed(SeracError):
    """The champion's pipeline reads no updates: it was released before there were any."""


class ChampionRolledBack(SeracError):
    """The champion is an earlier release, and people's commits lie between it and the last one."""


class UnknownRevision(SeracError):
    """A revision is no commit of the checkout."""


class TrainingNeeded(SeracError):
    """More changed than the edits: a model would have to be trained or measured again."""


def take_update(run: Run, *, publish_to: str, revision: str = "") -> Candidate:
    """Clone the champion into the run's folder.

    Where the last releases were rolled back, the clone is on top of them and holds what the
    champion holds.

    Parameters
    ----------
    revision:
        A commit of the checkout to merge into it.

    Raises
    ------
    NothingToUpdate, ChampionRolledBack, UnknownRevision, MergeConflict, TargetUnreachable
    """
    target, releases = open_clone(run, publish_to)
    if not releases:
        raise NothingToUpdate(
            "there is no release yet that edits could be added to",
            remedy="`serac retrain` makes the first",
        )
    commit = _revision(run.checkout, revision) if revision else releases
    champion = read_registry(run.workspace).require_champion()
    merge_into(run.workspace, releases, releases)
    if champion.commit != releases:
        _go_back(run.workspace, champion, releases)
    if revision:
        merge_into(run.workspace, git(run.workspace, "rev-parse", "HEAD"), commit)
    head = git(run.workspace, "rev-parse", "HEAD")
    return Candidate(head, target, releases, same_tree(run.workspace, champion.commit, head))


def _revision(checkout: Path, revision: str) -> str:
    found = run_git(checkout, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found.returncode:
        raise UnknownRevision(
            f"{revision!r} is no commit of {checkout}",
            remedy="name a branch, tag or commit that `git log` shows",
        )
    return found.stdout.strip()


def _go_back(workspace: Path, champion: Version, releases: str) -> None:
    """Put on top of the last release what the champion holds."""
    updates = load_params(workspace / "params.yaml").edits.updates.rstrip("/") + "/"
    changed = git(workspace, "diff", "--name-only", champion.commit, releases).splitlines()
    of_people = [name for name in changed if name not in GENERATED and not name.startswith(updates)]
    if of_people:
        raise ChampionRolledBack(
            f"{champion.tag} is the champion again, and the releases after it changed "
            f"{', '.join(of_people[:5])}: an update can't tell which of that to keep",
            remedy="settle it in a commit and run `serac retrain`, or make the last release the "
            "champion again: `serac rollback --to VERSION`",
        )
    git(workspace, "read-tree", "--reset", "-u", champion.commit)
    git(
        workspace,
        "commit",
        "--quiet",
        "--allow-empty",
        "--no-verify",
        "-m",
        f"Back to {champion.tag}",
    )


def require_updates_served(workspace: Path, params: Params) -> None:
    """See that the clone's dvc.yaml serves the folder of updates.

    Raises
    ------
    UpdatesNotServed
    """
    pipeline = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))
    needed = [str(dep) for dep in pipeline["stages"]["live-edits"]["deps"]]
    if not {"${edits.updates}", params.edits.updates} & set(needed):
        raise UpdatesNotServed(
            "the champion's dvc.yaml does not serve edits.updates: it was released before there "
            "was `serac update-edits`",
            remedy="merge the newer dvc.yaml and data/updates into your branch and `serac retrain` "
            "once; nothing is trained anew for it",
        )


def released_files(workspace: Path, params: Params, *, say: Say, log: Path) -> EditFiles:
    """The files of the clone's edit set; a source under DVC is fetched.

    Raises
    ------
    RemoteUnreachable
    """
    source = workspace / params.edits.source
    if not source.exists():
        exit_code, lines = stream(
            dvc_command("pull", params.edits.source), cwd=workspace, say=say, log=log
        )
        if exit_code:
            raise RemoteUnreachable(
                f"{params.edits.source}: " + "\n".join(lines[-5:]),
                remedy="make the DVC remote that holds it reachable (`serac doctor` checks it)",
            )
    return edit_files(source, workspace / params.edits.updates)


def add_update(workspace: Path, params: Params, content: bytes) -> Path:
    """Put an update's file into the clone, as the last one."""
    folder = workspace / params.edits.updates
    folder.mkdir(parents=True, exist_ok=True)
    name = next_update(edit_files(workspace / params.edits.source, folder), content)
    (folder / name).write_bytes(content)
    git(workspace, "add", "--", f"{params.edits.updates}/{name}")
    return folder / name


def require_no_training(workspace: Path) -> None:
    """See that nothing but what live edits are made into would run.

    Raises
    ------
    TrainingNeeded
    """
    others = changed_stages(workspace, SERVING)
    if others:
        raise TrainingNeeded(
            f"more changed than the edits: stage {', '.join(others)} would have to run, and an "
            "update trains nothing",
            remedy="`serac retrain` builds and judges all of it",
        )


def with_models_of(workspace: Path, params: Params) -> Params:
    """The settings with the paths of models made those of the workspace."""
    models = params.models
    beside = {
        name: str(workspace / value)
        for name in ("base", "counterfactual", "encoder")
        if (value := getattr(models, name)) and (workspace / value).is_dir()
    }
    return params.model_copy(update={"models": models.model_copy(update=beside)})
