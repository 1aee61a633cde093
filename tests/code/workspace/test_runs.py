"""A run's folder, one run at a time, and clearing up after dead ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serac_core.tether import MARK, kill_marked, tether_descendants
from serac_core.workspace.runs import NotACheckout, RunInProgress, find_checkout, start_run


def test_run_has_a_folder_and_its_clone_goes_with_it(checkout: Path) -> None:
    with start_run(checkout, "retrain") as run:
        run.workspace.mkdir()
        record = json.loads((run.folder / "run.json").read_text())
        assert record["pid"] == os.getpid()
    assert not run.workspace.exists()
    assert run.folder.is_dir()


def test_clone_goes_when_the_run_fails(checkout: Path) -> None:
    with pytest.raises(RuntimeError), start_run(checkout, "retrain") as run:
        run.workspace.mkdir()
        raise RuntimeError
    assert not run.workspace.exists()


def test_one_run_of_a_flow_at_a_time(checkout: Path) -> None:
    with start_run(checkout, "retrain"):
        with pytest.raises(RunInProgress), start_run(checkout, "retrain"):
            pass
        with start_run(checkout, "rollback"):
            pass


def test_dead_run_is_cleared_up(checkout: Path) -> None:
    """Its orphans are killed and its clone removed, though its pid is in use again."""
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, MARK: "dead-1"}
    )
    dead = checkout / ".serac/runs/20200101-000000-dead"
    (dead / "workspace").mkdir(parents=True)
    record = {"flow": "retrain", "pid": os.getppid(), "mark": "dead-1"}
    (dead / "run.json").write_text(json.dumps(record))
    with start_run(checkout, "retrain"):
        assert orphan.wait(5) == -9
        assert not (dead / "workspace").exists()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"flow": "retrain"}'])
def test_run_that_died_at_its_start_is_cleared_up(checkout: Path, record: str) -> None:
    dead = checkout / ".serac/runs/20200101-000000-dead"
    (dead / "workspace").mkdir(parents=True)
    (dead / "run.json").write_text(record)
    with start_run(checkout, "retrain"):
        assert not (dead / "workspace").exists()


def test_living_run_of_another_flow_is_left_alone(checkout: Path) -> None:
    with start_run(checkout, "rollback") as other:
        other.workspace.mkdir()
        with start_run(checkout, "retrain"):
            pass
        assert other.workspace.is_dir()


def test_old_logs_are_pruned(checkout: Path) -> None:
    for number in range(30):
        (checkout / f".serac/runs/20200101-0000{number:02}-x").mkdir(parents=True)
    with start_run(checkout, "retrain"):
        left = sorted(path.name for path in (checkout / ".serac/runs").iterdir() if path.is_dir())
    assert len(left) == 21
    assert left[0] == "20200101-000010-x"


def test_what_is_no_checkout_is_named(checkout: Path, tmp_path: Path) -> None:
    assert find_checkout(checkout / "data") == checkout
    with pytest.raises(NotACheckout, match="no such folder"):
        find_checkout(tmp_path / "nowhere")
    with pytest.raises(NotACheckout, match="not in a Git repository"):
        find_checkout(tmp_path)
    (checkout / "dvc.yaml").unlink()
    with pytest.raises(NotACheckout, match=r"no dvc\.yaml"):
        find_checkout(checkout)


def test_tether_kills_every_descendant_when_its_process_is_killed(tmp_path: Path) -> None:
    """Also those in sessions of their own whose parents are gone."""
    beat = tmp_path / "beat"
    grandchild = f"import time\nwhile True: open({str(beat)!r}, 'w').write(str(time.time()))"
    child = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True)"
    )
    script = (
        "import subprocess, sys, time\n"
        "from serac_core.tether import tether_descendants\n"
        "print(tether_descendants(), flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    mark = process.stdout.readline().strip()
    deadline = time.monotonic() + 20
    while not beat.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert beat.exists()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while _carry(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _carry(mark) == 0
    last = beat.read_text()
    time.sleep(0.1)
    assert beat.read_text() == last


def _carry(mark: str) -> int:
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.environ().get(MARK) == mark
        except psutil.Error:
            continue
    return count


def test_ended_run_leaves_what_its_process_does_next_alone(checkout: Path) -> None:
    with start_run(checkout, "retrain"):
        pass
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with start_run(checkout, "retrain"):
        assert child.poll() is None
    child.kill()
    child.wait()


def test_tethering_twice_changes_nothing() -> None:
    assert kill_marked("nobody-has-this-mark") == 0
    assert tether_descendants() == tether_descendants()
