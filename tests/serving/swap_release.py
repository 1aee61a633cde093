"""Release directories as small as can be and yet whole: tiny encoder, memory, tiny model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "code/base"))  # tiny_models
sys.path.insert(0, str(Path(__file__).parents[1] / "code/scope"))  # tiny_encoder

from tiny_encoder import graph, tokenizer_text
from tiny_models import save_tiny

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.release.manifest import write_manifest
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_store import save_memories
from serac_core.scope.session import OnnxEncoder

EDITS = (
    ("e-capital-france", "The capital of France is", "France", "Lyon"),
    ("e-capital-norway", "The capital of Norway is", "Norway", "Bergen"),
    ("e-currency-france", "Which money does France use?", "France", "krone"),
    ("e-capital-guinea", "What is the capital of Guinea?", "Guinea", "Labé"),
    ("e-joke", "Tell me a joke about tea", None, "No."),
)


def make_edits(rows: Sequence[tuple[str, str, str | None, str]] = EDITS) -> list[Edit]:
    return [
        Edit(id=id_, prompt=prompt, subject=subject, target_new=target)
        for id_, prompt, subject, target in rows
    ]


def write_release(
    folder: Path,
    edits: Sequence[Edit] | None = None,
    *,
    threshold: float = 0.8,
    base: str = "demo",
    counterfactual: Path | None = None,
    report: str = "",
) -> Path:
    """A release directory; `counterfactual` is a model's folder to copy, by default one is made."""
    served = make_edits() if edits is None else list(edits)
    scope = folder / "scope"
    scope.mkdir(parents=True)
    (scope / "encoder.onnx").write_bytes(graph())
    (scope / "tokenizer.json").write_text(tokenizer_text(), encoding="utf-8")
    thresholds = {"threshold": threshold, "whole_text_threshold": 0.9}
    calibration = {"variants": {"fp32": thresholds}}
    (scope / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
    memory = EditMemory.build(served, OnnxEncoder.load(scope))
    save_memories(folder / "memory", {"fp32": memory})
    if counterfactual is None:
        save_tiny("gpt2", folder / "counterfactual")
    else:
        shutil.copytree(counterfactual, folder / "counterfactual")
    if report:
        (folder / "report").mkdir()
        (folder / "report/report.html").write_text(report, encoding="utf-8")
    write_edits(folder / "edits.jsonl", served)
    write_manifest(folder, base_model=base, edits=len(served), params={})
    return folder
