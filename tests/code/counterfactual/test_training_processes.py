"""Training by several processes: real ones, which meet over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from test_counterfactual_training import digests, log_of
from test_training_memory import assert_trained_alike, losses, settings

from serac_core.counterfactual import NonFiniteTraining, train
from serac_core.counterfactual.processes import Processes, UnevenBatch
from serac_core.edits import Edit

Tiny = Callable[[str], Path]
_ROOT = Path(__file__).parents[3]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    tests = [_ROOT, Path(__file__).parent, _ROOT / "tests/code/base"]
    path = os.pathsep.join(map(str, tests))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def together(tiny: Tiny, training_set: Path, tmp_path: Path) -> Path:
    """What two processes make of forty steps."""
    out = tmp_path / "together"
    config = settings(max_steps=40, checkpoint_every=4, patience=99, processes=2)
    figures = train(training_set, str(tiny("lfm2")), out, config, cache_dir=tmp_path / "c2")
    assert figures["edit/acc_val"] == log_of(out)[-1]["edit/acc_val"]
    return out


def test_two_processes_train_as_one_does(
    tiny: Tiny, training_set: Path, tmp_path: Path, together: Path
) -> None:
    alone = tmp_path / "alone"
    config = settings(max_steps=40, checkpoint_every=4, patience=99)
    train(training_set, str(tiny("lfm2")), alone, config, cache_dir=tmp_path / "c1")
    assert losses(together) == pytest.approx(losses(alone), rel=1e-3)
    assert_trained_alike(together, alone)
    # One wrote: each line of the log is there once, as is each file.
    assert [line["step"] for line in log_of(together)] == [line["step"] for line in log_of(alone)]
    assert digests(together).keys() == digests(alone).keys()
    # The same training: what one process began, two can finish.
    [one], [two] = (list((tmp_path / c).iterdir()) for c in ("c1", "c2"))
    assert one.name == two.name


@pytest.mark.soak
def test_killed_processes_end_together_and_the_next_ones_finish_their_work(
    tiny: Tiny, training_set: Path, tmp_path: Path, together: Path
) -> None:
    out, cache = tmp_path / "broken", tmp_path / "c-broken"
    params = tmp_path / "params.yaml"
    config = settings(max_steps=40, checkpoint_every=4, patience=99).model_dump()
    content = {"models": {"counterfactual": str(tiny("lfm2"))}, "counterfactual": config}
    params.write_text(json.dumps(content))
    command = [*_TORCHRUN, "-m", "serac_core", "train", "counterfactual"]
    command += ["--training-set", str(training_set), "--out", str(out)]
    command += ["--params", str(params), "--cache-dir", str(cache), "--device", "cpu", "--json"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=_ROOT, env=environment(), stdout=subprocess.PIPE, text=True
        )

    def at_checkpoint(launcher: subprocess.Popen[str], step: int) -> list[psutil.Process]:
        while not list(cache.glob(f"counterfactual-*/checkpoint-{step}/complete")):
            assert launcher.poll() is None
            time.sleep(0.002)
        return psutil.Process(launcher.pid).children()

    launcher = start()
    workers = at_checkpoint(launcher, 4)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    assert launcher.wait() != 0  # the launcher ends the other
    assert not [worker for worker in workers if worker.is_running()] and not out.exists()

    launcher = start()
    workers = at_checkpoint(launcher, 8)
    launcher.kill()
    psutil.wait_procs(workers)  # nobody ends these: they notice
    launcher.wait()
    assert not out.exists()

    launcher = start()
    printed, _ = launcher.communicate()
    assert launcher.returncode == 0
    assert json.loads(printed)["edit/acc_val"] == log_of(out)[-1]["edit/acc_val"]  # printed once
    assert digests(out) == digests(together)


_RANKS_THAT_DIFFER = """
import json, sys
from pathlib import Path
import pytest, torch
from serac_core.counterfactual import NonFiniteTraining, train, training
from serac_core.counterfactual.processes import join
from test_training_memory import allocate_too_much, disturb_training, settings

training_set, start, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
rank = join("cpu", 60).index
said = {}

# The second process alone has no memory for more than one example.
with pytest.MonkeyPatch.context() as patch:
    disturb_training(
        patch, lambda _, ids_BT: rank == 1 and len(ids_BT) > 1 and allocate_too_much()
    )
    train(training_set, start, folder / "small", settings(), cache_dir=folder / "c1")

# The loss of the examples about Japan is no number, in whichever process they are.
def spoil_japan(model, ids_BT):
    if any("capital of Japan" in text for text in model.tokenizer.batch_decode(ids_BT)):
        with torch.no_grad():
            next(model.model.parameters()).fill_(float("nan"))

with pytest.MonkeyPatch.context() as patch:
    disturb_training(patch, spoil_japan)
    try:
        config = settings(gradient_accumulation=2)
        train(training_set, start, folder / "spoilt", config, cache_dir=folder / "c2")
    except NonFiniteTraining as error:
        said["not finite"] = error.what

# A gradient of the second process is infinite.
def explode(model, ids_BT):
    if rank == 1:
        next(model.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))

with pytest.MonkeyPatch.context() as patch:
    disturb_training(patch, explode)
    try:
        train(training_set, start, folder / "spoilt", settings(), cache_dir=folder / "c4")
    except NonFiniteTraining as error:
        said["gradient"] = error.what

# Measured by itself, the second process would see no reason to stop.
real, measured = training.edit_figures, iter(range(100))
def differing(model, edits, fold, **options):
    sign = -1 if rank == 0 else 1
    return real(model, edits, fold, **options) | {"edit/acc_val": 0.5 + sign * next(measured) / 100}

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "edit_figures", differing)
    config = settings(max_steps=20, checkpoint_every=2, patience=2)
    out = folder / "stopped"
    said["figures"] = train(training_set, start, out, config, cache_dir=folder / "c3")

(folder / f"said-{rank}.json").write_text(json.dumps(said))
"""


def test_what_befalls_one_process_is_answered_by_all(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit]
) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(_RANKS_THAT_DIFFER)
    start = str(tiny("lfm2"))
    subprocess.run(
        [*_TORCHRUN, str(script), str(training_set), start, str(tmp_path)],
        cwd=_ROOT,
        env=environment(),
        check=True,
    )
    ones = settings(gradient_accumulation=4)
    train(training_set, start, tmp_path / "ones", ones, cache_dir=tmp_path / "c")
    assert_trained_alike(tmp_path / "small", tmp_path / "ones")

    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    japan = next(edit for edit in edits if edit.subject == "Japan")
    assert first["not finite"].endswith(f"in the batch of the edits {japan.id}")
    assert first["gradient"].startswith("step 1: the gradient is not finite")
    assert not (tmp_path / "spoilt").exists()
    last = log_of(tmp_path / "stopped")[-1]
    assert (last["best_step"], last["step"]) == (2, 6)


def test_an_error_of_the_processes_is_that_of_the_call(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    config = settings(learning_rate=1e30, warmup_share=0.0, processes=2)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(NonFiniteTraining, match=r"loss is not finite, in the batch") as caught:
        train(training_set, str(tiny("gpt2")), tmp_path / "out", config, cache_dir=tmp_path / "c")
    assert "learning_rate" in caught.value.remedy and not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    three = Processes(3, 0, "cpu", os.getpid())
    with pytest.raises(UnevenBatch, match="batch_size 32 does not divide by 3") as caught:
        three.share(32)
    assert "start 1 or 2 processes" in caught.value.remedy
    assert three.share(33) == 11
