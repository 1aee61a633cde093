"""A Prefect worker whose runs end with it, however it ends, and are not left "Running".

Prefect's own worker, killed with SIGKILL, leaves its flow runs' processes alive, and the server
believes in them until their heartbeats are missed. Here a tether ends the processes, and the next
worker of the same name tells the server which runs those were.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from serac_core.progress import Say
from serac_core.tether import tether_descendants

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def work(pool: str, name: str, *, limit: int | None = None, say: Say) -> None:
    """Run a worker of a process pool until it is told to stop (SIGINT or SIGTERM).

    Parameters
    ----------
    name:
        The worker's own: the runs of an earlier one of this name are taken for dead.
    limit:
        Runs at the same time; None: as many as come.
    """
    import anyio

    tether_descendants()
    clear_lost_runs(name, say=say)
    worker = _worker_class()(
        work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False
    )
    anyio.run(_work_until_told, worker, say)
    clear_lost_runs(name, say=say)


async def _work_until_told(worker: Any, say: Say) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(worker.start, printer=say))
            async for number in signals:
                say(f"{number.name}: worker {worker.name} stops, its runs end")
                tasks.cancel_scope.cancel()
                return


def clear_lost_runs(name: str, *, say: Say) -> None:
    """Tell the server that the runs a worker had when it died are over, which frees their slots."""
    from prefect import get_client

    notes = sorted(_notes(name).glob("*-*"))
    if not notes:
        return
    with get_client(sync_client=True) as client:
        for note in notes:
            if _crash(client, UUID(note.name), name):
                say(f"run {note.name} was lost with worker {name}: marked as crashed")
            note.unlink()


def _crash(client: SyncPrefectClient, run_id: UUID, name: str) -> bool:
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return False
    if state is None or state.is_final():
        return False
    message = (
        f"worker {name} died, or was stopped, during this run: its processes were ended, nothing "
        "half done is published. Remedy: run it again; what is done stays done"
    )
    client.set_flow_run_state(run_id, Crashed(message=message), force=True)
    return True


def _notes(name: str) -> Path:
    """One empty file for each run that a worker has in hand, named by the run's id."""
    from prefect.settings import PREFECT_HOME

    return Path(PREFECT_HOME.value()) / "serac-workers" / name


@contextmanager
def _noted(name: str, run_id: UUID) -> Iterator[None]:
    note = _notes(name) / str(run_id)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    yield
    note.unlink(missing_ok=True)  # not when interrupted: then the server has to be told


def _worker_class() -> Any:
    from prefect.workers.process import ProcessWorker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes the place of Prefect's, in this process

        class TetheredWorker(ProcessWorker):
            """Prefect's process worker; it notes which runs it has in hand."""

            async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
                with _noted(self.name, flow_run.id):
                    return await super().run(flow_run, configuration, task_status)

    return TetheredWorker
