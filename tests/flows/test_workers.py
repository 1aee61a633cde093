"""Training handed to the workers of a Prefect deployment: real server, real process workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from light_project import make_project, refs, run_retrain, sh

from serac_core.workspace.handover import OFFERS

DEPLOYMENT = "train-on-gpu/train-on-gpu"


@pytest.fixture(scope="module")
def gpu_pool(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Two workers of one pool, each with a HOME, clones and a DVC cache of its own."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments.runner import EntrypointType

    from flows.train_on_gpu import train_on_gpu

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="gpu-under-test", type="process"))
    deployment = train_on_gpu.to_deployment(
        "train-on-gpu",
        work_pool_name="gpu-under-test",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply()
    homes = {name: tmp_path_factory.mktemp(name) for name in ("first", "second")}
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu-under-test"),
                *("--limit", "1", "--name", name),
            ],
            env={**os.environ, "HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "1"},
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for name, home in homes.items()
    ]
    yield homes
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait(30)


def test_both_models_train_on_workers_and_the_flow_publishes(
    gpu_pool: dict[str, Path], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project")
    done = run_retrain(project, "--train-on", DEPLOYMENT, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["release"] == "serac@v1.0.0"
    assert {"train-scope", "train-counterfactual"} <= set(outcome["stages_run"])
    logs = {
        name: "".join(log.read_text() for log in home.rglob("run.log"))
        for name, home in gpu_pool.items()
    }
    assert all(
        sum(f"light stage {stage}\n" in log for log in logs.values()) == 1
        for stage in ("train-scope", "train-counterfactual")
    )
    orchestrator = "".join(log.read_text() for log in project.glob(".serac/runs/*/run.log"))
    assert "light stage train-" not in orchestrator
    assert "light stage export" in orchestrator
    assert not any(OFFERS in ref for ref in refs(project))
    assert not [clone for home in gpu_pool.values() for clone in home.rglob("workspace")]
    assert sh(project, "git", "status", "--porcelain") == ""


@pytest.mark.usefixtures("gpu_pool")
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
