"""A ramp: each width passes the gate before the next begins, and only the last is published."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from light_project import commit_all, edit_line, refs, run_retrain, sh
from test_retrain import outcome_of, set_param

from serac_core.release.manifest import verify_release

pytestmark = pytest.mark.usefixtures("prefect_server")

IDS = ("e-1", "e-2", "e-3", "e-4", "e-5", "e-6")
WITH_A_HARD_ONE = ("e-1", "e-2", "e-3-hard", "e-4", "e-5", "e-6")


def write_edits(folder: Path, ids: tuple[str, ...]) -> None:
    lines = "".join(edit_line(name, f"City {name}") for name in ids)
    (folder / "data/edits.jsonl").write_text(lines, encoding="utf-8")
    commit_all(folder, "edits")


def live_runs(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The widths at which the live edits were evaluated anew, as the progress lines say."""
    return re.findall(r"width (\w+): Running stage 'evaluate-live'", done.stderr)


def report_rows(release: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((release / "report/widths.json").read_text())[
        "widths"
    ]
    return rows


def test_ramp_goes_from_width_to_width_and_releases_the_last(
    released: Path, prefect_server: str
) -> None:
    write_edits(released, IDS)
    params = (released / "params.yaml").read_text()
    done = run_retrain(released, "--ramp", "2,4,all", "--json")
    outcome = outcome_of(done)

    assert live_runs(done) == ["2", "4", "all"]
    told = r" - (width \w+(?: of 2,4,all: .*|: the gate is \w+))$"
    assert re.findall(told, done.stderr, re.MULTILINE) == [
        "width 2 of 2,4,all: 2 of 6 live edits",
        "width 2: the gate is open",
        "width 4 of 2,4,all: 4 of 6 live edits",
        "width 4: the gate is open",
        "width all of 2,4,all: 6 of 6 live edits",
        "width all: the gate is open",
    ]
    assert [(row["width"], row["edits"], row["passed"]) for row in outcome["widths"]] == [
        ("2", 2, True),
        ("4", 4, True),
        ("all", 6, True),
    ]
    for stage in ("training-set", "train-scope", "train-counterfactual", "evaluate-model"):
        assert outcome["stages_run"].count(stage) == 0, "changing live edits forced training"

    release = Path(str(outcome["copy"]))
    assert len((release / "edits.jsonl").read_text().splitlines()) == len(IDS)
    assert [(row["width"], row["metrics"]) for row in report_rows(release)] == [
        ("2", {"edit/exact_match": 1.0}),
        ("4", {"edit/exact_match": 1.0}),
    ]
    sh(released, "git", "merge", "--ff-only", "releases")
    gate = json.loads((released / "gate.json").read_text())
    assert {name: found["passed"] for name, found in gate["widths"].items()} == {
        "2": True,
        "4": True,
    }
    assert (released / "params.yaml").read_text() == params
    check_widths_artifact(prefect_server)

    # Nothing has changed: no width is gone through again, whatever the ramp.
    (released / "notes.txt").write_text("more notes\n")
    commit_all(released, "notes")
    for ramp in ("3,all", "all"):
        again = outcome_of(run_retrain(released, "--ramp", ramp, "--json"))
        assert (again["changed"], again["stages_run"]) == (False, [])

    # The record is of one run: the next one without a ramp has none.
    write_edits(released, IDS[:5])
    plain = outcome_of(run_retrain(released, "--json"))
    assert plain["release"] == "serac@v1.2.0"
    assert (plain["widths"], report_rows(Path(str(plain["copy"])))) == ([], [])


def check_widths_artifact(prefect_server: str) -> None:
    import httpx

    wanted = {"artifacts": {"key": {"any_": ["retrain-widths"]}}, "limit": 200}
    found = httpx.post(f"{prefect_server}/artifacts/filter", json=wanted).json()
    tables = [json.loads(artifact["data"]) for artifact in found]
    verdicts = [[(row["width"], row["verdict"]) for row in table] for table in tables]
    assert [("2", "passed"), ("4", "passed"), ("all", "passed")] in verdicts


def test_failing_width_stops_the_ramp_and_leaves_the_champion(released: Path) -> None:
    write_edits(released, WITH_A_HARD_ONE)
    before, copies = refs(released), sorted((released / ".serac/releases").iterdir())
    (released / "notes.txt").write_text("half a thought\n")
    status = sh(released, "git", "status", "--porcelain")
    done = run_retrain(released, "--ramp", "2,4,all")

    assert done.returncode == 1
    assert live_runs(done) == ["2", "4"]
    message = done.stderr.split("serac: ")[-1]
    assert message.startswith(
        "the ramp 2,4,all stopped at width 4 (the oldest 4 of 6 live edits): the gate is closed; "
        "the champion stays, nothing is published\n"
        "  live/edit/exact_match is 0.75, must be >= 0.9\n"
        "widths that passed: 2\n"
    )
    assert "live/edit/exact_match  0.75   >= 0.9   FAILED" in message
    assert "mend or retract the edits that fail" in message
    assert "Traceback" not in done.stderr

    assert refs(released) == before
    assert sorted((released / ".serac/releases").iterdir()) == copies
    verify_release(copies[0])
    assert sh(released, "git", "status", "--porcelain") == status
    assert not list(released.glob(".serac/runs/*/workspace"))

    [reports] = (released / ".serac/reports").iterdir()
    assert str(reports) in message
    assert [(row["width"], row["passed"]) for row in report_rows(reports)] == [
        ("2", True),
        ("4", False),
    ]
    page = (reports / "report/report.html").read_text()
    assert "<code>live/edit/exact_match</code> 0.7500, must be &gt;= 0.9" in page
    assert "e-3-hard" in page

    # The edit mended, the next run goes on from what is done.
    write_edits(released, IDS)
    outcome = outcome_of(run_retrain(released, "--ramp", "2,4,all", "--json"))
    assert outcome["release"] == "serac@v1.1.0"


def test_killed_ramp_does_not_evaluate_a_width_again(released: Path) -> None:
    set_param(released, "retrain", ramp="2,4,all")
    write_edits(released, IDS)
    before = refs(released)
    killed = run_retrain(released, kill_at="after:show_widths")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert live_runs(killed) == ["2"]
    assert refs(released) == before

    done = run_retrain(released, "--json")
    outcome = outcome_of(done)
    assert live_runs(done) == ["4", "all"]
    assert [row["width"] for row in outcome["widths"]] == ["2", "4", "all"]
    assert outcome["release"] == "serac@v1.1.0"


def test_a_bad_ramp_is_named_before_any_training(released: Path) -> None:
    done = run_retrain(released, "--ramp", "200,50,all")
    assert done.returncode == 2
    assert "ramp '200,50,all': 50 comes after 200" in done.stderr
    assert not list((released / ".serac/runs").glob("*/workspace"))

    set_param(released, "scope", max_steps=5)
    write_edits(released, IDS)
    before = refs(released)
    done = run_retrain(released, "--ramp", "2,400,all")
    assert done.returncode == 2
    assert "ramp '2,400,all': width 400, and there are 6 live edits" in done.stderr
    assert "Running stage 'train-scope'" not in done.stderr
    assert refs(released) == before
