"""Which questions of an evaluation were asked, and which were carried over."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

ASKED_FILE = "asked.json"


def read_asked(evaluation: Path) -> Collection[str] | None:
    """The keys of the questions that an evaluation asked; None where it asked all."""
    try:
        found = json.loads((evaluation / ASKED_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return frozenset(found["asked"])
