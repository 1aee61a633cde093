"""How a function of the library becomes a task of a flow, and how its errors look there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from serac_core.errors import SeracError

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A Prefect task called `name`. DVC knows what need not run again: Prefect caches nothing."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        return task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(
            function
        )

    return wrap


def say(line: str) -> None:
    """One line of a step's progress, to the run's log: terminal and Prefect."""
    get_run_logger().info("%s", line)


def log_errors_plainly() -> None:
    """Log an error of the catalogue as its message, which a traceback would bury."""
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SeracError):
        record.exc_info = None
        record.msg, record.args = "%s", (error.what,)
    return True
