"""The gate on a release directory, and its command: real router, latency measured."""

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "scope"))

from test_gate import METRICS, rows
from tiny_encoder import graph, tokenizer_text

from serac_core.config import GateConfig
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.cli import gate
from serac_core.release.gate import MissingGateEvidence, gate_release, measure_latency
from serac_core.scope.memory import EditMemory
from serac_core.scope.session import OnnxEncoder

EDITS = [
    Edit(prompt=f"The capital of {name} is", subject=name, target_new="Lyon")
    for name in ("France", "Norway")
]


def write_release(folder, metrics=None, items=(), live=None):
    scope, report = folder / "scope", folder / "report"
    scope.mkdir(parents=True)
    report.mkdir()
    (scope / "encoder.onnx").write_bytes(graph())
    (scope / "tokenizer.json").write_text(tokenizer_text())
    thresholds = {"threshold": 0.8, "whole_text_threshold": 0.9}
    (scope / "calibration.json").write_text(json.dumps({"variants": {"fp32": thresholds}}))
    (scope / "export.json").write_text(json.dumps({"parity": {"fp32": {"max_abs_diff": 1e-6}}}))
    EditMemory.build(EDITS, OnnxEncoder.load(scope)).save(folder / "memory")
    write_edits(folder / "edits.jsonl", EDITS)
    (report / "metrics.json").write_text(json.dumps(METRICS if metrics is None else metrics))
    (report / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    if live:
        (report / "live").mkdir()
        (report / "live" / "metrics.json").write_text(json.dumps(live))
        (report / "live" / "items.jsonl").write_text("")
    return folder


@pytest.fixture
def params(tmp_path):
    # The tiny encoder takes microseconds, so routing is many times as slow.
    (tmp_path / "params.yaml").write_text("gate:\n  max_latency_ratio: 1000\n")
    return tmp_path / "params.yaml"


@pytest.fixture
def run(params):
    app = typer.Typer()
    app.command()(gate)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["--params", str(params), *map(str, arguments)])

    return invoke


def test_latency_is_measured_on_the_release(tmp_path):
    latency = measure_latency(write_release(tmp_path / "release"), calls=20)
    assert latency.calls == 20
    assert 0 < latency.encode_ms < 1000
    assert latency.route_ms > latency.encode_ms
    assert latency.ratio == pytest.approx(latency.route_ms / latency.encode_ms)


def test_an_open_gate(run, tmp_path):
    found = run("--release", write_release(tmp_path / "release"))
    assert found.exit_code == 0, found.output
    assert "gate open" in found.stdout


def test_a_closed_gate_is_exit_code_one_and_says_why(run, tmp_path):
    release = write_release(tmp_path / "release", {**METRICS, "edit/acc": 0.2})
    found = run("--release", release, "--json")
    assert found.exit_code == 1
    result = json.loads(found.stdout)
    assert not result["passed"]
    assert [c["name"] for c in result["checks"] if not c["passed"]] == ["edit/acc"]
    assert "gate closed: edit/acc" in run("--release", release).stdout


def test_the_champion_is_compared_item_by_item(run, tmp_path):
    champion = write_release(tmp_path / "champion", items=rows("edit", [True] * 100))
    worse = write_release(tmp_path / "worse", items=rows("edit", [False] * 9 + [True] * 91))
    assert run("--release", worse).exit_code == 0
    found = run("--release", worse, "--champion", champion)
    assert found.exit_code == 1
    assert "gate closed: regression/model/edit" in found.stdout


def test_live_edits_of_a_release_are_judged(tmp_path):
    live = {"edit/exact_match": 0.1, "intervals": {}}
    release = write_release(tmp_path / "release", live=live)
    result = gate_release(release, None, GateConfig(max_latency_ratio=1000))
    assert [check.name for check in result.failed] == ["live/edit/exact_match"]


def test_missing_evidence_is_named(tmp_path):
    release = write_release(tmp_path / "release")
    (release / "report" / "metrics.json").write_text("[")
    with pytest.raises(MissingGateEvidence, match="metrics"):
        gate_release(release, None, GateConfig())
