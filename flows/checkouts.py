"""The folder that a worker's runs work from: a person's checkout, or a clone of its own."""

from __future__ import annotations

import os
from pathlib import Path

from serac_core.config import load_params
from serac_core.errors import SeracError
from serac_core.workspace.commands import git, run_git
from serac_core.workspace.runs import find_checkout


class NoCheckout(SeracError):
    """A worker's environment does not say which repository its runs are about."""


class NowhereToPublish(SeracError):
    """Releases would stay in a worker's own clone."""


def take_checkout(folder: str = "", repository: str = "") -> dict[str, str]:
    """Prefect's pull step of every deployment: go to the worker's checkout.

    Parameters
    ----------
    folder:
        `SERAC_CHECKOUT` of the worker's environment.
    repository:
        `SERAC_REPOSITORY`: a Git URL or path. The folder is then a clone of it, brought to its
        default branch; empty: the folder is a person's, and only read.

    Raises
    ------
    NoCheckout, NowhereToPublish, NotACheckout, GitFailed
    """
    if not folder:
        raise NoCheckout(
            "SERAC_CHECKOUT is not set for this worker",
            remedy="start it with `serac worker --checkout FOLDER`, or set SERAC_CHECKOUT",
        )
    path = Path(folder)
    if repository:
        refresh_clone(path, repository)
    root = find_checkout(path)
    if repository and not load_params(root / "params.yaml").registry.publish_to:
        raise NowhereToPublish(
            f"{root} is a worker's clone of {repository}, and registry.publish_to is empty",
            remedy=f"set registry.publish_to in params.yaml, to {repository}, and commit",
        )
    os.chdir(root)
    return {"directory": str(root)}


def take_folder() -> dict[str, str]:
    """Prefect's pull step of a deployment whose runs bring their own repository."""
    path = own_folder()
    path.mkdir(parents=True, exist_ok=True)
    os.chdir(path)
    return {"directory": str(path)}


def own_folder() -> Path:
    """Where a worker keeps clones, checkpoints and a DVC cache, unless it is told another."""
    return Path.home() / ".cache" / "serac" / "worker"


def refresh_clone(folder: Path, repository: str) -> None:
    """Make the folder a clone of the repository, on the newest commit of its default branch."""
    if not (folder / ".git").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(folder.parent, "clone", "--quiet", repository, str(folder), remedy=_REMEDY)
        return
    git(folder, "fetch", "--quiet", "--tags", "--force", "origin", remedy=_REMEDY)
    run_git(folder, "remote", "set-head", "origin", "--auto")
    git(folder, "checkout", "--quiet", "--force", "--detach", "origin/HEAD")


_REMEDY = (
    "check SERAC_REPOSITORY, the network and this worker's access (Git's own means: a credential "
    "helper, or an SSH key)"
)
