"""Child processes that are kept running until they are told to stop, and end with this one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serac_core.errors import SeracError
from serac_core.progress import Say

_SECONDS_BETWEEN = 0.1
_STEADY_SECONDS = 60.0
_QUICK_ENDS = 5


class ChildKeepsEnding(SeracError):
    """A child process ended again and again, soon after it was started."""


@dataclass
class Child:
    """A process to keep running.

    Attributes
    ----------
    name:
        What it is called in messages, and its log file.
    command, environment:
        How it is started.
    grace:
        Seconds that it has to end after SIGTERM.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    grace: float
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    quick_ends: int = 0


class Supervisor:
    """Starts children, starts one again that ends, and stops them."""

    def __init__(self, logs: Path, say: Say) -> None:
        self._logs = logs
        self._say = say
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._logs / f"{name}.log"

    def start(self, child: Child) -> None:
        self._children.append(child)
        self._run(child)

    def _run(self, child: Child) -> None:
        with self.log(child.name).open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                env=child.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for this process alone
            )
        child.started = time.monotonic()

    def check(self) -> None:
        """Start children again that have ended.

        Raises
        ------
        ChildKeepsEnding
        """
        for child in self._children:
            assert child.process is not None
            code = child.process.poll()
            if code is None:
                continue
            steady = time.monotonic() - child.started > _STEADY_SECONDS
            child.quick_ends = 0 if steady else child.quick_ends + 1
            if child.quick_ends >= _QUICK_ENDS:
                raise ChildKeepsEnding(
                    f"{child.name} ended {_QUICK_ENDS} times, last with {code}:\n"
                    + self.last_words(child.name),
                    remedy=f"all that it said is in {self.log(child.name)}; mend the cause and "
                    "start again",
                )
            self._say(f"{child.name} ended with {code}; it is started again")
            self._run(child)

    def last_words(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-10:])

    def await_ready(self, name: str, ready: Callable[[], bool], until: threading.Event) -> bool:
        """Wait until a child answers; False when the event was set before."""
        while not until.is_set():
            if ready():
                return True
            until.wait(_SECONDS_BETWEEN)
            self.check()
        return False

    def stop(self, *names: str) -> None:
        """End children, all at once: SIGTERM, and SIGKILL to those whose time is up."""
        ending = [child for child in self._children if child.name in names]
        for child in ending:
            _signal(child, signal.SIGTERM)
        for child in ending:
            assert child.process is not None
            try:
                child.process.wait(child.grace)
            except subprocess.TimeoutExpired:
                self._say(f"{child.name} does not end within {child.grace:.0f} s; it is killed")
                _signal(child, signal.SIGKILL)
                child.process.wait()
            self._children.remove(child)


def _signal(child: Child, number: signal.Signals) -> None:
    assert child.process is not None
    if child.process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(child.process.pid, number)
