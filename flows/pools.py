"""Work pools and global concurrency limits, made on the server that PREFECT_API_URL names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from flows.deployments import DEPLOY
from serac_core.errors import SeracError

Infrastructure = Literal["process", "docker", "kubernetes"]

POOLS = {
    "serac-cpu": "Orchestrates: retrain, update-edits, rollback.",
    "serac-gpu": "Trains: the stages that train-on-gpu reproduces.",
}
PUBLISHING = "serac-publishing"
TRAINING = "serac-training"
LIMITS = {PUBLISHING: 1, TRAINING: 2}


class PoolOfAnotherKind(SeracError):
    """A work pool of ours is there, made for another infrastructure."""


class MissingLimit(SeracError):
    """The Prefect server has no global concurrency limit of that name."""


def make_pools(infrastructure: Infrastructure = "process") -> None:
    """Create the work pools, or bring their job templates up to date.

    Raises
    ------
    PoolOfAnotherKind
        Prefect can't change a pool's type.
    """
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        for name, description in POOLS.items():
            pool = client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=infrastructure,
                    description=description,
                    base_job_template=job_template(name, infrastructure),
                ),
                overwrite=True,
            )
            if pool.type != infrastructure:
                raise PoolOfAnotherKind(
                    f"work pool {name} is of type {pool.type}, asked for: {infrastructure}",
                    remedy=f"`prefect work-pool delete {name}` and deploy again, or keep its type",
                )


def job_template(pool: str, infrastructure: Infrastructure) -> dict[str, Any]:
    """How a pool's runs are started: Prefect's own template for processes, else ours."""
    if infrastructure == "process":
        from prefect.workers.process import ProcessWorker

        template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    else:
        file = DEPLOY / "pools" / f"{pool}.{infrastructure}.json"
        template = json.loads(file.read_text(encoding="utf-8"))
    return template


def make_limits(training_slots: int = 2) -> None:
    """Create the global concurrency limits, or set how many slots they have.

    Parameters
    ----------
    training_slots:
        Training stages at the same time, over all workers: as many as there are GPUs.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        for name, slots in {**LIMITS, TRAINING: training_slots}.items():
            client.upsert_global_concurrency_limit_by_name(name, slots)


@contextmanager
def slot(limit: str) -> Iterator[None]:
    """Hold a slot of a limit while the block lasts, in runs of a deployment; a run that a person
    started by a verb has no limits and passes.

    A lease that can't be renewed (the server is away) does not end the block. Publishing by one
    run at a time spares the others Git's lock errors; who publishes is decided by Git's
    compare-and-swap alone.

    Raises
    ------
    MissingLimit
    """
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency
    from prefect.runtime import deployment

    if not deployment.id:
        yield
        return
    try:
        with concurrency(
            limit, lease_duration=60, strict=True, raise_on_lease_renewal_failure=False
        ):
            yield
    except ConcurrencySlotAcquisitionError as error:
        raise MissingLimit(
            f"the Prefect server has no global concurrency limit {limit!r}",
            remedy="`serac deploy` makes it",
        ) from error
