"""A router in a thread of the test's process, for settings of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import ADMIN_KEY, QUERY_KEY

from serac_core.serving.assembly import make_server
from serac_core.serving.server import RouterServer
from serac_core.serving.settings import load_settings

KEYS = {"SERAC_QUERY_KEYS": QUERY_KEY, "SERAC_ADMIN_KEYS": ADMIN_KEY}


@contextmanager
def serving(
    release: Path, upstream: str = "", *, keys: bool = False, **settings: object
) -> Iterator[tuple[str, RouterServer]]:
    """The URL of a router and the router itself."""
    base = {"base": f"{upstream}/v1"} if upstream else {}
    held = load_settings(None, {"release": str(release), "port": 0, **base, **settings})
    told: list[str] = []
    is_told = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        if "http://" in line:
            is_told.set()

    server = make_server(held, environment=KEYS if keys else {}, say=say)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert is_told.wait(60), told
        yield told[-1].split()[-1], server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
