"""Every architecture as base and as counterfactual model: trained, evaluated, packaged, asked.

The verbs are the pipeline's own; the encoder is a tiny graph, the language models are tiny.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "scope"))

from tiny_encoder import graph, tokenizer_text

from serac_core.base import LanguageModel
from serac_core.config import Params, load_params
from serac_core.counterfactual.cli import answer, train_counterfactual
from serac_core.editing import EditedModel
from serac_core.edits import Edit, write_edits
from serac_core.evaluation.cli import evaluate
from serac_core.evaluation.evaluate import EvaluationInputs
from serac_core.evaluation.items import read_items
from serac_core.evaluation.scoring import load_models
from serac_core.release.cli import package
from serac_core.release.manifest import verify_release, write_manifest
from serac_core.scope.encoder import TorchEncoder
from serac_core.scope.memory import EditMemory
from serac_core.scope.session import OnnxEncoder

Tiny = Callable[..., Path]
PLACES = ("France", "Norway", "Guinea")
OUTSIDE = ["Tell me about tea", "Which money does Norway use?", "A joke please"]
LORA = {"kind": "lora", "lora_rank": 4}


def make_edits() -> list[Edit]:
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
                "relation": "capital",
            }
        )
        for place in PLACES
    ]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stages leave that no language model takes part in."""
    edits = make_edits()
    for fold in ("training/train", "training/val", "training/test", "live/edits"):
        write_edits(tmp_path / f"data/{fold}.jsonl", edits)
    (tmp_path / "data/training/traffic.jsonl").write_text('{"query": "Hello", "fold": "test"}\n')
    onnx = tmp_path / "build/scope/onnx"
    onnx.mkdir(parents=True)
    (onnx / "encoder.onnx").write_bytes(graph())
    (onnx / "tokenizer.json").write_text(tokenizer_text())
    EditMemory.build(edits, OnnxEncoder.load(onnx)).save(tmp_path / "build/memory")
    for name, content in {
        "build/scope/calibration/calibration.json": json.dumps(
            {"variants": {"fp32": {"threshold": 0.8, "whole_text_threshold": 0.9}}}
        ),
        "build/scope/model/log.jsonl": '{"step": 1, "loss/train": 1.0}\n',
        "build/validation/edits/result.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    # The tiny graph has no PyTorch twin; it stands in for itself.
    monkeypatch.setattr(
        TorchEncoder, "load", classmethod(lambda cls, *_: OnnxEncoder.load("build/scope/onnx"))
    )
    return tmp_path


def serac(*arguments: object) -> str:
    """What a verb prints; as `serac_core.cli` has it, which brings the flows along."""
    app = typer.Typer()
    for verb in (train_counterfactual, evaluate, package, answer):
        app.command()(verb)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def put_together(counterfactual: str, params: dict[str, Any]) -> None:
    """The parts of a release that answer, without its report."""
    release = Path("release")
    for source, place in (
        ("build/scope/onnx", "scope"),
        ("build/memory", "memory"),
        (counterfactual, "counterfactual"),
    ):
        shutil.copytree(source, release / place)
    shutil.copy("build/scope/calibration/calibration.json", release / "scope")
    shutil.copy("data/live/edits.jsonl", release / "edits.jsonl")
    write_manifest(release, base_model=params["models"]["base"], edits=3, params=params)


@pytest.mark.parametrize(
    ("base", "counterfactual", "settings"),
    [
        (("gpt2", ""), ("t5", ""), LORA),
        (("llama", "llama2"), ("gpt2", ""), LORA),
        (("t5", ""), ("llama", "chatml"), {}),
        (("bart", ""), ("bart", ""), {}),
        (("gpt2", "chatml"), None, {"kind": "in-context"}),
    ],
    ids=["gpt2-t5-lora", "llama-gpt2-lora", "t5-llama", "bart-bart", "gpt2-in-context"],
)
def test_a_family_is_trained_evaluated_and_asked(
    workspace: Path,
    tiny: Tiny,
    base: tuple[str, str],
    counterfactual: tuple[str, str] | None,
    settings: dict[str, Any],
) -> None:
    usual = {"max_steps": 4, "batch_size": 4, "checkpoint_every": 4, "max_new_tokens": 4}
    params = {
        # A counterfactual model of the kind that reads in context isn't asked for.
        "models": {
            "base": str(tiny(*base)),
            "counterfactual": str(tiny(*counterfactual)) if counterfactual else "no/such/model",
        },
        "counterfactual": {**usual, **settings},
    }
    Path("params.yaml").write_text(yaml.safe_dump(params))
    trained = "build/counterfactual"
    serac("train-counterfactual", "--training-set", "data/training", "--out", trained)
    serac("evaluate", "--part", "live", "--out", "build/evaluation/live")
    if counterfactual is None:  # the kind whose folder holds no model
        serac("evaluate", "--part", "model", "--out", "build/evaluation/model")
        serac("package", "--out", "release")
    else:
        put_together(trained, load_params().model_dump(mode="json"))
    manifest = verify_release("release")
    assert manifest.params["counterfactual"]["kind"] == settings.get("kind", "finetuned")

    metrics = json.loads(Path("build/evaluation/live/metrics.json").read_text())
    assert metrics["routing/true_route"] == 1.0
    assert metrics["routed_out/answers_changed"] == 0.0
    assert 0 <= metrics["edit/acc"] <= 1
    alone = LanguageModel.load(tiny(*base))
    for row in read_items("build/evaluation/live/items.jsonl"):
        if not row["in_scope"]:
            assert [row["answer"]] == alone.generate([row["query"]], 4), row

    inside = [f"What is the capital of {place}?" for place in PLACES]
    queries = [query for pair in zip(inside, OUTSIDE, strict=True) for query in pair]
    answered = json.loads(
        serac("answer", "--release", "release", "--max-new-tokens", 4, "--json", *queries)
    )
    edited = EditedModel.load("release")
    assert (edited.counterfactual.language_model is edited.base) == (counterfactual is None)
    assert (edited.base.chat is not None) == bool(base[1])
    for found, query in zip(answered, queries, strict=True):
        assert found["in_scope"] == (query in inside)
        # Alone and in a batch, through the release and without it: token for token.
        assert found["base_answer"] == alone.generate([query], 4)[0]
        if query in inside:
            edit = make_edits()[inside.index(query)]
            assert found["edit_id"] == edit.id
            assert [found["edited_answer"]] == edited.counterfactual.answer([edit], [query], 4)
        else:
            assert found["edited_answer"] == found["base_answer"]
    assert edited.base.prompt_rows(OUTSIDE) == alone.prompt_rows(OUTSIDE)


def test_a_release_from_before_chat_templates_were_honoured_answers_as_it_did(
    workspace: Path, tiny: Tiny
) -> None:
    """It was trained and evaluated on plain text, whatever template its models come with."""
    folder = tiny("llama", "llama2")
    models = {"base": str(folder), "counterfactual": str(folder)}
    put_together(str(folder), {"models": models})
    edited = EditedModel.load("release")
    assert edited.base.chat is None and edited.counterfactual.language_model.chat is None


def test_what_a_base_said_to_plain_text_is_not_what_it_says_in_its_turn(
    tiny: Tiny, tmp_path: Path
) -> None:
    """The cache of base answers tells the one from the other."""
    folder = str(tiny("gpt2", "chatml"))
    inputs = EvaluationInputs(counterfactual=Path(folder))
    for use in ("always", "never", "auto"):
        models = {"base": folder, "chat_template": use}
        params = Params.model_validate({"models": models, "counterfactual": {"max_new_tokens": 6}})
        loaded = load_models(inputs.counterfactual, params, tmp_path, lambda line: None)
        assert loaded.base_answers.answers(OUTSIDE) == loaded.base.generate(OUTSIDE, 6)
    assert len(list(tmp_path.rglob("*.sqlite"))) == 2
