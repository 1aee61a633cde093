"""`serac evaluate`, both parts, on real tiny parts: ONNX graph, memory, language models."""

import json
import sys
from pathlib import Path

import pytest
import typer
from small_world import random_language_model
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "scope"))

from tiny_encoder import graph, tokenizer_text

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.cli import evaluate
from serac_core.evaluation.items import read_items
from serac_core.evaluation.report import write_report
from serac_core.scope.calibration_file import UnreadableCalibration
from serac_core.scope.encoder import TorchEncoder
from serac_core.scope.memory import EditMemory
from serac_core.scope.session import OnnxEncoder

PLACES = ("France", "Norway", "Guinea", "Peru")


def make_edits(places):
    return [
        Edit.model_validate(
            {
                "prompt": f"The capital of {place} is",
                "target_new": "New Town",
                "subject": place,
                "rephrase_prompts": [f"What is the capital of {place}?"],
                "locality": [
                    {"prompt": f"Which money does {place} use?", "kind": "same_subject"},
                    {"prompt": "Tell me about tea", "ground_truth": "It is hot"},
                ],
                "portability": [{"prompt": f"Who runs {place}?", "ground_truth": "Ana"}],
                "relation": "capital",
            }
        )
        for place in places
    ]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """What the stages before the evaluation leave."""
    root = tmp_path_factory.mktemp("workspace")
    for fold, places in (("train", PLACES[:2]), ("val", PLACES[2:3]), ("test", PLACES[1:])):
        write_edits(root / f"data/training/{fold}.jsonl", make_edits(places))
    (root / "data/training/traffic.jsonl").write_text(
        '{"query": "Hello", "fold": "test"}\n{"query": "Bye", "fold": "train"}\n'
    )
    write_edits(root / "data/live/edits.jsonl", make_edits(PLACES))
    onnx = root / "build/scope/onnx"
    onnx.mkdir(parents=True)
    (onnx / "encoder.onnx").write_bytes(graph())
    (onnx / "encoder_int8.onnx").write_bytes(graph(seed=4))
    (onnx / "tokenizer.json").write_text(tokenizer_text())
    EditMemory.build(make_edits(PLACES), OnnxEncoder.load(onnx)).save(root / "build/memory")
    (root / "build/scope/calibration").mkdir()
    thresholds = {"threshold": 0.8, "whole_text_threshold": 0.9}
    (root / "build/scope/calibration/calibration.json").write_text(
        json.dumps({"variants": {"fp32": thresholds, "int8": thresholds}})
    )
    model = random_language_model()
    for folder in ("base", "build/counterfactual"):
        model.model.save_pretrained(root / folder)
        model.tokenizer.save_pretrained(root / folder)
    (root / "params.yaml").write_text("models: {base: base}\ncounterfactual: {max_new_tokens: 4}\n")
    return root


@pytest.fixture
def run(workspace, monkeypatch):
    app = typer.Typer()
    app.command()(evaluate)
    monkeypatch.chdir(workspace)
    # The tiny graph has no PyTorch twin; it stands in for itself.
    monkeypatch.setattr(
        TorchEncoder, "load", classmethod(lambda cls, *_: OnnxEncoder.load("build/scope/onnx"))
    )

    def invoke(part, out, *more):
        found = CliRunner().invoke(app, ["--part", part, "--out", str(out), *more])
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return invoke


def test_the_model_is_evaluated_and_the_same_bytes_come_again(run, workspace):
    found = run("model", "build/one", "--json")
    metrics = json.loads(found.stdout)
    assert metrics == json.loads(Path("build/one/metrics.json").read_text())
    for name in ("edit/acc", "edit/acc_train", "edit/acc_val", "ES", "answers_changed", "acc/pre"):
        assert 0 <= metrics[name] <= 1, name
    assert metrics["routing/true_route"] == 1.0
    assert metrics["routed_out/answers_changed"] == 0.0
    assert metrics["parity/decisions"] == 1.0
    assert 0 <= metrics["routing/int8_agreement"] <= 1
    rows = read_items("build/one/items.jsonl")
    groups = [row["group"] for row in rows]
    assert {group: groups.count(group) for group in sorted(set(groups))} == {
        "edit": 3,
        "portability": 3,
        "rephrase": 3,
        "same_subject": 3,
        "traffic": 1,
        "unrelated": 1,  # asked once, though every edit has it
    }
    cached = list((workspace / ".serac/cache").rglob("*.sqlite"))
    assert len(cached) == 1
    run("model", "build/two")
    for file in sorted(Path("build/one").rglob("*.*")):
        assert file.read_bytes() == (Path("build/two") / file.relative_to("build/one")).read_bytes()
    assert (Path("build/one/figures/scores.png")).stat().st_size > 1000


def test_the_live_edits_are_evaluated_with_the_memory_that_is_served(run, tmp_path):
    found = run("live", tmp_path / "live", "--cache-dir", str(tmp_path / "cache"))
    assert "edit/exact_match" in found.stdout
    rows = read_items(tmp_path / "live" / "items.jsonl")
    assert {row["part"] for row in rows} == {"live"}
    assert sum(row["group"] == "edit" for row in rows) == 4
    write_report(tmp_path / "report.html", tmp_path / "live")
    assert "The capital of Peru is" in (tmp_path / "report.html").read_text()


def test_without_a_threshold_nothing_is_written(run, tmp_path):
    with pytest.raises(UnreadableCalibration):
        run("model", tmp_path / "out", "--calibration", str(tmp_path))
    assert not (tmp_path / "out").exists()
