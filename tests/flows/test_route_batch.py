"""Batch routing by two real workers: the bytes of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "code/scope"))  # tiny_encoder

from tiny_encoder import graph, tokenizer_text

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.release.manifest import write_manifest
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_store import save_memories
from serac_core.scope.session import OnnxEncoder


def make_release(folder: Path) -> Path:
    """A release directory as far as a router reads it."""
    scope = folder / "scope"
    scope.mkdir(parents=True)
    (scope / "encoder.onnx").write_bytes(graph())
    (scope / "tokenizer.json").write_text(tokenizer_text(), encoding="utf-8")
    thresholds = {"fp32": {"threshold": 0.8, "whole_text_threshold": 0.9}}
    (scope / "calibration.json").write_text(json.dumps({"variants": thresholds}))
    edits = [
        Edit(
            id=f"e-{name}",
            prompt=f"The capital of {name} is",
            subject=name,
            target_new="Lyon",
        )
        for name in ("France", "Norway", "Guinea")
    ]
    memory = EditMemory.build(edits, OnnxEncoder.load(scope))
    save_memories(folder / "memory", {"fp32": memory})
    write_edits(folder / "edits.jsonl", edits)
    write_manifest(folder, base_model="demo", edits=len(edits), params={})
    return folder


def serac(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serac_core", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=300,
    )


@pytest.mark.parametrize("queries", [3000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_two_workers_give_the_bytes_of_one_process(
    workers: dict[str, Path], tmp_path: Path, queries: int
) -> None:
    release = str(make_release(tmp_path / "release"))
    texts = ("The capital of France is", "tea", "what is the capital of Guinea", "", "Norway")
    source = tmp_path / "queries.jsonl"
    source.write_text(
        "".join(json.dumps(f"{texts[n % 5]}{' please' * (n % 7)}") + "\n" for n in range(queries))
    )
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    done = serac("route", "--release", release, "--input", str(source), "--output", str(one))
    assert done.returncode == 0, done.stderr
    done = serac(
        *("route-batch", "--release", release, "--input", str(source), "--output", str(two))
    )
    assert done.returncode == 0, done.stderr
    assert "in 2 shards" in done.stderr  # as many as there are workers
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().count(b"\n") == queries
    assert 0 < one.read_bytes().count(b'"in_scope": true') < queries
    assert not two.with_name("two.jsonl.shards").exists()
