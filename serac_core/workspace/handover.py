"""A stage that another machine reproduces: what is handed to it, and how its result comes back.

The flow offers its candidate as a commit under a ref of the publishing target and uploads what
the stage reads. A worker clones that commit, reproduces the stage and uploads the run-cache, from
which the flow's own `dvc repro --pull` restores the result. Only the flow commits and publishes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.workspace.commands import command_environment, git, run_git
from serac_core.workspace.pipeline import check_remote, default_remote_url, push_data, reproduce
from serac_core.workspace.runs import Run

OFFERS = "refs/serac/candidates"
_OFFERS_KEPT = timedelta(days=7)


class OfferUnreadable(SeracError):
    """The candidate that a worker was asked to work on can't be fetched."""


class CudaMissing(SeracError):
    """The stage asks for CUDA, and this machine has none that PyTorch can use."""


class ResultLost(SeracError):
    """A stage that a worker reproduced could not be restored from the run-cache."""


@dataclass(frozen=True)
class Offer:
    """A candidate that workers can fetch.

    Attributes
    ----------
    repository:
        Git URL or absolute path.
    ref, commit:
        The ref there, and what it points at.
    """

    repository: str
    ref: str
    commit: str


@contextmanager
def offered(run: Run, stages: Sequence[str], *, say: Say) -> Iterator[Offer]:
    """Offer the run's clone as it is, locks of the stages before included, for as long as the
    block lasts; what these stages read is uploaded first.

    Raises
    ------
    RemoteUnreachable
        Their inputs can't be uploaded.
    GitFailed
        The target takes no refs.
    """
    push_inputs(run, stages, say=say)
    target = git(run.workspace, "remote", "get-url", "publish")
    commit = _commit_working_folder(run.workspace)
    ref = f"{OFFERS}/{run.id}"
    _remove_old_offers(run.workspace)
    git(
        run.workspace,
        *("push", "--quiet", "--no-verify", "publish", f"{commit}:{ref}"),
        remedy="workers fetch the candidate from there: allow refs/serac/* to be pushed",
    )
    try:
        yield Offer(target, ref, commit)
    finally:
        run_git(run.workspace, "push", "--quiet", "--no-verify", "publish", f":{ref}")


def push_inputs(run: Run, stages: Sequence[str], *, say: Say) -> None:
    """Upload what stages read of other stages' outputs: `dvc push STAGE...`.

    Raises
    ------
    RemoteUnreachable
    """
    made_by = producers(run.workspace, stages)
    if not made_by:
        return
    push_data(
        run.workspace,
        *made_by,
        say=say,
        log=run.log,
        environment=run.stage_environment,
        remedy="workers read it from the DVC remote: check its URL, space and your access",
    )


def producers(workspace: Path, stages: Sequence[str]) -> list[str]:
    """The stages, and `.dvc` files, whose outputs in DVC's cache some stages read."""
    from dvc.repo import Repo

    with Repo(str(workspace)) as repo:
        pipeline = repo.index.stages
        wanted = {
            Path(dep.fs_path)
            for stage in pipeline
            if getattr(stage, "name", None) in stages
            for dep in stage.deps
            if dep.protocol == "local"
        }
        return sorted(
            # Addresses are relative to this process's folder, names and these paths are not.
            getattr(stage, "name", None) or Path(stage.path).relative_to(workspace).as_posix()
            for stage in pipeline
            for out in stage.outs
            if out.use_cache
            and any(
                path.is_relative_to(out.fs_path) or Path(out.fs_path).is_relative_to(path)
                for path in wanted
            )
        )


def _commit_working_folder(workspace: Path) -> str:
    """A commit of the files as they are, on top of HEAD; branch and index stay where they were."""
    with tempfile.TemporaryDirectory() as folder:
        aside = command_environment({"GIT_INDEX_FILE": str(Path(folder) / "index")})
        for arguments in (("read-tree", "HEAD"), ("add", "--all")):
            git(workspace, *arguments, environment=aside)
        tree = git(workspace, "write-tree", environment=aside)
    return git(workspace, "commit-tree", tree, "-p", "HEAD", "-m", "Candidate for workers")


def _remove_old_offers(workspace: Path) -> None:
    """Remove what killed runs left; a run's id begins with its time."""
    oldest = (datetime.now(UTC) - _OFFERS_KEPT).strftime("%Y%m%d-%H%M%S")
    listed = run_git(workspace, "ls-remote", "publish", f"{OFFERS}/*").stdout.split()[1::2]
    old = [f":{ref}" for ref in listed if ref.rsplit("/", 1)[-1] < oldest]
    if old:
        run_git(workspace, "push", "--quiet", "--no-verify", "publish", *old)


def work_on(run: Run, offer: Offer, stage: str, *, say: Say) -> list[str]:
    """Reproduce one stage of an offered candidate in a clone of the worker's own, and upload
    what came of it.

    Parameters
    ----------
    run:
        Of the worker's folder: its checkpoints and its DVC cache outlive the clone.

    Returns
    -------
    list[str]
        The stage, if its command ran; empty when the run-cache had the result already.

    Raises
    ------
    OfferUnreadable, RemoteUnreachable, StageFailed
    """
    take_offer(run, offer)
    _keep_cache(run)
    check_remote(run.workspace, default_remote_url(run.workspace, ""))
    ran = reproduce(
        run.workspace,
        [stage],
        say=say,
        log=run.log,
        environment=run.stage_environment,
        single=True,
    )
    push_data(
        run.workspace,
        stage,
        say=say,
        log=run.log,
        environment=run.stage_environment,
        run_cache=True,
        remedy="check the remote's space and this worker's access; run again: what is trained "
        "stays in this worker's checkpoints",
    )
    return ran


def take_offer(run: Run, offer: Offer) -> None:
    """Clone an offered commit into the run's folder.

    Raises
    ------
    OfferUnreadable
    """
    run.workspace.mkdir(parents=True)
    git(run.workspace, "init", "--quiet")
    fetched = run_git(
        run.workspace, "fetch", "--quiet", "--depth", "1", "--", offer.repository, offer.ref
    )
    if fetched.returncode:
        raise OfferUnreadable(
            f"{offer.repository} {offer.ref} can't be fetched: {fetched.stderr.strip()}",
            remedy="the repository must be reachable from the worker under this name: set "
            "registry.publish_to to a URL that all machines share",
        )
    found = git(run.workspace, "rev-parse", "FETCH_HEAD")
    if found != offer.commit:
        raise OfferUnreadable(
            f"{offer.ref} is at {found[:10]}, not at the commit asked for, {offer.commit[:10]}",
            remedy="the flow that asked has ended or started anew; its next run asks again",
        )
    git(run.workspace, "checkout", "--quiet", "--detach", found)


def _keep_cache(run: Run) -> None:
    from dvc.config import Config

    with Config(str(run.workspace / ".dvc")).edit("local") as settings:
        settings["cache"]["dir"] = str(run.folder.parents[1] / "dvc-cache")
        settings["cache"]["type"] = "copy"
        settings["core"]["check_update"] = False


def require_restored(ran: Sequence[str], reproduced: Sequence[str]) -> None:
    """See that no stage that workers reproduced ran here once more.

    Raises
    ------
    ResultLost
    """
    twice = sorted(set(ran) & set(reproduced))
    if twice:
        raise ResultLost(
            f"{', '.join(twice)} ran again here, though a worker had reproduced it",
            remedy="the run-cache of the DVC remote did not hold the result: check that no output "
            "of the stage is `cache: false` or `persist`, and that nobody removed it meanwhile",
        )


def require_cuda() -> None:
    """Refuse work that needs a GPU on a machine without one.

    Raises
    ------
    CudaMissing
    """
    import torch

    if not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise CudaMissing(
            "this worker has no CUDA device"
            + ("" if seen is None else f" (CUDA_VISIBLE_DEVICES={seen!r})")
            + f", and PyTorch {torch.__version__} was asked for one",
            remedy="start the worker on a machine with a GPU and a CUDA build of PyTorch, or set "
            "retrain.require_cuda to false",
        )
