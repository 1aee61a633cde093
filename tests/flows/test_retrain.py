"""The retrain flow end to end, on a real git repository, DVC, GTO and Prefect server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from light_project import (
    commit_all,
    edit_line,
    make_project,
    refs,
    run_retrain,
    sh,
)

from serac_core.release.manifest import verify_release

pytestmark = pytest.mark.usefixtures("prefect_server")


def change_edit(folder: Path, target: str) -> None:
    path = folder / "data/edits.jsonl"
    path.write_text(edit_line("e-1", "Paris") + edit_line("e-2", target), encoding="utf-8")


def set_param(folder: Path, section: str, **values: object) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params.setdefault(section, {}).update(values)
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def outcome_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    outcome: dict[str, object] = json.loads(done.stdout)
    return outcome


def test_first_release_is_published_and_the_branch_can_take_it_over(released: Path) -> None:
    published = refs(released)
    assert {"refs/tags/serac@v1.0.0", "refs/tags/edits@v1.0.0", "refs/tags/serac#prod#1"} < set(
        published
    )
    sh(released, "git", "merge", "--ff-only", "releases")
    sh(released, "dvc", "pull")
    assert verify_release(released / "release") == verify_release(
        released / ".serac/releases/v1.0.0"
    )
    assert json.loads((released / "gate.json").read_text())["passed"] is True
    assert not list((released / ".serac/runs").glob("*/workspace"))
    assert sh(released, "git", "status", "--porcelain") == ""


def test_second_clone_pulls_the_same_bytes(released: Path, tmp_path: Path) -> None:
    clone = tmp_path / "second"
    sh(tmp_path, "git", "clone", "--quiet", str(released), str(clone))
    sh(clone, "git", "checkout", "--quiet", "serac@v1.0.0")
    sh(clone, "dvc", "pull")
    assert verify_release(clone / "release") == verify_release(released / ".serac/releases/v1.0.0")


def test_nothing_changed_publishes_nothing(released: Path) -> None:
    before = refs(released)
    outcome = outcome_of(run_retrain(released, "--json"))
    assert outcome["changed"] is False
    assert outcome["stages_run"] == []
    assert refs(released) == before


def test_commit_outside_the_pipeline_publishes_nothing(released: Path) -> None:
    (released / "notes.txt").write_text("more notes\n")
    commit_all(released, "notes")
    before = refs(released)
    outcome = outcome_of(run_retrain(released, "--json"))
    assert outcome["changed"] is False
    assert outcome["stages_run"] == []
    assert refs(released) == before


def test_changed_edit_rebuilds_only_what_depends_on_live_edits(released: Path) -> None:
    change_edit(released, "Milan")
    commit_all(released, "edit")
    outcome = outcome_of(run_retrain(released, "--json"))
    assert outcome["release"] == "serac@v1.1.0"
    assert set(outcome["stages_run"]) == {  # type: ignore[call-overload]
        "validate-edits",
        "live-edits",
        "memory",
        "evaluate-live",
        "package",
    }
    assert {"refs/tags/edits@v1.1.0", "refs/tags/serac#prod#2"} < set(refs(released))
    assert sh(released, "git", "log", "--format=%s", "-1", "releases") == "Release serac@v1.1.0"


def test_changed_training_leaves_the_edits_version(released: Path) -> None:
    set_param(released, "counterfactual", learning_rate=0.98)
    commit_all(released, "learning rate")
    outcome = outcome_of(run_retrain(released, "--json"))
    assert outcome["release"] == "serac@v1.1.0"
    assert outcome["stages_run"] == ["evaluate-model", "package"]
    assert "refs/tags/edits@v1.1.0" not in refs(released)


def test_closed_gate_publishes_nothing_and_keeps_the_report(released: Path) -> None:
    set_param(released, "counterfactual", learning_rate=0.5)
    commit_all(released, "worse")
    before = refs(released)
    done = run_retrain(released)
    assert done.returncode == 1
    assert re.search(r"^edit/acc +0\.5 +>= 0\.95 +FAILED$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert refs(released) == before
    [report] = (released / ".serac/reports").glob("*/report/report.html")
    assert str(report.parents[1]) in done.stderr


def test_invalid_edits_stop_the_run_with_ids_and_data_docs(released: Path) -> None:
    change_edit(released, "")
    commit_all(released, "bad edit")
    before = refs(released)
    done = run_retrain(released)
    assert done.returncode == 1
    assert "e-2: target_new is empty" in done.stderr.split("serac: ")[-1]
    assert "Traceback" not in done.stderr
    assert refs(released) == before
    [result] = (released / ".serac/reports").glob("*/validation/result.json")
    assert str(result.parent) in done.stderr


def test_uncommitted_inputs_are_named_and_left_alone(released: Path) -> None:
    change_edit(released, "Milan")
    (released / "data/world/more.json").write_text("{}")
    (released / "notes.txt").write_text("unrelated\n")
    before = refs(released)
    done = run_retrain(released)
    assert done.returncode == 2
    assert "data/edits.jsonl, data/world/more.json" in done.stderr
    assert "notes.txt" not in done.stderr.split("serac: ")[-1]
    assert refs(released) == before


def test_snapshots_include_uncommitted_inputs_one_after_the_other(released: Path) -> None:
    for target, version in (("Milan", "v1.1.0"), ("Turin", "v1.2.0")):
        change_edit(released, target)
        status = sh(released, "git", "status", "--porcelain")
        head = sh(released, "git", "rev-parse", "HEAD")
        outcome = outcome_of(run_retrain(released, "--include-uncommitted", "--json"))
        assert outcome["release"] == f"serac@{version}"
        assert outcome["snapshot_of"] == ["data/edits.jsonl"]
        edits = (released / f".serac/releases/{version}/edits.jsonl").read_text()
        assert f'"{target}"' in edits
        assert sh(released, "git", "status", "--porcelain") == status
        assert sh(released, "git", "rev-parse", "HEAD") == head
    sh(released, "git", "stash", "push", "--", "data/edits.jsonl")
    sh(released, "git", "merge", "--ff-only", "releases")
    assert '"Turin"' in (released / "data/edits.jsonl").read_text()


def test_conflicting_commits_are_named(released: Path, tmp_path: Path) -> None:
    start = sh(released, "git", "rev-parse", "HEAD")
    change_edit(released, "Milan")
    commit_all(released, "one way")
    outcome_of(run_retrain(released, "--json"))
    sh(released, "git", "reset", "--quiet", "--hard", start)
    change_edit(released, "Turin")
    commit_all(released, "another way")
    done = run_retrain(released)
    assert done.returncode == 2
    assert "disagree: data/edits.jsonl" in done.stderr


def test_shared_repository_gets_the_release(released: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.git"
    sh(tmp_path, "git", "clone", "--quiet", "--bare", str(released), str(shared))
    set_param(released, "registry", publish_to=str(shared), dvc_remote=str(tmp_path / "store"))
    change_edit(released, "Milan")
    commit_all(released, "share")
    before = refs(released)
    outcome = outcome_of(run_retrain(released, "--json"))
    assert outcome["published_to"] == str(shared)
    assert refs(released) == before
    assert "refs/tags/serac#prod#2" in refs(shared)
    assert (tmp_path / "store/files").is_dir()


def test_overtaken_run_builds_again_on_what_was_published(released: Path) -> None:
    change_edit(released, "Milan")
    commit_all(released, "edit")
    done = run_retrain(released, kill_at="race:publish")
    assert done.returncode == 0, done.stderr
    assert "another run published meanwhile: building again" in done.stderr
    published = refs(released)
    assert "refs/tags/serac@v1.1.0" in published
    overtaken_by = published["refs/heads/other"]
    sh(released, "git", "merge-base", "--is-ancestor", overtaken_by, "releases")


def test_unreachable_targets_are_named_before_any_work(project: Path, tmp_path: Path) -> None:
    set_param(project, "registry", publish_to="/nowhere/repository.git")
    commit_all(project, "target")
    done = run_retrain(project)
    assert (done.returncode, "registry.publish_to" in done.stderr) == (2, True)
    set_param(project, "registry", publish_to="", dvc_remote="/nowhere/at/all")
    commit_all(project, "remote")
    done = run_retrain(project)
    assert (done.returncode, "DVC remote '/nowhere/at/all'" in done.stderr) == (2, True)
    assert "Running stage" not in done.stderr


def test_run_needs_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    folder = make_project(tmp_path / "alone")
    done = run_retrain(folder)
    assert done.returncode == 0, done.stderr
    assert "Released serac@v1.0.0" in done.stdout
    assert "git merge --ff-only releases && dvc pull" in done.stdout


def test_dead_server_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = run_retrain(project)
    assert done.returncode == 2
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_run_at_the_same_time_is_refused(project: Path) -> None:
    import fcntl

    runs = project / ".serac/runs"
    runs.mkdir(parents=True)
    with (runs / "retrain.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_retrain(project)
    assert done.returncode == 2
    assert "another retrain run is at work" in done.stderr


def test_prefect_shows_progress_metrics_gate_and_links(released: Path, prefect_server: str) -> None:
    import httpx

    found = httpx.post(f"{prefect_server}/artifacts/filter", json={"limit": 200}).json()
    by_key = {artifact["key"]: artifact for artifact in reversed(found)}
    assert {
        "retrain-progress",
        "retrain-metrics",
        "retrain-gate",
        "retrain-report",
    } <= set(by_key)
    assert any(a["data"] == 100.0 for a in found if a["key"] == "retrain-progress")
