"""The processes that train one model together: how they meet, agree, and are started.

Each holds the whole model and computes its share of every step's batch. Any launcher that sets
`RANK`, `LOCAL_RANK` and `WORLD_SIZE` will do (`accelerate launch`, `torchrun`); :func:`launch` is
for the processes of one machine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from serac_core.base.loading import Device
from serac_core.errors import SeracError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class UnevenBatch(SeracError):
    """A step's batch can't be shared out evenly among the processes."""


class LauncherGone(SeracError):
    """What started this process has ended: nothing would end it, or the others, in time."""


class ProcessesFailed(SeracError):
    """A training process died without an error of the catalogue."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes
    ----------
    count, index:
        How many there are, and which this one is; 0 is the main one, which alone writes.
    device:
        Where this one computes; None: as it was asked for.
    launcher:
        Process id of what started this one.
    """

    count: int
    index: int
    device: str | None
    launcher: int

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share(self, batch_size: int) -> int:
        """Examples of a step that each process computes.

        Raises
        ------
        UnevenBatch
        """
        if batch_size % self.count:
            divisors = [n for n in range(1, self.count) if batch_size % n == 0]
            raise UnevenBatch(
                f"counterfactual.batch_size {batch_size} does not divide by {self.count} processes",
                remedy=f"make it a multiple of {self.count}, or start "
                f"{' or '.join(map(str, divisors))} process{'es' if divisors[1:] else ''}",
            )
        return batch_size // self.count

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, handed to all; they wait for it."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        box: list[T | None] = [make() if self.is_main else None]
        made: T = broadcast_object_list(box)[0]
        return made

    def worst(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.count == 1:
            return value
        import torch

        largest = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest)

    def together(self, names: list[str]) -> list[str]:
        """The names of all processes, in their order."""
        if self.count == 1:
            return names
        from accelerate.utils import gather_object

        gathered: list[str] = gather_object(names)
        return gathered

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count == 1:
            return
        from torch import distributed

        for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()

    def check_launcher(self) -> None:
        """Stop when what started this process was killed: a training that is started again
        must not find this one still writing.

        Raises
        ------
        LauncherGone
        """
        if self.count > 1 and os.getppid() != self.launcher:
            raise LauncherGone(
                f"process {self.index} of {self.count}: its launcher has ended",
                remedy="start the training again; it goes on from its last checkpoint",
            )


def join(device: Device, timeout: float) -> Processes:
    """Meet the processes that the launcher started; without a launcher, be the only one.

    Parameters
    ----------
    timeout:
        Seconds after which a process that waits for another gives up.
    """
    import torch
    from accelerate.state import AcceleratorState, PartialState

    launcher = os.getppid()
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training here
    state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout))
    if state.num_processes == 1:
        return Processes(1, 0, None, launcher)
    own = "cpu" if on_cpu else str(state.device)
    return Processes(state.num_processes, state.process_index, own, launcher)


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes; asked after a training."""
    from accelerate.state import PartialState

    return bool(PartialState().is_main_process)


def launch(count: int, request: Mapping[str, object]) -> dict[str, float]:
    """Train in new processes of this machine and return what the main one returns.

    Parameters
    ----------
    request:
        Arguments of :func:`serac_core.counterfactual.train`, as JSON has them.

    Raises
    ------
    SeracError
        What stopped the training; `ProcessesFailed` where it has no name.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    with TemporaryDirectory(prefix="serac-") as name, _signals_as_they_were():
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        try:
            elastic_launch(config, sys.executable)(
                "-m", "serac_core.counterfactual.worker", str(folder)
            )
        except ChildFailedError as error:
            for file in sorted(folder.glob("error-*.json")):
                raise _read_error(file) from None
            rank, failure = error.get_first_failure()
            raise ProcessesFailed(
                f"training process {rank} of {count} ended with exit code {failure.exitcode}",
                remedy="see what it said above; started again, training goes on from its last "
                "checkpoint",
            ) from None
        figures: dict[str, float] = json.loads((folder / "figures.json").read_text())
        return figures


def write_error(error: SeracError, file: Path) -> None:
    """Keep an error for the process that launched this one."""
    kind = type(error)
    content = [kind.__module__, kind.__qualname__, error.what, error.remedy]
    file.write_text(json.dumps(content), encoding="utf-8")


def _read_error(file: Path) -> SeracError:
    module, name, what, remedy = json.loads(file.read_text(encoding="utf-8"))
    error: SeracError = getattr(import_module(module), name)(what, remedy=remedy)
    return error


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """The elastic agent leaves its own handlers behind; in a notebook, Ctrl-C would be theirs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    saved = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
