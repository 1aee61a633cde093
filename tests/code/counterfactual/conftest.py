from __future__ import annotations

from pathlib import Path

import pytest

from serac_core.edits import Edit, write_edits


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
