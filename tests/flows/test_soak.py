"""Kills at random moments, one after the other in one project: twenty of retrainings, fifteen of
updates (`make soak`)."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from light_project import (
    commit_all,
    edit_line,
    refs,
    run_retrain,
    run_update,
    start_retrain,
    start_verb,
)
from test_kills import persons_state, still_running, wait_until
from test_retrain import outcome_of

from serac_core.release.manifest import verify_release

KILLS = 20
KILLS_OF_UPDATES = 15


@pytest.mark.soak
@pytest.mark.usefixtures("prefect_server")
def test_twenty_kills_at_random_moments(released: Path) -> None:
    moments = random.Random(17)
    (released / "draft.txt").write_text("untracked\n")
    (released / "notes.txt").write_text("half a thought\n")
    (released / "staged.txt").write_text("staged\n")
    length = 0.0
    for number in range(1, KILLS + 1):
        edits = released / "data/edits.jsonl"
        edits.write_text(edit_line("e-1", "Paris") + edit_line("e-2", f"City {number}"))
        commit_all(released, f"edit {number}")
        (released / "notes.txt").write_text(f"half a thought, {number}\n")
        before, person = refs(released), persons_state(released)

        moment = moments.uniform(0, length or 8.0)
        process = start_retrain(released)
        time.sleep(moment)
        whole_group = moments.random() < 0.5
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()

        assert wait_until(lambda: not still_running(released), 5)
        after = refs(released)
        tags = {name for name in set(after) - set(before) if name.startswith("refs/tags/")}
        moved = after["refs/heads/releases"] != before["refs/heads/releases"]
        assert (len(tags), moved) in ((0, False), (3, True))
        for folder in (released / ".serac/releases").iterdir():
            verify_release(folder)

        started = time.monotonic()
        outcome = outcome_of(run_retrain(released, "--json"))
        if outcome["changed"]:
            length = time.monotonic() - started
        served = (Path(str(outcome["copy"])) / "edits.jsonl").read_text()
        assert f'"City {number}"' in served, "an edit was lost"
        assert persons_state(released) == person
        print(
            f"kill {number:2} after {moment:5.2f} s ({'group' if whole_group else 'process'}): "
            f"{'published' if moved else 'target unchanged'}, next run "
            f"{'released' if outcome['changed'] else 'found'} {outcome['release']}"
        )


@pytest.mark.soak
@pytest.mark.usefixtures("prefect_server")
def test_fifteen_kills_of_updates_at_random_moments(released: Path) -> None:
    moments = random.Random(18)
    for name in ("draft.txt", "notes.txt", "staged.txt"):
        (released / name).write_text("half a thought\n")
    length, inbox = 0.0, released / "data/inbox"
    inbox.mkdir(parents=True)
    for number in range(1, KILLS_OF_UPDATES + 1):
        (inbox / f"{number}.jsonl").write_text(edit_line(f"u-{number}", f"City {number}"))
        before, person = refs(released), persons_state(released)

        moment = moments.uniform(0, length or 8.0)
        process = start_verb("update-edits", released)
        time.sleep(moment)
        whole_group = moments.random() < 0.5
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()

        assert wait_until(lambda: not still_running(released), 5)
        after = refs(released)
        tags = {name for name in set(after) - set(before) if name.startswith("refs/tags/")}
        moved = after["refs/heads/releases"] != before["refs/heads/releases"]
        assert (len(tags), moved) in ((0, False), (3, True))

        started = time.monotonic()
        outcome = outcome_of(run_update(released, "--json"))
        if outcome["changed"]:
            length = time.monotonic() - started
        if outcome["copy"] is not None:
            served = (Path(str(outcome["copy"])) / "edits.jsonl").read_text()
            assert all(f'"u-{n}"' in served for n in range(1, number + 1)), "an edit was lost"
        assert not list(inbox.glob("*.jsonl"))
        assert persons_state(released) == person
        print(
            f"kill {number:2} after {moment:5.2f} s ({'group' if whole_group else 'process'}): "
            f"{'published' if moved else 'target unchanged'}, next run "
            f"{'released' if outcome['changed'] else 'found'} {outcome['release'] or 'nothing'}"
        )
