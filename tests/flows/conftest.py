"""A Prefect server for the whole session, and light projects; nothing of this machine's set-up."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import light_project
import pytest


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in light_project.isolate(home).items():
            patch.setenv(name, value)
        yield home


@pytest.fixture(scope="session")
def prefect_server(isolated: Path) -> Iterator[str]:
    """URL of a real Prefect server, started once: a temporary one per run costs seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-services"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for_server(url, server)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_URL", url)
            yield url
    finally:
        server.terminate()
        server.wait(10)


def wait_for_server(url: str, server: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, "the Prefect server ended"
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("the Prefect server does not answer")


@pytest.fixture(scope="session")
def workers(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Two workers of one pool, each with a HOME, clones and a DVC cache of its own."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments.runner import EntrypointType

    from flows.pools import make_limits
    from flows.route_batch import route_one_shard
    from flows.train_on_gpu import train_on_gpu

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="pool-under-test", type="process"))
    make_limits()
    for flow in (train_on_gpu, route_one_shard):
        flow.to_deployment(
            flow.name,
            work_pool_name="pool-under-test",
            entrypoint_type=EntrypointType.MODULE_PATH,
        ).apply()
    homes = {name: tmp_path_factory.mktemp(name) for name in ("first", "second")}
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "prefect", "worker", "start", "--pool", "pool-under-test"),
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
    for worker in started:
        # Where SIGINT is ignored (a shell's background), Prefect's worker ignores SIGTERM too.
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A light project that has no release yet."""
    return light_project.make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def release_template(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = light_project.make_project(tmp_path_factory.mktemp("template") / "project")
    done = light_project.run_retrain(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def released(release_template: Path, tmp_path: Path) -> Path:
    """A light project with one release, v1.0.0, not yet merged into its branch."""
    folder = tmp_path / "project"
    shutil.copytree(release_template, folder, symlinks=True)
    return folder
