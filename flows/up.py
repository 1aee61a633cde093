"""Everything on one machine: Prefect server, work pools, limits, deployments, automations, two
workers, and a look into the inbox. One command starts it, Ctrl-C stops it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from flows.inbox import Inbox
from flows.supervisor import Child, Supervisor
from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.tether import tether_descendants
from serac_core.workspace.runs import state_folder

_SECONDS_TO_STOP = 20.0
_SECONDS_BETWEEN_LOOKS = 1.0


class PortTaken(SeracError):
    """Another process listens where the Prefect server should."""


@dataclass(frozen=True)
class Site:
    """Where `serac up` runs.

    Attributes
    ----------
    checkout:
        The repository that the runs are about.
    home:
        Prefect's folder: database, leases, logs, what the workers have in hand.
    host, port:
        Where the server listens.
    """

    checkout: Path
    home: Path
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What server, workers and their runs are started with, and this process works with.

        Leases of concurrency slots are files: in the server's memory, the default, a restart
        of it would leave every slot that was held taken for ever.
        """
        scripts = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "GX_ANALYTICS_ENABLED": "false",
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": os.environ.get(
                "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30"
            ),
            "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
            "SERAC_CHECKOUT": str(self.checkout),
        }


def make_site(checkout: Path, home: Path | None, host: str, port: int) -> Site:
    """The site of a checkout; without a folder for Prefect, `.serac/prefect`."""
    return Site(checkout, (home or state_folder(checkout) / "prefect").absolute(), host, port)


def run_site(
    site: Site,
    *,
    cron: str | None,
    timezone: str | None,
    training_slots: int,
    say: Say,
) -> None:
    """Start everything, look after it until SIGINT or SIGTERM, stop everything.

    Parameters
    ----------
    cron, timezone:
        When `retrain` runs; see :func:`flows.deployments.read_deployments`.
    training_slots:
        Training stages at the same time, as many as there are GPUs.

    Raises
    ------
    PortTaken, InvalidDeployments, ChildKeepsEnding
    """
    _require_free(site)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    tether_descendants()
    os.environ.update(site.environment)
    supervisor = Supervisor(site.home / "logs", say)
    try:
        supervisor.start(_server(site))
        if not supervisor.await_ready("server", lambda: _answers(site), stop):
            return
        from flows.deploy import deploy

        deployed = deploy(cron=cron, timezone=timezone, training_slots=training_slots)
        for pool, slots in (("serac-cpu", None), ("serac-gpu", training_slots)):
            supervisor.start(_worker(site, pool, slots))
        _introduce(site, deployed.lines(), say)
        _look_after(site, supervisor, stop, say)
    finally:
        say("stopping: workers, then the server")
        supervisor.stop(*_WORKERS.values())
        supervisor.stop("server")
        say("stopped")


_WORKERS = {"serac-cpu": "worker-cpu", "serac-gpu": "worker-gpu"}


def _look_after(site: Site, supervisor: Supervisor, stop: threading.Event, say: Say) -> None:
    inbox = Inbox(site.checkout, say)
    looked = 0.0
    while not stop.wait(0.1):
        supervisor.check()
        if time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS:
            looked = time.monotonic()
            inbox.look()


def _server(site: Site) -> Child:
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", site.host, "--port", str(site.port)]
    return Child("server", command, site.environment, _SECONDS_TO_STOP)


def _worker(site: Site, pool: str, limit: int | None) -> Child:
    name = _WORKERS[pool]
    command = [sys.executable, "-P", "-m", "serac_core", "worker", "--pool", pool, "--name", name]
    if limit:
        command += ["--limit", str(limit)]
    return Child(name, command, site.environment, _SECONDS_TO_STOP)


def _answers(site: Site) -> bool:
    import httpx

    try:
        return httpx.get(f"{site.url}/api/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _require_free(site: Site) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((site.host, site.port))
        except OSError as error:
            raise PortTaken(
                f"{site.host}:{site.port}: {error.strerror}",
                remedy="end what listens there (an earlier `serac up`?), or choose another --port",
            ) from None


def _introduce(site: Site, lines: list[str], say: Say) -> None:
    serac = "serac" if shutil.which("serac") else f"{sys.executable} -m serac_core"
    for line in (
        f"Prefect: {site.url}  (API {site.url}/api, state and logs in {site.home})",
        *lines,
        "in another shell:",
        f"  export PREFECT_API_URL={site.url}/api",
        "  prefect deployment run retrain/retrain --watch",
        f"  {serac} doctor --checkout {site.checkout}",
        "Ctrl-C stops everything",
    ):
        say(line)
