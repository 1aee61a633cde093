"""The flow killed with SIGKILL at named points: the next run completes, nothing is half done."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from light_project import commit_all, edit_line, refs, run_retrain, sh, start_retrain
from test_retrain import outcome_of, set_param

from serac_core.release.manifest import verify_release
from serac_core.tether import MARK

pytestmark = pytest.mark.usefixtures("prefect_server")

POINTS = (
    "before:take_candidate",
    "after:take_candidate",
    "after:reproduce:validate-edits",
    "after:reproduce:train-counterfactual",
    "before:gate_release",
    "after:write_verdict",
    "after:push_data",
    "after:commit_release",
    "after:tag_release",
    "after:publish",
)
COMPLETE = {"refs/tags/serac@v1.1.0", "refs/tags/edits@v1.1.0", "refs/tags/serac#prod#2"}


@pytest.fixture
def at_work(released: Path) -> Path:
    """A released project with a committed change to build, and a person at work in it."""
    (released / "data/edits.jsonl").write_text(edit_line("e-1", "Paris") + edit_line("e-2", "Bari"))
    set_param(released, "scope", max_steps=5)
    commit_all(released, "change")
    (released / "notes.txt").write_text("half a thought\n")
    (released / "draft.txt").write_text("untracked\n")
    (released / "staged.txt").write_text("staged\n")
    sh(released, "git", "add", "staged.txt")
    return released


def persons_state(folder: Path) -> tuple[str, str, str, str]:
    return (
        sh(folder, "git", "status", "--porcelain=v2", "--branch"),
        (folder / "notes.txt").read_text(),
        (folder / "draft.txt").read_text(),
        (folder / "staged.txt").read_text(),
    )


def still_running(folder: Path) -> list[str]:
    """Descendants of any run of this checkout that are alive."""
    records = [json.loads(p.read_text()) for p in folder.glob(".serac/runs/*/run.json")]
    marks = {record["mark"] for record in records if "mark" in record}
    alive = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) in marks:
                alive.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return alive


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def check_after_kill(folder: Path, before: dict[str, str], person: tuple[str, ...]) -> None:
    assert wait_until(lambda: not still_running(folder), 3), still_running(folder)
    after = refs(folder)
    added = set(after) - set(before)
    moved = {name for name in before if after.get(name) != before[name]}
    assert (added, moved) in ((set(), set()), (COMPLETE, {"refs/heads/releases"}))
    assert persons_state(folder) == person
    for release in (folder / ".serac/releases").iterdir():
        verify_release(release)


def check_next_run(folder: Path, person: tuple[str, ...]) -> None:
    outcome = outcome_of(run_retrain(folder, "--json"))
    assert outcome["release"] == "serac@v1.1.0"
    assert '"Bari"' in (Path(str(outcome["copy"])) / "edits.jsonl").read_text()
    assert set(refs(folder)) >= COMPLETE
    assert persons_state(folder) == person
    assert not list(folder.glob(".serac/runs/*/workspace"))
    remote = folder / ".serac/verify"
    sh(folder, "git", "clone", "--quiet", "--branch", "releases", str(folder), str(remote))
    sh(remote, "dvc", "pull", "release")
    verify_release(remote / "release")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point(at_work: Path, point: str) -> None:
    before, person = refs(at_work), persons_state(at_work)
    killed = run_retrain(at_work, kill_at=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    check_after_kill(at_work, before, person)
    check_next_run(at_work, person)


@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_while_a_stage_writes(at_work: Path, whole_group: bool) -> None:
    set_param(at_work, "scope", max_steps=40)
    sh(at_work, "git", "commit", "--quiet", "-m", "longer", "--", "params.yaml")
    before, person = refs(at_work), persons_state(at_work)
    beat = at_work / ".serac/cache/beat"
    beat.unlink()
    process = start_retrain(at_work)
    try:
        assert wait_until(beat.exists, 60)
        assert still_running(at_work)
    finally:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
    check_after_kill(at_work, before, person)
    last = beat.read_text()
    time.sleep(0.3)
    assert beat.read_text() == last, "an orphan keeps writing"
    check_next_run(at_work, person)


def test_next_run_ends_what_a_dead_run_and_its_watcher_left(at_work: Path) -> None:
    """Even if the watcher is killed together with the flow."""
    set_param(at_work, "scope", max_steps=400)
    sh(at_work, "git", "commit", "--quiet", "-m", "longer", "--", "params.yaml")
    beat = at_work / ".serac/cache/beat"
    beat.unlink()
    process = start_retrain(at_work)
    assert wait_until(beat.exists, 60)
    for child in psutil.Process(process.pid).children():
        if any(part.endswith("tether.py") for part in child.cmdline()):
            child.kill()
    process.kill()
    process.communicate()
    assert still_running(at_work)
    set_param(at_work, "scope", max_steps=5)
    sh(at_work, "git", "commit", "--quiet", "-m", "short again", "--", "params.yaml")
    check_next_run(at_work, persons_state(at_work))
    assert not still_running(at_work)
