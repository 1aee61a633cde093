"""Training handed to the workers of a Prefect deployment: real server, real process workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from light_project import make_project, refs, run_retrain, sh

from serac_core.workspace.handover import OFFERS

DEPLOYMENT = "train-on-gpu/train-on-gpu"


def test_both_models_train_on_workers_and_the_flow_publishes(
    workers: dict[str, Path], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project")
    done = run_retrain(project, "--train-on", DEPLOYMENT, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["release"] == "serac@v1.0.0"
    assert {"train-scope", "train-counterfactual"} <= set(outcome["stages_run"])
    logs = {
        name: "".join(log.read_text() for log in home.rglob("run.log"))
        for name, home in workers.items()
    }
    assert all(
        sum(f"light stage {stage}\n" in log for log in logs.values()) == 1
        for stage in ("train-scope", "train-counterfactual")
    )
    orchestrator = "".join(log.read_text() for log in project.glob(".serac/runs/*/run.log"))
    assert "light stage train-" not in orchestrator
    assert "light stage export" in orchestrator
    assert not any(OFFERS in ref for ref in refs(project))
    assert not [clone for home in workers.values() for clone in home.rglob("workspace")]
    assert sh(project, "git", "status", "--porcelain") == ""


@pytest.mark.usefixtures("workers")
def test_worker_without_cuda_refuses_and_the_champion_stays(released: Path) -> None:
    params = (released / "params.yaml").read_text()
    params = params.replace("retrain:\n", "retrain:\n  require_cuda: true\n")
    (released / "params.yaml").write_text(params.replace("max_steps: 4", "max_steps: 5"))
    sh(released, "git", "commit", "--quiet", "--all", "-m", "more steps, on a GPU")
    before = refs(released)
    done = run_retrain(released, "--train-on", DEPLOYMENT)
    assert done.returncode == 2
    assert "this worker has no CUDA device" in done.stderr
    assert "retrain.require_cuda" in done.stderr
    assert refs(released) == before


@pytest.mark.usefixtures("prefect_server")
def test_unknown_deployment_is_named(released: Path) -> None:
    params = (released / "params.yaml").read_text()
    (released / "params.yaml").write_text(params.replace("max_steps: 4", "max_steps: 6"))
    sh(released, "git", "commit", "--quiet", "--all", "-m", "more steps")
    done = run_retrain(released, "--train-on", "nobody/nowhere")
    assert done.returncode == 2
    assert "'nobody/nowhere'" in done.stderr and "serac deploy" in done.stderr
