"""Real processes for the tests: an upstream and a router, started, waited for, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
QUERY_KEY = "query-key-0123456789abcdef"
ADMIN_KEY = "admin-key-fedcba9876543210"
UPSTREAM_KEY = "upstream-key-5555aaaa5555"
_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PATH": os.environ["PATH"],
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class Router:
    """A router process."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    upstream: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {QUERY_KEY}"}

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {ADMIN_KEY}"}


@contextmanager
def run_upstream(folder: Path, port: int = 0) -> Iterator[str]:
    """An upstream's URL."""
    port_file = folder / f"upstream-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/serving/upstream.py"), str(port_file), str(port)],
        env=_ENVIRONMENT,
    )
    try:
        while not port_file.exists() or not port_file.read_text():
            assert process.poll() is None, "the upstream did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def run_router(
    folder: Path,
    release: Path,
    upstream: str = "",
    settings: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Router]:
    """A router as `serac serve` starts it."""
    stamp = time.monotonic_ns()
    log = folder / f"router-{stamp}.log"
    config = folder / f"serving-{stamp}.yaml"
    base = f"{upstream}/v1" if upstream else ""
    held = {"release": str(release), "base": base, "port": 0, "checkout": str(folder)}
    config.write_text(yaml.safe_dump({**held, **(settings or {})}))
    keys = {
        "SERAC_QUERY_KEYS": QUERY_KEY,
        "SERAC_ADMIN_KEYS": ADMIN_KEY,
        "SERAC_UPSTREAM_KEY": UPSTREAM_KEY,
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "serac_core", "serve", "--config", str(config)],
            env={**_ENVIRONMENT, **keys, **(environment or {})},
            cwd=folder,
            stderr=file,
            text=True,
        )
    try:
        while not (found := re.search(r"serving on (\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield Router(found[1], process, log, upstream)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
