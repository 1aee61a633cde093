"""Stages that the workers of a Prefect deployment reproduce, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.steps import say, step
from serac_core.config import load_params
from serac_core.errors import SeracError
from serac_core.workspace.handover import Offer, offered, require_restored
from serac_core.workspace.pipeline import is_up_to_date, reproduce
from serac_core.workspace.reports import failures_reported
from serac_core.workspace.runs import Run

_SECONDS_BETWEEN = 1.0
_SECONDS_OF_SILENCE = 30.0


class WorkerFailed(SeracError):
    """A worker could not reproduce its stage, or its run ended otherwise."""


class UnknownDeployment(SeracError):
    """The Prefect server knows no deployment of that name."""


def on_workers(deployment: str, *targets: str) -> Callable[[Run], list[str]]:
    """A step that has stages of dvc.yaml reproduced by a deployment's workers, one run for each
    that is not up to date, and restores what came of it; names those that workers reproduced."""

    @step(f"train on workers of {deployment}")
    def reproduce_stages(run: Run) -> list[str]:
        waiting = [stage for stage in targets if not is_up_to_date(run.workspace, stage)]
        if waiting:
            cuda = load_params(run.workspace / "params.yaml").retrain.require_cuda
            with offered(run, waiting, say=say) as offer:
                await_all(ask_workers(deployment, offer, waiting, cuda=cuda))
        with failures_reported(run):
            ran = reproduce(
                run.workspace, targets, say=say, log=run.log, environment=run.stage_environment
            )
        require_restored(ran, waiting)
        return waiting

    return reproduce_stages


def ask_workers(
    deployment: str, offer: Offer, stages: list[str], *, cuda: bool
) -> dict[str, FlowRun]:
    """Start a run of the deployment for each stage.

    Raises
    ------
    UnknownDeployment
    """
    candidate = {"repository": offer.repository, "ref": offer.ref, "commit": offer.commit}
    return {
        stage: start_on_worker(deployment, {**candidate, "stage": stage, "cuda": cuda}, stage)
        for stage in stages
    }


def start_on_worker(deployment: str, parameters: dict[str, object], what: str) -> FlowRun:
    """Ask for a run of a deployment, without waiting for it.

    Raises
    ------
    UnknownDeployment
    """
    try:
        asked = run_deployment(deployment, parameters=parameters, timeout=0)
    except ObjectNotFound as error:
        raise _unknown(deployment) from error
    say(f"{what}: asked as run {asked.name} ({asked.id})")
    return asked


def online_workers(deployment: str) -> int:
    """How many workers of a deployment's pool are online, at least 1.

    Raises
    ------
    UnknownDeployment
    """
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_deployment_by_name(deployment).work_pool_name
        except ObjectNotFound as error:
            raise _unknown(deployment) from error
        workers = client.read_workers_for_work_pool(pool) if pool else []
    return max(1, sum(worker.status is WorkerStatus.ONLINE for worker in workers))


def _unknown(deployment: str) -> UnknownDeployment:
    return UnknownDeployment(
        f"the Prefect server has no deployment {deployment!r}",
        remedy="`serac deploy` makes them; `prefect deployment ls` shows them",
    )


def await_all(asked: Mapping[str, FlowRun]) -> None:
    """Wait until all runs have completed; when one ends otherwise, cancel the others.

    Raises
    ------
    WorkerFailed
    """
    with get_client(sync_client=True) as client:
        open_runs = {stage: run.id for stage, run in asked.items()}
        spoke = time.monotonic()
        try:
            while open_runs:
                for stage, run_id in list(open_runs.items()):
                    if _has_completed(client, stage, run_id):
                        del open_runs[stage]
                if open_runs and time.monotonic() - spoke > _SECONDS_OF_SILENCE:
                    spoke = time.monotonic()
                    say("; ".join(_wait_line(client, *one) for one in open_runs.items()))
                time.sleep(_SECONDS_BETWEEN if open_runs else 0)
        except BaseException:
            for run_id in open_runs.values():
                client.set_flow_run_state(run_id, Cancelling())
            raise


def _has_completed(client: SyncPrefectClient, stage: str, run_id: UUID) -> bool:
    state = client.read_flow_run(run_id).state
    if state is None or not state.is_final():
        return False
    if not state.is_completed():
        raise WorkerFailed(
            f"{stage}: the worker's run ended as {state.name}: {state.message or 'no message'}",
            remedy="its log is in Prefect; mend the cause and run again: what workers completed "
            "is restored, what one had trained it takes up again",
        )
    say(f"{stage}: {state.message}")
    return True


def _wait_line(client: SyncPrefectClient, stage: str, run_id: UUID) -> str:
    state = client.read_flow_run(run_id).state
    name = state.name if state else "unknown"
    hint = (
        ": no worker of its pool has taken it" if name in ("Scheduled", "Late", "Pending") else ""
    )
    return f"{stage} is {name}{hint}"
