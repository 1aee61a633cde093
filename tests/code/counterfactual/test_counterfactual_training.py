"""Training: what it writes, that it learns, and that a broken-off one ends as an unbroken one."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, make_model, make_tokenizer

from serac_core.base import EmptyTarget, LanguageModel, TextTooLong
from serac_core.config import CounterfactualConfig
from serac_core.counterfactual import (
    CounterfactualModel,
    EmptyTrainingSet,
    NonFiniteTraining,
    train,
)
from serac_core.edits import Edit, read_edits, write_edits

Tiny = Callable[[str], Path]


def settings(**changes: Any) -> CounterfactualConfig:
    usual = {"max_steps": 8, "batch_size": 4, "checkpoint_every": 4, "learning_rate": 1e-3}
    return CounterfactualConfig.model_validate({**usual, "patience": 9, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_trained_and_answers(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit], family: str
) -> None:
    out = tmp_path / "out"
    config = settings(max_steps=16, checkpoint_every=16, learning_rate=5e-3)
    train(training_set, str(tiny(family)), out, config, cache_dir=tmp_path / "cache")
    losses = [line["loss/train"] for line in log_of(out) if "loss/train" in line]
    assert losses and losses[-1] < losses[0]
    assert len(CounterfactualModel.load(out).answer(edits, [e.prompt for e in edits], 4)) == 3


def test_it_learns_and_logs_under_easyedits_names(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit]
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    config = settings(max_steps=80, checkpoint_every=40, learning_rate=1e-2, batch_size=16)
    figures = train(training_set, str(tiny("gpt2")), out, config, cache_dir=cache)
    log = log_of(out)
    first, last = log[0], log[-1]
    assert first["step"] == 0 and {
        "edit/exact_match_before",
        "acc/pre_train",
        "acc/post_train",
        "acc/pre_val",
        "acc/post_val",
    } <= set(first)
    assert first["acc/pre_train"] == first["acc/post_train"]
    assert last["final"] == 1 and last["step"] == 80
    assert {"edit/acc_train", "edit/acc_val", "generalization_val", "acc/post_val"} <= set(last)
    losses = [line["loss/train"] for line in log if "loss/train" in line]
    assert losses[-1] < losses[0] / 1.5
    assert figures["edit/acc_train"] > first["edit/acc_before"]
    # The figures are those of the weights as they are read back.
    scores = CounterfactualModel.load(out).score(
        edits, [e.prompt for e in edits], [e.target_new for e in edits]
    )
    accuracy = sum(score.accuracy for score in scores) / len(scores)
    assert accuracy == pytest.approx(last["edit/acc_train"])
    # Times are kept in the cache: a stage's output is a function of its inputs.
    assert not any(name.startswith("time/") for line in log for name in line)
    [cached] = cache.glob("counterfactual-*/log.jsonl")
    assert "time/examples_per_second" in cached.read_text()


def test_the_same_inputs_give_the_same_bytes(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        train(
            training_set,
            str(tiny("lfm2")),
            tmp_path / name,
            settings(),
            cache_dir=tmp_path / f"c{name}",
        )
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    train(
        training_set,
        str(tiny("lfm2")),
        tmp_path / "seed",
        settings(),
        seed=5,
        cache_dir=tmp_path / "c",
    )
    assert digests(tmp_path / "one") != digests(tmp_path / "seed")


def test_weights_are_stored_as_they_came(training_set: Path, tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    tokenizer = make_tokenizer("lfm2")
    make_model("lfm2", tokenizer).to(torch.bfloat16).save_pretrained(start)
    tokenizer.save_pretrained(start)
    train(training_set, str(start), out, settings(max_steps=4), cache_dir=tmp_path / "cache")
    kept = LanguageModel.load(out, dtype="bfloat16").model
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert (out / "model.safetensors").stat().st_size < 3 * kept.num_parameters()


_CHILD = """
import sys
from pathlib import Path
from serac_core.config import CounterfactualConfig
from serac_core.counterfactual import train
training_set, start, out, cache, config = sys.argv[1:]
train(training_set, start, out, CounterfactualConfig.model_validate_json(config), cache_dir=cache)
"""


@pytest.mark.parametrize(
    ("family", "kind"), [("lfm2", {}), ("t5", {"kind": "lora", "lora_dropout": 0.2})]
)
def test_killed_and_started_again_it_ends_as_the_unbroken_run(
    tiny: Tiny, training_set: Path, tmp_path: Path, family: str, kind: dict[str, Any]
) -> None:
    config = settings(max_steps=60, checkpoint_every=10, patience=99, **kind)
    start = str(tiny(family))
    train(training_set, start, tmp_path / "unbroken", config, cache_dir=tmp_path / "c1")
    out, cache = tmp_path / "broken", tmp_path / "c2"
    arguments = [str(training_set), start, str(out), str(cache), config.model_dump_json()]
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    deadline = time.monotonic() + 300
    while not list(cache.glob("counterfactual-*/checkpoint-20/complete")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    [folder] = cache.glob("counterfactual-*")
    torn = folder / "checkpoint-50"  # as if killed while this one was written
    torn.mkdir(exist_ok=True)
    (torn / "complete").unlink(missing_ok=True)
    (torn / "trainer_state.json").write_text("{")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 2')
    train(training_set, start, out, config, cache_dir=cache)
    assert digests(out) == digests(tmp_path / "unbroken")


def test_a_finished_training_is_not_trained_again(
    tiny: Tiny, training_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    train(training_set, str(tiny("gpt2")), out, settings(), cache_dir=cache)
    first = digests(out)
    capsys.readouterr()
    train(training_set, str(tiny("gpt2")), out, settings(), cache_dir=cache)
    assert digests(out) == first
    assert "resuming from" in capsys.readouterr().err


def test_the_best_weights_are_kept_and_training_stops_early(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In EasyEdit early stopping is never updated: its "best" weights are the last."""
    from serac_core.counterfactual import training

    accuracy = iter([0.2, 0.9, 0.5, 0.4, 0.3])
    real = training.edit_figures
    monkeypatch.setattr(
        training,
        "edit_figures",
        lambda model, edits, fold, **options: (
            {**real(model, edits, fold), "edit/acc_val": next(accuracy, 0.1)}
            if fold == "val"
            else real(model, edits, fold)
        ),
    )
    out, cache = tmp_path / "out", tmp_path / "cache"
    # The first accuracy is taken before training: those of the steps 2, 4, 6, ... follow.
    config = settings(max_steps=40, checkpoint_every=2, patience=2, learning_rate=1e-2)
    train(training_set, str(tiny("gpt2")), out, config, cache_dir=cache)
    last = log_of(out)[-1]
    assert (last["best_step"], last["step"]) == (2, 6)
    [best] = cache.glob("counterfactual-*/checkpoint-2")
    kept, saved = LanguageModel.load(out).model, LanguageModel.load(tiny("gpt2")).model
    from safetensors.torch import load_file

    saved.load_state_dict(load_file(best / "model.safetensors"), strict=False)
    for one, two in zip(kept.parameters(), saved.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_loss_that_is_not_finite_stops_training_and_names_the_batch(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit]
) -> None:
    config = settings(learning_rate=1e30, warmup_share=0.0)
    with pytest.raises(NonFiniteTraining, match="loss is not finite") as caught:
        train(training_set, str(tiny("gpt2")), tmp_path / "out", config, cache_dir=tmp_path / "c")
    assert any(edit.id in str(caught.value) for edit in edits)
    assert not (tmp_path / "out").exists()


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[LanguageModel] = []
    real = LanguageModel.load.__func__  # type: ignore[attr-defined]

    def load(cls: type[LanguageModel], *args: Any) -> LanguageModel:
        model: LanguageModel = real(cls, *args)
        next(model.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
        loaded.append(model)
        return model

    monkeypatch.setattr(LanguageModel, "load", classmethod(load))
    with pytest.raises(NonFiniteTraining, match="gradient is not finite"):
        train(training_set, str(tiny("gpt2")), tmp_path / "o", settings(), cache_dir=tmp_path / "c")
    assert all(bool(torch.isfinite(p).all()) for p in loaded[0].model.parameters())


def test_what_can_not_be_trained_is_refused_before_training(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    file = training_set / "train.jsonl"
    good = read_edits(file)

    def attempt() -> None:
        train(training_set, str(tiny("gpt2")), tmp_path / "o", settings(), cache_dir=tmp_path / "c")

    write_edits(file, [*good, Edit(prompt="The capital of Mali is", target_new=" ")])
    with pytest.raises(EmptyTarget):
        attempt()
    write_edits(file, [*good, Edit(prompt="The capital of Mali is", target_new="word " * 200)])
    with pytest.raises(TextTooLong):
        attempt()
    rephrased = Edit(prompt="Mali", target_new="a", rephrase_prompts=["b", "word " * 200])
    write_edits(file, [*good, rephrased])
    with pytest.raises(TextTooLong):
        attempt()
    write_edits(file, [])
    with pytest.raises(EmptyTrainingSet, match=r"train\.jsonl"):
        attempt()
    assert not (tmp_path / "c").exists() and not (tmp_path / "o").exists()


def test_yes_no_questions_are_trained_and_measured_where_asked_for(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    model = str(tiny("gpt2"))
    for share, out in ((0.0, "without"), (0.5, "with")):
        config = settings(yes_no_share=share)
        train(training_set, model, tmp_path / out, config, cache_dir=tmp_path / "c")
    without, asked = (
        {k for line in log_of(tmp_path / out) for k in line} for out in ("without", "with")
    )
    assert asked - without == {"edit/yes_no_train", "edit/yes_no_val"}
