"""Tiny models, for the tests of every folder here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "base"))  # tiny_models

from tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny random model of a family, with a chat template if one is named."""
    made: dict[tuple[str, str], Path] = {}

    def folder(family: str, chat: str = "") -> Path:
        if (family, chat) not in made:
            place = tmp_path_factory.mktemp(family) / "model"
            made[family, chat] = save_tiny(family, place, chat)
        return made[family, chat]

    return folder
