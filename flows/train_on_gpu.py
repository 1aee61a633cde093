"""One training stage on a worker: what `retrain` hands out when `retrain.train_on` is set.

A worker reproduces the stage in a clone of its own and uploads the result; it commits, tags and
publishes nothing.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.checkouts import own_folder
from flows.pools import TRAINING, slot
from flows.steps import log_errors_plainly, say
from serac_core.errors import SeracError
from serac_core.workspace.device_use import describe_device_use
from serac_core.workspace.handover import Offer, require_cuda, work_on
from serac_core.workspace.runs import start_run

TrainingStage = Literal["train-scope", "train-counterfactual"]

_STEP = re.compile(r"\bstep (\d+)/(\d+)")
_SECONDS_BETWEEN = 2.0


@flow(name="train-on-gpu", flow_run_name="{stage}", persist_result=False)
def train_on_gpu(
    repository: str,
    ref: str,
    commit: str,
    stage: TrainingStage,
    cuda: bool = False,
    folder: str = "",
) -> State[list[str]]:
    """Reproduce a training stage of a candidate that a retraining offers.

    Parameters
    ----------
    repository, ref, commit:
        Where the candidate is; see :class:`serac_core.workspace.handover.Offer`.
    cuda:
        Refuse at once on a machine without a CUDA device.
    folder:
        The worker's: clones, checkpoints and a DVC cache. Empty: `~/.cache/serac/worker`.

    Returns
    -------
    State
        Completed with the stages whose command ran; Failed with the :class:`SeracError`.
    """
    log_errors_plainly()
    worker = Path(folder) if folder else own_folder()
    try:
        if cuda:
            require_cuda()
        with slot(TRAINING), start_run(worker, stage, wait=True, say=say) as run:
            shown = TrainingProgress(stage)
            ran = work_on(run, Offer(repository, ref, commit), stage, say=shown.say)
            shown.end()
    except SeracError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"{stage} {'trained' if ran else 'was at hand'}", data=ran)


class TrainingProgress:
    """Steps done, time left and the load of the device, as a Prefect progress artifact."""

    def __init__(self, stage: str) -> None:
        self._started = self._shown = time.monotonic()
        self._artifact: Any = create_progress_artifact(
            progress=0.0, key=f"{stage}-progress", description=f"{stage}: begins"
        )

    def say(self, line: str) -> None:
        """Log a line of the stage's; one that counts steps moves the bar."""
        say(line)
        counted = _STEP.search(line)
        now = time.monotonic()
        if counted is None or now - self._shown < _SECONDS_BETWEEN:
            return
        self._shown = now
        done, total = int(counted[1]), int(counted[2])
        left = f", {(now - self._started) / done * (total - done):.0f} s left" if done else ""
        update_progress_artifact(
            self._artifact,
            progress=100.0 * done / max(1, total),
            description=f"step {done} of {total}{left}; {describe_device_use()}",
        )

    def end(self) -> None:
        update_progress_artifact(self._artifact, progress=100.0, description="done")
