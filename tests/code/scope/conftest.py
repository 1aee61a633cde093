"""Real but tiny parts of a release: exported encoder, edits, memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_encoder import graph, tokenizer_text

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.release.manifest import write_manifest
from serac_core.scope.cohort import Cohort
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_store import save_memories
from serac_core.scope.session import OnnxEncoder


@pytest.fixture
def make_encoder(tmp_path: Path) -> Callable[..., Path]:
    """Writes an export folder; `cohort` is [(masked text, relation), ...]."""

    def make(
        name: str = "onnx",
        graphs: dict[str, bytes] | None = None,
        cohort: Sequence[tuple[str, str]] = (),
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, content in (graphs or {"encoder.onnx": graph()}).items():
            (folder / file).write_bytes(content)
        (folder / "tokenizer.json").write_text(tokenizer_text(), encoding="utf-8")
        if cohort:
            texts, relations = zip(*cohort, strict=True)
            Cohort(texts, relations, ("country",) * len(cohort)).save(folder)
        return folder

    return make


@pytest.fixture
def encoder(make_encoder: Callable[..., Path]) -> OnnxEncoder:
    return OnnxEncoder.load(make_encoder())


@pytest.fixture
def edits() -> list[Edit]:
    def edit(id_: str, prompt: str, subject: str | None, target: str) -> Edit:
        return Edit(id=id_, prompt=prompt, subject=subject, target_new=target)

    return [
        edit("e-capital-france", "The capital of France is", "France", "Lyon"),
        edit("e-capital-norway", "The capital of Norway is", "Norway", "Bergen"),
        edit("e-currency-france", "Which money does France use?", "France", "krone"),
        edit("e-capital-guinea", "What is the capital of Guinea?", "Guinea", "Labé"),
        edit("e-joke", "Tell me a joke about tea", None, "No."),
    ]


@pytest.fixture
def release(
    tmp_path: Path, make_encoder: Callable[..., Path], edits: list[Edit]
) -> Callable[..., Path]:
    """Writes a release directory as far as a router reads it."""

    def make(live: list[Edit] | None = None, threshold: float = 0.8) -> Path:
        folder = tmp_path / "release"
        graphs = {"encoder.onnx": graph(), "encoder_int8.onnx": graph(seed=4)}
        scope = make_encoder("release/scope", graphs)
        served = edits if live is None else live
        thresholds = {"threshold": threshold, "whole_text_threshold": 0.9}
        calibration = {"variants": {"fp32": thresholds, "int8": thresholds}}
        (scope / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
        encoders = {name: OnnxEncoder.load(scope, name) for name in ("fp32", "int8")}
        memories = {name: EditMemory.build(served, made) for name, made in encoders.items()}
        save_memories(folder / "memory", memories)
        write_edits(folder / "edits.jsonl", served)
        write_manifest(folder, base_model="demo", edits=len(served), params={})
        return folder

    return make
