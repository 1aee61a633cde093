"""A release with an encoder small enough to write down and a tiny counterfactual model."""

from __future__ import annotations

import json
from pathlib import Path

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
)


def make_release(folder: Path, base: Path) -> Path:
    """A release as far as a router reads it, with a tiny counterfactual model."""
    scope = folder / "scope"
    scope.mkdir(parents=True)
    (scope / "encoder.onnx").write_bytes(graph())
    (scope / "tokenizer.json").write_text(tokenizer_text(), encoding="utf-8")
    thresholds = {"threshold": 0.8, "whole_text_threshold": 0.9}
    (scope / "calibration.json").write_text(json.dumps({"variants": {"fp32": thresholds}}))
    served = [
        Edit(id=id_, prompt=prompt, subject=subject, target_new=target)
        for id_, prompt, subject, target in EDITS
    ]
    memory = EditMemory.build(served, OnnxEncoder.load(scope))
    save_memories(folder / "memory", {"fp32": memory})
    save_tiny("llama", folder / "counterfactual")
    write_edits(folder / "edits.jsonl", served)
    write_manifest(folder, base_model=str(base), edits=len(served), params={})
    return folder
