"""The release directory: complete or absent, the same bytes from the same parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serac_core.config import load_params
from serac_core.release.gate import GateResult
from serac_core.release.manifest import verify_release
from serac_core.release.package import MissingArtifact, package_release
from serac_core.release.widths import WidthResult, describe_live_edits, record_widths

ITEM = {
    "key": "model/1",
    "part": "model",
    "group": "edit",
    "kind": "prompt",
    "query": "q",
    "expected": "x",
    "answer": "x",
    "correct": True,
    "in_scope": True,
    "score": 0.9,
    "relation": "capital",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stages leave, as small files; the report is written by a part of its own."""
    from serac_core.evaluation import report

    monkeypatch.setattr(report, "write_report", lambda out, folder: out.write_text("<html>"))
    folder = tmp_path / "workspace"
    for name, content in {
        "params.yaml": "seed: 3\ngate: {edit_acc: 0.5}\n",
        "data/live/edits.jsonl": '{"id": "e-1"}\n{"id": "e-2"}\n',
        "build/memory/fp32.npy": "keys",
        "build/scope/onnx/encoder.onnx": "graph",
        "build/scope/onnx/tokenizer.json": "{}",
        "build/scope/onnx/export.json": "{}",
        "build/scope/calibration/calibration.json": "{}",
        "build/scope/calibration/scores.jsonl": "{}\n",
        "build/scope/model/log.jsonl": "{}\n",
        "build/scope/model/model.safetensors": "not part of a release",
        "build/counterfactual/model.safetensors": "weights",
        "build/counterfactual/log.jsonl": "{}\n",
        "build/evaluation/model/metrics.json": '{"edit/acc": 1.0}',
        "build/evaluation/model/items.jsonl": json.dumps(ITEM) + "\n",
        "build/evaluation/live/metrics.json": '{"edit/acc": 0.9}',
        "build/validation/edits/data_docs/index.html": "<html>",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def package(workspace: Path) -> Path:
    package_release(workspace, workspace / "release", load_params(workspace / "params.yaml"))
    return workspace / "release"


def test_release_has_its_layout(workspace: Path) -> None:
    release = package(workspace)
    manifest = verify_release(release)
    assert set(manifest.files) == {
        "counterfactual/model.safetensors",
        "edits.jsonl",
        "memory/fp32.npy",
        "report/calibration/scores.jsonl",
        "report/items.jsonl",
        "report/live/metrics.json",
        "report/metrics.json",
        "report/report.html",
        "report/training/counterfactual/log.jsonl",
        "report/training/scope/log.jsonl",
        "report/validation/data_docs/index.html",
        "scope/calibration.json",
        "scope/encoder.onnx",
        "scope/export.json",
        "scope/tokenizer.json",
    }
    assert manifest.edits == 2
    assert manifest.params["seed"] == 3
    assert not {"gate", "registry"} & manifest.params.keys()


def test_same_parts_give_the_same_bytes(workspace: Path) -> None:
    before = (package(workspace) / "manifest.json").read_bytes()
    (workspace / "params.yaml").write_text("seed: 3\nregistry: {dvc_remote: elsewhere}\n")
    assert (package(workspace) / "manifest.json").read_bytes() == before


def test_the_widths_of_a_ramp_go_into_the_report_of_its_live_edits(workspace: Path) -> None:
    passed = WidthResult(1, 1, {"edit/exact_match": 1.0}, GateResult(()))
    record_widths(workspace, describe_live_edits(workspace), [passed])
    (workspace / "build/evaluation/live/metrics.json").write_text('{"edit/exact_match": 0.5}')
    rows = json.loads((package(workspace) / "report/widths.json").read_text())["widths"]
    assert [(row["width"], row["edits"], row["passed"]) for row in rows] == [
        ("1", 1, True),
        ("all", 2, None),
    ]
    assert rows[1]["metrics"] == {"edit/exact_match": 0.5}
    (workspace / "data/live/edits.jsonl").write_text('{"id": "e-1"}\n')
    assert not (package(workspace) / "report/widths.json").exists()


def test_missing_part_is_named_and_nothing_is_written(workspace: Path) -> None:
    (workspace / "build/memory/fp32.npy").unlink()
    (workspace / "build/memory").rmdir()
    with pytest.raises(MissingArtifact, match="memory"):
        package(workspace)
    assert not (workspace / "release").exists()


def test_full_disk_leaves_the_old_release_and_nothing_else(workspace: Path) -> None:
    before = (package(workspace) / "manifest.json").read_bytes()
    (workspace / "build/counterfactual/model.safetensors").write_bytes(b"w" * 300_000)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from serac_core.config import load_params\n"
        "from serac_core.edits.atomic import UnwritableOutput\n"
        "from serac_core.release.package import package_release\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: package_release(Path(), Path('release'), load_params())\n"
        "except UnwritableOutput as error: sys.exit(str(error))\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=workspace,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "release: can't be written" in done.stderr
    assert (workspace / "release/manifest.json").read_bytes() == before
    assert sorted(path.name for path in workspace.iterdir()) == [
        "build",
        "data",
        "params.yaml",
        "release",
    ]
