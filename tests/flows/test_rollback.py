"""Rollback and the verbs on releases, on a project with two published releases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from light_project import commit_all, edit_line, refs, run_retrain, sh
from typer.testing import CliRunner

from serac_core.errors import SeracError
from serac_core.release import cli
from serac_core.release.copies import ReleaseUnavailable
from serac_core.release.manifest import verify_release
from serac_core.release.registry import NothingToRollBackTo, UnknownVersion, read_registry
from serac_core.release.rollback import fetch_release, roll_back


@pytest.fixture(scope="session")
def two_releases_template(release_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "project"
    shutil.copytree(release_template, folder, symlinks=True)
    (folder / "data/edits.jsonl").write_text(edit_line("e-1", "Lyon"), encoding="utf-8")
    commit_all(folder, "edit")
    done = run_retrain(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def two_releases(two_releases_template: Path, tmp_path: Path) -> Path:
    """A light project whose champion is v1.1.0, after v1.0.0."""
    folder = tmp_path / "project"
    shutil.copytree(two_releases_template, folder, symlinks=True)
    return folder


def invoke(*arguments: str) -> str:
    """Run a verb; its standard output. An error of the catalogue is raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.add_typer(cli.releases_app, name="releases")
    app.command()(cli.rollback)
    app.command()(cli.doctor)
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, SeracError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rollback_assigns_the_earlier_release_again(two_releases: Path) -> None:
    head = sh(two_releases, "git", "rev-parse", "HEAD", "releases")
    shutil.rmtree(two_releases / ".serac/releases")
    done = json.loads(invoke("rollback", "--checkout", str(two_releases), "--json"))
    assert done["before"] == "serac@v1.1.0"
    assert read_registry(two_releases).require_champion().version == "v1.0.0"
    assert "refs/tags/serac#prod#3" in refs(two_releases)
    assert verify_release(done["copy"])
    assert sh(two_releases, "git", "rev-parse", "HEAD", "releases") == head
    with pytest.raises(NothingToRollBackTo):
        roll_back(two_releases, None, say=print)
    assert "champion: serac@v1.1.0" in invoke(
        "rollback", "--to", "v1.1.0", "--checkout", str(two_releases)
    )
    with pytest.raises(NothingToRollBackTo, match=r"v1\.1\.0 is the champion already"):
        roll_back(two_releases, "v1.1.0", say=print)


def test_retraining_after_a_rollback_changes_nothing(
    two_releases: Path, prefect_server: str
) -> None:
    roll_back(two_releases, None, say=print)
    done = run_retrain(two_releases, "--json")
    outcome = json.loads(done.stdout)
    assert (outcome["changed"], outcome["release"]) == (False, "serac@v1.0.0")


def test_release_without_files_is_not_assigned(two_releases: Path, tmp_path: Path) -> None:
    before = refs(two_releases)
    shutil.rmtree(two_releases / ".serac/releases")
    shutil.rmtree(two_releases / ".dvc/cache")
    config = two_releases / ".dvc/config.local"
    config.write_text(f"['remote \"serac\"']\n    url = {tmp_path / 'empty'}\n")
    with pytest.raises(ReleaseUnavailable, match=r"v1\.0\.0"):
        roll_back(two_releases, None, say=print)
    with pytest.raises(UnknownVersion):
        roll_back(two_releases, "v7.0.0", say=print)
    assert refs(two_releases) == before


def test_damaged_copy_is_fetched_again(two_releases: Path) -> None:
    folder = fetch_release(two_releases, "v1.0.0", say=print)
    (folder / "edits.jsonl").write_text("damaged")
    shutil.rmtree(two_releases / ".dvc/cache")  # so it comes from the remote
    said: list[str] = []
    assert fetch_release(two_releases, "v1.0.0", say=said.append) == folder
    assert any("altered: edits.jsonl" in line for line in said)
    assert verify_release(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["v1.0.0", "v1.1.0"]


def test_releases_are_listed_shown_and_got(two_releases: Path) -> None:
    where = ("--checkout", str(two_releases))
    rows = json.loads(invoke("releases", "list", *where, "--json"))
    assert [(row["release"], row["champion"]) for row in rows] == [
        ("serac@v1.1.0", True),
        ("serac@v1.0.0", False),
    ]
    assert "serac@v1.1.0" in invoke("releases", "list", *where).splitlines()[0]
    folder = invoke("releases", "get", *where).strip()
    assert folder.endswith("v1.1.0")
    assert "whole" in invoke("releases", "show", folder)
    assert json.loads(invoke("releases", "show", "v1.0.0", *where, "--json"))["edits"] == 1


def test_doctor_finds_what_is_wrong(
    two_releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")  # whose server lacks what `serac deploy` makes
    where = ("--checkout", str(two_releases))
    findings = {row["check"]: row for row in json.loads(invoke("doctor", *where, "--json"))}
    assert all(row["ok"] for row in findings.values())
    assert ".serac/remote, readable" in findings["dvc remote"]["found"]
    (two_releases / "data/edits.jsonl").write_text("")
    with pytest.raises(SeracError, match="not fit for a run: inputs") as unfit:
        invoke("doctor", *where)
    assert unfit.value.exit_code == 1
    with pytest.raises(SeracError, match="checkout"):
        invoke("doctor", "--checkout", str(tmp_path))
    with pytest.raises(SeracError, match="onnx provider"):
        invoke("doctor", *where, "--provider", "cuda")


def test_rollback_runs_as_a_flow(two_releases: Path, prefect_server: str) -> None:
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    from flows.rollback import rollback

    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        state = rollback(str(two_releases), return_state=True)
        failed = rollback(str(two_releases), return_state=True)
    assert state.is_completed() and state.message == "champion serac@v1.0.0"
    assert failed.is_failed() and "no release before v1.0.0" in failed.message
