"""The memory of live edits as a change of the last one, against one that is built at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_encoder import graph, tokenizer_text

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_update import build_live_memories
from serac_core.scope.router import Router
from serac_core.scope.session import OnnxEncoder

PLACES = ("France", "Norway", "Guinea", "Peru", "Cuba", "Oman", "Chile", "Ghana")


def edit(place: str, prompt: str = "The capital of {} is") -> Edit:
    return Edit(id=place, prompt=prompt.format(place), target_new="New Town", subject=place)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    for name, seed in (("encoder", 3), ("encoder_int8", 4)):
        (folder / f"{name}.onnx").write_bytes(graph(seed=seed))
    (folder / "tokenizer.json").write_text(tokenizer_text())
    return folder


def build(tmp_path: Path, onnx: Path, edits: list[Edit], cache: str) -> tuple[Path, dict[str, int]]:
    write_edits(tmp_path / "edits.jsonl", edits)
    out = tmp_path / "memory"
    count, encoded = build_live_memories(tmp_path / "edits.jsonl", onnx, out, tmp_path / cache)
    assert count == len(edits)
    return out, encoded


def decisions(folder: Path, onnx: Path) -> list[tuple[object, ...]]:
    queries = [f"{said} {place}?" for place in PLACES for said in ("The capital of", "Who runs")]
    found = []
    for variant in ("fp32", "int8"):
        encoder = OnnxEncoder.load(onnx, variant)
        router = Router(encoder, EditMemory.load(folder, encoder.digest), 0.5)
        found += [
            (d.in_scope, d.edit_id, d.nearest_edit_id, d.score) for d in router.route(queries)
        ]
    return found


def test_added_and_gone_edits_change_the_kept_memory_and_nothing_else_is_encoded(
    onnx: Path, tmp_path: Path
) -> None:
    edits = [edit(place) for place in PLACES[:6]]
    first, encoded = build(tmp_path, onnx, edits, "cache")
    files = {path.name: path.read_bytes() for path in first.glob("*.safetensors")}
    assert encoded == {"fp32": 1, "int8": 1}  # of one prompt about six subjects
    edits = [*edits[1:], edit("Chile"), edit("Ghana", "Who runs {}?")]
    part, encoded = build(tmp_path, onnx, edits, "cache")
    assert encoded == {"fp32": 1, "int8": 1}
    assert all((part / name).read_bytes() == content for name, content in files.items())
    found = decisions(part, onnx)
    whole, _ = build(tmp_path, onnx, edits, "another cache")
    assert found == decisions(whole, onnx)


def test_an_edit_changed_in_its_place_builds_the_memory_anew(onnx: Path, tmp_path: Path) -> None:
    edits = [edit(place) for place in PLACES[:3]]
    build(tmp_path, onnx, edits, "cache")
    edits[1] = edit("Norway", "Who runs {}?")
    part, _ = build(tmp_path, onnx, edits, "cache")
    found = decisions(part, onnx)
    whole, _ = build(tmp_path, onnx, edits, "another cache")
    assert found == decisions(whole, onnx)


def test_a_damaged_kept_memory_is_not_used(onnx: Path, tmp_path: Path) -> None:
    edits = [edit(place) for place in PLACES[:3]]
    build(tmp_path, onnx, edits, "cache")
    for kept in (tmp_path / "cache/live-memory").rglob("keys-*"):
        kept.write_bytes(b"damaged")
    part, _ = build(tmp_path, onnx, [*edits, edit("Peru")], "cache")
    found = decisions(part, onnx)
    whole, _ = build(tmp_path, onnx, [*edits, edit("Peru")], "another cache")
    assert found == decisions(whole, onnx)
