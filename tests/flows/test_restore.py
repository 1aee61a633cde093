"""Everything deleted but the Git remote and the DVC remote: a new machine goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from light_project import commit_all, edit_line, make_project, refs, run_retrain, sh
from test_retrain import outcome_of, set_param

from serac_core.release.manifest import verify_release
from serac_core.release.rollback import fetch_release, roll_back


@pytest.mark.usefixtures("prefect_server")
def test_new_machine_serves_the_champion_and_retrains(tmp_path: Path) -> None:
    old, shared, store = (tmp_path / name for name in ("old", "shared.git", "store"))
    make_project(old)
    set_param(old, "registry", publish_to=str(shared), dvc_remote=str(store))
    commit_all(old, "shared")
    sh(tmp_path, "git", "clone", "--quiet", "--bare", str(old), str(shared))
    outcome_of(run_retrain(old, "--json"))
    served = verify_release(old / ".serac/releases/v1.0.0")
    shutil.rmtree(old)

    new = tmp_path / "new"
    sh(tmp_path, "git", "clone", "--quiet", str(shared), str(new))
    assert verify_release(fetch_release(new, None, say=print)) == served

    (new / "data/edits.jsonl").write_text(edit_line("e-1", "Paris") + edit_line("e-2", "Bari"))
    sh(new, "git", "config", "user.name", "Bea")
    sh(new, "git", "config", "user.email", "bea@example.org")
    commit_all(new, "an edit")
    outcome = outcome_of(run_retrain(new, "--json"))
    assert outcome["release"] == "serac@v1.1.0"
    assert "train-scope" not in outcome["stages_run"], "what was trained came from the remote"
    assert "refs/tags/serac#prod#2" in refs(shared)

    shutil.rmtree(new / ".serac")
    shutil.rmtree(new / ".dvc/cache", ignore_errors=True)
    back = roll_back(new, None, say=print)
    assert back.assignment.version.version == "v1.0.0"
    assert verify_release(back.copy) == served
