from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "base"))  # tiny_models, shared with its tests

from tiny_models import save_tiny

from serac_core.edits import Edit, write_edits


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


def make_edits(names: list[tuple[str, str]]) -> list[Edit]:
    return [
        Edit.model_validate(
            {
                "prompt": f"The capital of {country} is",
                "target_new": target,
                "subject": country,
                "rephrase_prompts": [f"What is the capital of {country}?"],
                "locality": [
                    {"prompt": "Who wrote Carrie?", "ground_truth": "Stephen King"},
                    {"prompt": "A probe without a known answer"},
                ],
            }
        )
        for country, target in names
    ]


@pytest.fixture
def edits() -> list[Edit]:
    return make_edits([("Peru", "Cusco"), ("Chile", "Rio Verde of the North"), ("Japan", "日本 7")])


@pytest.fixture
def training_set(tmp_path: Path, edits: list[Edit]) -> Path:
    folder = tmp_path / "training"
    folder.mkdir()
    write_edits(folder / "train.jsonl", edits)
    write_edits(folder / "val.jsonl", make_edits([("Ghana", "Quito"), ("Kenya", "Saint Lomar")]))
    return folder
