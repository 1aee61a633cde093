"""Building again when another run published first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from serac_core.progress import Say
from serac_core.release.registry import PublishRaceLost
from serac_core.workspace.runs import Run

R = TypeVar("R")

MOST_BUILDS = 10


def build_again_when_overtaken(run: Run, build: Callable[[], R], *, say: Say) -> R:
    """Build and publish; when another run published meanwhile, once more on what it published.

    What was trained, encoded and evaluated is kept, so that a second time costs little.

    Raises
    ------
    PublishRaceLost
        Every one of ten times another run was faster.
    """
    for builds_left in reversed(range(MOST_BUILDS)):
        try:
            return build()
        except PublishRaceLost:
            if not builds_left:
                raise
            say("another run published meanwhile: building again on what it published")
            run.clear_workspace()
    raise AssertionError("not reached")
