"""What `serac doctor` finds, and the checks that other packages add to its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it is well, what was found, what to do if not."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


further_checks: list[Callable[[Path], Iterable[Finding]]] = []
"""Each takes the checkout; what needs Prefect joins here, as verbs join the command line."""
