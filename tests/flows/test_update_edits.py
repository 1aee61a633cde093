"""The update-edits flow end to end, on real git, DVC, GTO and Prefect; killed, and several at
once."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from light_project import (
    commit_all,
    edit_line,
    refs,
    run_retrain,
    run_update,
    sh,
    start_retrain,
    start_verb,
)
from test_kills import persons_state, still_running, wait_until
from test_retrain import change_edit, outcome_of, set_param

from serac_core.release.manifest import verify_release

pytestmark = pytest.mark.usefixtures("prefect_server")

SERVING = ["validate-edits", "live-edits", "memory", "evaluate-live", "package"]
POINTS = ("after:reproduce:package", "after:publish")
MORE_POINTS = (
    "after:take_update",
    "after:take_in",
    "after:add_update",
    "after:push_data",
    "after:tag_release",
    "after:keep_copy",
    "before:put_files_away",
)
COMPLETE = {"refs/tags/serac@v1.1.0", "refs/tags/edits@v1.1.0", "refs/tags/serac#prod#2"}


def drop(folder: Path, name: str, *lines: str) -> Path:
    path = folder / "data/inbox" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def retraction(edit_id: str) -> str:
    return json.dumps({"id": edit_id, "status": "retracted"}) + "\n"


def served(folder: Path, version: str) -> list[str]:
    lines = (folder / f".serac/releases/{version}/edits.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_update_is_released_on_the_champion_and_leaves_work_in_progress(released: Path) -> None:
    change_edit(released, "Milan")  # uncommitted: no matter of the update
    (released / "notes.txt").write_text("half a thought\n")
    status, head = (
        sh(released, "git", *of) for of in (("status", "--porcelain"), ("rev-parse", "HEAD"))
    )
    replaced = json.dumps({**json.loads(edit_line("e-4", "Turin")), "supersedes": "e-2"}) + "\n"
    inbox = drop(released, "a.jsonl", edit_line("e-3", "Lima"), replaced)
    outcome = outcome_of(run_update(released, "--json"))
    assert (outcome["release"], outcome["stages_run"]) == ("serac@v1.1.0", SERVING)
    assert (outcome["added"], outcome["superseded"]) == (["e-3", "e-4"], ["e-2"])
    assert served(released, "v1.1.0") == ["e-1", "e-3", "e-4"]
    assert set(refs(released)) >= COMPLETE
    assert not inbox.exists()
    assert (released / "data/inbox/done/a.jsonl").is_file()
    assert sh(released, "git", "status", "--porcelain") == status
    assert sh(released, "git", "rev-parse", "HEAD") == head

    before = refs(released)
    drop(released, "again.jsonl", edit_line("e-3", "Lima"), replaced)
    outcome = outcome_of(run_update(released, "--json"))
    assert (outcome["changed"], outcome["unchanged"]) == (False, ["e-3", "e-4"])
    assert refs(released) == before
    assert not list((released / "data/inbox").glob("*.jsonl"))

    sh(released, "git", "stash", "push", "--quiet")
    sh(released, "git", "merge", "--ff-only", "releases")
    sh(released, "dvc", "pull")
    assert verify_release(released / "release")


def test_bad_record_sends_its_file_away_with_reasons_and_keeps_no_good_one_back(
    released: Path,
) -> None:
    drop(released, "a.jsonl", edit_line("e-3", ""), edit_line("e-4", "Oslo"))
    drop(released, "b.jsonl", retraction("e-9"))
    drop(released, "c.jsonl", retraction("e-1"))
    done = run_update(released)
    assert done.returncode == 0, done.stderr
    assert "rejected    a.jsonl, line 1, e-3: empty_field" in done.stdout
    assert served(released, "v1.1.0") == ["e-2", "e-4"]
    rejected = released / "data/rejected"
    assert {path.name for path in rejected.iterdir()} == {
        f"{name}{ending}"
        for name in ("a.jsonl", "b.jsonl")
        for ending in ("", ".reasons.json", ".reasons.txt")
    }
    reasons = json.loads((rejected / "a.jsonl.reasons.json").read_text())
    assert [(r["line"], r["id"], r["rule"]) for r in reasons["reasons"]] == [
        (1, "e-3", "empty_field")
    ]
    assert reasons["accepted"] == ["e-4"]
    assert "e-9" in (rejected / "b.jsonl.reasons.txt").read_text()


def test_bad_record_stops_the_run_where_so_configured(released: Path) -> None:
    before = refs(released)
    set_param(released, "update", on_bad_record="stop")
    drop(released, "a.jsonl", edit_line("e-3", ""))
    good = drop(released, "b.jsonl", edit_line("e-4", "Oslo"))
    done = run_update(released)
    assert (done.returncode, "line 1, e-3: empty_field" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert refs(released) == before
    assert good.exists()
    assert (released / "data/rejected/a.jsonl.reasons.json").is_file()


def test_closed_gate_holds_no_retraction_up(released: Path) -> None:
    lines = [edit_line(f"hard-{n}", "Oslo") for n in range(3)]
    drop(released, "a.jsonl", *lines, retraction("e-1"))
    done = run_update(released)
    assert done.returncode == 1
    assert "only what is retracted is published, as serac@v1.1.0" in done.stderr
    assert served(released, "v1.1.0") == ["e-2"]
    reasons = json.loads((released / "data/rejected/a.jsonl.reasons.json").read_text())
    assert {r["rule"] for r in reasons["reasons"]} == {"gate_closed"}
    assert not list((released / "data/inbox").glob("*.jsonl"))


def test_first_release_is_not_an_updates_business(project: Path) -> None:
    drop(project, "a.jsonl", edit_line("e-3", "Lima"))
    done = run_update(project)
    assert (done.returncode, "`serac retrain` makes the first" in done.stderr) == (2, True)
    assert (project / "data/inbox/a.jsonl").exists()


def test_revision_of_the_edit_set_is_released_unless_something_had_to_be_trained(
    released: Path,
) -> None:
    change_edit(released, "Milan")
    commit = commit_all(released, "edit")
    set_param(released, "scope", max_steps=5)
    commit_all(released, "longer training")
    before = refs(released)
    done = run_update(released, "--revision", "HEAD")
    assert (done.returncode, "stage train-scope" in done.stderr) == (2, True)
    assert "serac retrain" in done.stderr
    assert refs(released) == before
    outcome = outcome_of(run_update(released, "--revision", commit, "--json"))
    assert outcome["stages_run"] == SERVING
    assert '"Milan"' in (released / ".serac/releases/v1.1.0/edits.jsonl").read_text()
    done = run_update(released, "--revision", "no-such")
    assert (done.returncode, "'no-such' is no commit" in done.stderr) == (2, True)


def test_update_after_a_rollback_is_built_on_the_champion(released: Path) -> None:
    drop(released, "a.jsonl", edit_line("e-3", "Lima"))
    outcome_of(run_update(released, "--json"))
    sh(released, "git", "tag", "serac#prod#3", "serac@v1.0.0^{commit}")
    drop(released, "b.jsonl", edit_line("e-4", "Oslo"))
    outcome_of(run_update(released, "--json"))
    assert served(released, "v1.2.0") == ["e-1", "e-2", "e-4"]
    sh(released, "git", "merge-base", "--is-ancestor", "serac@v1.1.0", "releases")


def test_retraining_from_an_older_commit_keeps_published_updates(released: Path) -> None:
    added = drop(released, "a.jsonl", edit_line("e-3", "Lima"))
    options = ("--retract", "e-1", "--file", str(added), "--json")
    assert outcome_of(run_update(released, *options))["retracted"] == ["e-1"]
    set_param(released, "scope", max_steps=5)
    commit_all(released, "longer training, without the update")
    outcome_of(run_retrain(released, "--json"))
    assert served(released, "v1.2.0") == ["e-2", "e-3"]


@pytest.mark.parametrize(
    "point", [*POINTS, *(pytest.param(point, marks=pytest.mark.soak) for point in MORE_POINTS)]
)
def test_killed_at_a_named_point_nothing_is_lost(released: Path, point: str) -> None:
    for name, text in (("notes.txt", "half"), ("draft.txt", "new"), ("staged.txt", "staged")):
        (released / name).write_text(text)
    sh(released, "git", "add", "staged.txt")
    drop(released, "a.jsonl", edit_line("e-3", "Lima"), edit_line("bad", ""))
    before, person = refs(released), persons_state(released)
    killed = run_update(released, kill_at=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert wait_until(lambda: not still_running(released), 3)
    added = set(refs(released)) - set(before)
    assert added in (set(), COMPLETE)
    assert (released / "data/inbox/a.jsonl").exists()

    outcome = outcome_of(run_update(released, "--json"))
    assert (outcome["release"], outcome["changed"]) == ("serac@v1.1.0", not added)
    assert served(released, "v1.1.0") == ["e-1", "e-2", "e-3"]
    assert set(refs(released)) >= COMPLETE
    assert persons_state(released) == person
    assert not list((released / "data/inbox").glob("*.jsonl"))
    assert (released / "data/rejected/a.jsonl.reasons.json").is_file()
    assert not list(released.glob(".serac/runs/*/workspace"))


def test_two_updates_and_a_retraining_started_together_all_land(
    released: Path, tmp_path: Path
) -> None:
    """From two checkouts of one shared repository, so that no lock of one checkout orders them."""
    shared = tmp_path / "shared.git"
    sh(tmp_path, "git", "clone", "--quiet", "--bare", str(released), str(shared))
    set_param(released, "registry", publish_to=str(shared), dvc_remote=str(tmp_path / "store"))
    commit_all(released, "share")
    outcome_of(run_retrain(released, "--json"))
    other = tmp_path / "other"
    sh(tmp_path, "git", "clone", "--quiet", str(released), str(other))
    set_param(released, "scope", max_steps=5)
    commit_all(released, "longer training")
    drop(released, "a.jsonl", edit_line("e-3", "Lima"))
    drop(other, "b.jsonl", edit_line("e-4", "Oslo"), retraction("e-1"))
    runs = {
        "update": start_verb("update-edits", released, "--json"),
        "other update": start_verb("update-edits", other, "--json"),
        "retrain": start_retrain(released, "--json"),
    }
    ended = {name: process.communicate(timeout=300) for name, process in runs.items()}
    for name, process in runs.items():
        done = subprocess.CompletedProcess(name, process.returncode, *ended[name])
        assert outcome_of(done)["changed"] is True
        assert "lock" not in done.stderr
    tags = {name for name in refs(shared) if name.startswith("refs/tags/serac@")}
    assert len(tags) == 4
    final = tmp_path / "final"
    sh(tmp_path, "git", "clone", "--quiet", "--branch", "releases", str(shared), str(final))
    sh(final, "dvc", "pull", "release")
    verify_release(final / "release")
    lines = (final / "release/edits.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == ["e-2", "e-3", "e-4"]
    assert "max_steps: 5" in (final / "params.yaml").read_text()


def test_updates_of_one_checkout_wait_for_one_another(released: Path) -> None:
    import fcntl

    runs = released / ".serac/runs"
    inbox = drop(released, "a.jsonl", edit_line("e-3", "Lima"))
    with (runs / "update-edits.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = start_verb("update-edits", released, "--json")
        assert waiting.stderr is not None
        while "this one waits for it" not in (line := waiting.stderr.readline()):
            assert line, "it ended"
        assert inbox.exists()
    _, stderr = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, stderr
    assert not inbox.exists()
    assert (released / "data/inbox/done/a.jsonl").exists()
