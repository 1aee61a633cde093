"""`serac up` on one machine: real server, two real workers, an S3 store, the light project."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from light_project import ROOT, commit_all, edit_line, make_project, refs, sh
from moto.server import ThreadedMotoServer
from test_retrain import set_param

from serac_core.release.manifest import verify_release

BUCKET = "edits-of-acme"
CANARIES = {"AWS_SECRET_ACCESS_KEY": "canary-of-the-store", "CANARY_TOKEN": "canary-of-a-service"}
LOCAL_CANARY = "canary-of-config-local"
SITE = Path(__file__).with_name("light_site")


def await_that(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask now and then, so that the server has time for its own work."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.3)
    return condition()


@dataclass
class Site:
    """A machine that `serac up` runs on, and what is outside of it: Git remote and store."""

    person: Path
    shared: Path
    url: str
    environment: dict[str, str]
    told: list[str]
    store: Any
    process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "serac_core", "up", "--checkout", str(self.person)),
                *("--port", self.url.rsplit(":", 1)[1], *options),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.person.parent / "up.log").open("a"),
            text=True,
            start_new_session=True,
        )
        assert await_that(lambda: "Ctrl-C stops" in self.said() or not self.alive(), 300)
        assert self.alive(), self.said()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        return (self.person.parent / "up.log").read_text()

    def processes(self) -> list[psutil.Process]:
        """All processes that were started in this site's environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SERAC_LIGHT_KILL") == self.order.as_posix():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def order(self) -> Path:
        return Path(self.environment["SERAC_LIGHT_KILL"])

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "serac_core", *arguments],
            env=self.environment | {"PREFECT_API_URL": f"{self.url}/api"},
            cwd=self.person,
            capture_output=True,
            text=True,
        )

    def ask(self, method: str, path: str, **body: object) -> Any:
        """An answer of the Prefect server; one that is busy, or being restarted, is asked again."""
        url, content = f"{self.url}/api{path}", body if method != "GET" else None
        for attempt in range(120):
            try:
                response = httpx.request(method, url, json=content, timeout=60)
            except httpx.TransportError:
                if attempt == 119:
                    raise
            else:
                if response.status_code != 503:
                    break
            time.sleep(0.5)
        response.raise_for_status()
        return response.json() if response.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/deployments/name/{name}/{name}")
        return found

    def run(self, name: str, **parameters: object) -> str:
        run = self.ask(
            "POST",
            f"/deployments/{self.deployment(name)['id']}/create_flow_run",
            parameters=parameters,
        )
        return str(run["id"])

    def state(self, run_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.ask("GET", f"/flow_runs/{run_id}")["state"]
        return state

    def await_end(self, run_id: str) -> dict[str, Any]:
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert await_that(lambda: self.state(run_id)["type"] in ends, 400), self.state(run_id)
        return self.state(run_id)

    def runs(self, name: str, state: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "POST",
            "/flow_runs/filter",
            flows={"name": {"any_": [name]}},
            flow_runs={"state": {"type": {"any_": [state]}}},
        )
        return found

    def slots_taken(self) -> float:
        limits = self.ask("POST", "/v2/concurrency_limits/filter")
        return sum(limit["active_slots"] for limit in limits)

    def change(self, city: str) -> None:
        """A person changes an edit, and a setting of training."""
        edits = self.person / "data/edits.jsonl"
        edits.write_text(edit_line("e-1", "Paris") + edit_line("e-2", city))
        set_param(self.person, "scope", max_steps=3 + len(city))
        sh(self.person, "git", "commit", "--quiet", "--all", "-m", city)
        sh(self.person, "git", "push", "--quiet", "shared", "main")


@pytest.fixture(scope="module")
def site(isolated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that is up; its machine has secrets in the environment and in DVC's local settings."""
    folder = tmp_path_factory.mktemp("site")
    with Store() as (store, endpoint), Listener() as (listener, told), socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        person, shared = make_project(folder / "project"), folder / "shared.git"
        site = Site(
            person,
            shared,
            f"http://127.0.0.1:{port}",
            {
                **os.environ,
                **CANARIES,
                "HOME": str(folder / "home"),
                "AWS_ACCESS_KEY_ID": "known-to-all",
                "PYTHONPATH": os.pathsep.join(map(str, (ROOT, SITE.parent, SITE))),
                "SERAC_LIGHT_KILL": str(folder / "kill"),
                "PREFECT_WORKER_QUERY_SECONDS": "0.5",
                "LISTENER": listener,
            },
            told,
            store,
        )
        (folder / "home").mkdir()
        site.environment.pop("PREFECT_API_URL", None)
        _join(site, endpoint)
        site.start("--cron", "0 4 * * *", "--timezone", "Europe/Berlin")
        yield site
        for process in site.processes():
            process.kill()


def _join(site: Site, endpoint: str) -> None:
    """Share the project by Git and the store; a person is at work in the checkout."""
    set_param(
        site.person,
        "registry",
        publish_to=str(site.shared),
        dvc_remote=f"s3://{BUCKET}/serac",
        dvc_endpoint=endpoint,
    )
    commit_all(site.person, "shared")
    sh(site.person.parent, "git", "clone", "--quiet", "--bare", str(site.person), str(site.shared))
    sh(site.person, "git", "remote", "add", "shared", str(site.shared))
    (site.person / ".dvc/config.local").write_text(
        f"['remote \"another\"']\n    url = s3://another\n    session_token = {LOCAL_CANARY}\n"
    )
    (site.person / "draft.txt").write_text("half a thought\n")


class Store:
    """A real HTTP server with S3's interface."""

    def __enter__(self) -> tuple[Any, str]:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        store = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="known-to-all",
            aws_secret_access_key=CANARIES["AWS_SECRET_ACCESS_KEY"],
        )
        store.create_bucket(Bucket=BUCKET)
        return store, endpoint

    def __exit__(self, *_: object) -> None:
        self.server.stop()


class Listener:
    """What a chat's webhook would be: keeps what it is told."""

    def __enter__(self) -> tuple[str, list[str]]:
        told: list[str] = []

        class Keep(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Keep)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}", told

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()


MAKE_ALERTS = """
import os
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="ops", url=os.environ["LISTENER"], json_data={"text": "{{subject}}: {{body}}"}
).save("serac-alerts", overwrite=True)
"""


def test_scheduled_retraining_is_released_by_two_workers_and_s3(site: Site) -> None:
    before = _persons_state(site)
    schedule = site.deployment("retrain")["schedules"][0]
    assert schedule["schedule"]["cron"] == "0 4 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    site.ask(
        "PATCH",
        f"/deployments/{site.deployment('retrain')['id']}/schedules/{schedule['id']}",
        schedule={"interval": 5, "timezone": "UTC"},
        max_scheduled_runs=3,
    )

    def ended(kind: str) -> list[dict[str, Any]]:
        return site.runs("retrain", kind)

    assert await_that(lambda: bool(ended("CANCELLED")), 120)
    made = site.verb("deploy", "--cron", "", "--training-slots", "1", "--json")
    assert made.returncode == 0, made.stderr
    assert "retrain/retrain" in json.loads(made.stdout)["deployments"]
    assert site.deployment("retrain")["schedules"] == []
    assert await_that(lambda: bool(ended("COMPLETED")), 400)
    assert not ended("FAILED") and not ended("CRASHED")
    assert all("concurrency limit" in r["state"]["message"] for r in ended("CANCELLED"))
    assert any("released serac@v1.0.0" in r["state"]["message"] for r in ended("COMPLETED"))

    trained = site.runs("train-on-gpu", "COMPLETED")
    assert {run["name"] for run in trained} == {"train-scope", "train-counterfactual"}
    assert {run["work_pool_name"] for run in trained} == {"serac-gpu"}
    assert {"refs/tags/serac@v1.0.0", "refs/tags/serac#prod#1", "refs/heads/releases"} < set(
        refs(site.shared)
    )
    assert verify_release(site.person / ".serac/releases/v1.0.0")
    assert site.store.list_objects_v2(Bucket=BUCKET, Prefix="serac/files/md5")["KeyCount"] > 10
    assert _persons_state(site) == before

    def promoted() -> list[dict[str, Any]]:
        wanted = {"event": {"name": ["serac.release.promoted"]}}
        found: list[dict[str, Any]] = site.ask("POST", "/events/filter", filter=wanted)["events"]
        return found

    assert await_that(lambda: bool(promoted()), 60)
    assert promoted()[0]["payload"] == {"release": "serac@v1.0.0", "how": "retrain"}


def _persons_state(site: Site) -> tuple[object, ...]:
    return (
        sh(site.person, "git", "status", "--porcelain=v2", "--branch"),
        refs(site.person),
        (site.person / "draft.txt").read_text(),
    )


def test_doctor_finds_a_site_that_is_up_well(site: Site) -> None:
    assert await_that(lambda: site.slots_taken() == 0, 60)
    done = site.verb("doctor", "--json")
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, [row for row in findings.values() if not row["ok"]]
    assert findings["lease storage"]["found"].endswith("filesystem")
    assert "worker-gpu" in findings["pool serac-gpu"]["found"]
    assert findings["dvc remote"]["found"].startswith(f"s3://{BUCKET}/serac")


def test_killed_worker_and_server_leave_no_slot_and_the_next_run_completes(site: Site) -> None:
    site.change("Bari")
    _kill_at(site, "after:upload_data", "worker-cpu")
    state = site.await_end(site.run("retrain", train_on=""))
    assert state["type"] == "CRASHED", state
    assert "worker-cpu died" in state["message"] and "Remedy" in state["message"]
    assert "refs/tags/serac@v1.1.0" not in refs(site.shared)
    assert await_that(lambda: site.slots_taken() == 0, 60)

    _kill_at(site, "before:commit_and_tag", "server")
    state = site.await_end(site.run("retrain", train_on=""))
    if state["type"] != "COMPLETED":  # it was between two tasks, where Prefect does not ask again
        state = site.await_end(site.run("retrain", train_on=""))
    assert state["type"] == "COMPLETED" and "serac@v1.1.0" in state["message"], state
    assert '"Bari"' in (site.person / ".serac/releases/v1.1.0/edits.jsonl").read_text()
    assert verify_release(site.person / ".serac/releases/v1.1.0")
    assert "server ended with -9; it is started again" in site.said()
    assert await_that(lambda: site.slots_taken() == 0, 60)


def _kill_at(site: Site, point: str, child: str) -> None:
    words = {"server": "server start", "worker-cpu": "--name worker-cpu"}[child]
    [victim] = [p for p in site.processes() if words in " ".join(p.cmdline())]
    site.order.write_text(f"{point} {victim.pid}")


def test_file_in_the_inbox_is_live_without_training(site: Site) -> None:
    inbox = site.person / "data/inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "new.jsonl").write_text(edit_line("e-9", "Oslo"))
    assert await_that(lambda: bool(site.runs("update-edits", "COMPLETED")), 400)
    [update] = site.runs("update-edits", "COMPLETED")
    assert update["state"]["message"] == "released serac@v1.2.0"
    assert '"Oslo"' in (site.person / ".serac/releases/v1.2.0/edits.jsonl").read_text()
    assert not (inbox / "new.jsonl").exists()


def test_rollback_is_a_run_too(site: Site) -> None:
    state = site.await_end(site.run("rollback"))
    assert state["message"] == "champion serac@v1.1.0", state
    assert "refs/tags/serac#prod#4" in refs(site.shared)


def test_failed_run_says_why_and_what_to_do_and_people_are_told(site: Site) -> None:
    subprocess.run(
        [sys.executable, "-c", MAKE_ALERTS],
        env=site.environment | {"PREFECT_API_URL": f"{site.url}/api"},
        check=True,
        capture_output=True,
    )
    assert "serac: failed run" in site.verb("deploy", "--cron", "").stdout
    state = site.await_end(site.run("retrain", ramp="50,20,all"))
    assert state["type"] == "FAILED"
    assert re.search(r"20.*\n  remedy: ", state["message"])
    assert await_that(lambda: any("20" in words for words in site.told), 60)
    refused = httpx.post(
        f"{site.url}/api/deployments/{site.deployment('retrain')['id']}/create_flow_run",
        json={"parameters": {"include_uncommitted": "perhaps"}, "enforce_parameter_schema": True},
    )
    assert refused.status_code == 409 and "include_uncommitted" in refused.text


def test_stopping_ends_runs_and_leaves_no_process(site: Site) -> None:
    set_param(site.person, "scope", max_steps=4000)
    sh(site.person, "git", "commit", "--quiet", "--all", "-m", "long")
    run_id = site.run("retrain", train_on="")
    beat = site.person / ".serac/cache/beat"
    beat.unlink(missing_ok=True)
    assert await_that(beat.exists, 120), site.state(run_id)
    assert site.process is not None
    site.process.terminate()
    assert site.process.wait(60) == 0, site.said()
    assert await_that(lambda: not site.processes(), 10), site.processes()

    (site.person.parent / "up.log").write_text("")
    site.start("--cron", "")
    assert site.state(run_id)["type"] == "CRASHED"
    assert site.slots_taken() == 0
    site.process.kill()
    assert await_that(lambda: not site.processes(), 20), site.processes()


def test_no_secret_is_in_any_file_log_or_artifact(site: Site) -> None:
    """Also in the databases of Git and Prefect, which are searched as they are stored."""
    secrets = [secret.encode() for secret in (*CANARIES.values(), LOCAL_CANARY)]
    objects = site.store.list_objects_v2(Bucket=BUCKET)["Contents"]
    read: dict[str, Callable[[], bytes]] = {
        f"s3 {entry['Key']}": lambda key=entry["Key"]: site.store.get_object(
            Bucket=BUCKET, Key=key
        )["Body"].read()
        for entry in objects
    }
    unpacked = site.person.parent / "objects"
    unpacked.write_bytes(
        b"".join(
            subprocess.check_output(
                ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=repository
            )
            for repository in (site.shared, site.person)
        )
    )
    for path in site.person.parent.rglob("*"):
        if path.is_file() and path.parts[-2:] != (".dvc", "config.local"):  # or a clone's copy
            read[str(path)] = path.read_bytes
    assert any(name.endswith("prefect.db") for name in read)
    found = [name for name, content in read.items() if any(s in content() for s in secrets)]
    assert not found
    shutil.rmtree(site.person.parent / "home")


def test_taken_port_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", int(site.url.rsplit(":", 1)[1]))):
        done = site.verb("up", "--port", site.url.rsplit(":", 1)[1])
    assert done.returncode == 2
    assert "another --port" in done.stderr


def test_deploying_without_a_server_is_named(site: Site) -> None:
    done = site.verb("deploy")
    assert (done.returncode, "PREFECT_API_URL" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
