"""Processes that must not outlive the one that started them, however it ends.

A flow that is killed with SIGKILL can clean up nothing: its stage commands, their
children and Prefect's temporary server would go on writing. So the process that
runs a flow marks its environment, which every descendant inherits, and starts a
watcher in a session of its own. The watcher holds one end of a pipe; when the
other end closes, by an orderly exit or by any signal, it kills whatever still
carries the mark. Should the watcher be killed too, the next run calls
:func:`kill_marked` with the mark that the dead run wrote down.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping

MARK = "SERAC_TETHER"

_watchers: list[subprocess.Popen[bytes]] = []


def tether_descendants() -> str:
    """Mark this process's future children and watch over them; returns the mark.

    Calling it again in the same process changes nothing.
    """
    if not _watchers:
        mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        watcher = subprocess.Popen(
            [sys.executable, "-P", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=untethered(os.environ),
            start_new_session=True,
            cwd="/",
        )
        _watchers.append(watcher)
        os.environ[MARK] = mark
    return os.environ[MARK]


def untethered(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child that must finish what it began (a Git push)."""
    return {name: value for name, value in environment.items() if name != MARK}


def kill_marked(mark: str) -> int:
    """SIGKILL every process whose environment carries the mark; returns how many.

    Processes may be forking meanwhile, so it goes on until a pass finds none.
    """
    import psutil

    killed = 0
    own = os.getpid()
    while True:
        found = 0
        for process in psutil.process_iter():
            try:
                if process.pid != own and process.environ().get(MARK) == mark:
                    process.kill()
                    found += 1
            except (psutil.Error, OSError):
                continue
        if not found:
            return killed
        killed += found
        time.sleep(0.02)


def watch(mark: str) -> None:
    """Wait until stdin closes, then kill what carries the mark."""
    while os.read(0, 1024):
        pass
    kill_marked(mark)


if __name__ == "__main__":
    watch(sys.argv[1])
