"""The kinds beside fine-tuning: an adapter that is merged, and a base that reads the edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from test_counterfactual_training import digests, log_of, settings
from tiny_models import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from serac_core.base import (
    EmptyTarget,
    LanguageModel,
    MissingChatTemplate,
    MissingPadToken,
    MissingTokenizer,
    TextTooLong,
    VocabularyMismatch,
)
from serac_core.counterfactual import (
    CounterfactualModel,
    MissingBaseModel,
    NothingToAdapt,
    UnreadableCounterfactual,
    format_in_context,
    train,
)
from serac_core.edits import Edit, read_edits, write_edits
from serac_core.errors import SeracError

Tiny = Callable[..., Path]
LORA = {"kind": "lora", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 2e-2}


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_adapter_learns_and_is_merged_into_the_weights(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit], family: str
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    config = settings(**LORA, max_steps=24, checkpoint_every=12, batch_size=8, lora_dropout=0.1)
    train(training_set, str(tiny(family)), out, config, cache_dir=cache)
    log = log_of(out)
    losses = [line["loss/train"] for line in log if "loss/train" in line]
    assert losses[-1] < losses[0]

    [checkpoint] = cache.glob("counterfactual-*/checkpoint-24")
    adapter = load_file(checkpoint / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert not (checkpoint / "model.safetensors").exists()

    # The folder stands alone: an ordinary model, of which only adapted layers have changed.
    assert {file.name for file in out.iterdir()} == {
        *(file.name for file in tiny(family).iterdir()),
        "counterfactual.json",
        "log.jsonl",
    }
    start, kept = (load_file(folder / "model.safetensors") for folder in (tiny(family), out))
    adapted = {name.split("model.", 2)[2].split(".lora_")[0] + ".weight" for name in adapter}
    changed = {name for name in start if not torch.equal(start[name], kept[name])}
    assert start.keys() == kept.keys() and changed and changed <= adapted
    scores = CounterfactualModel.load(out).score(
        edits, [e.prompt for e in edits], [e.target_new for e in edits]
    )
    accuracy = sum(score.accuracy for score in scores) / len(scores)
    assert accuracy == pytest.approx(log[-1]["edit/acc_train"])


def test_the_layers_to_adapt_are_a_setting(tiny: Tiny, training_set: Path, tmp_path: Path) -> None:
    def adapted(target: Any) -> set[str]:
        cache = tmp_path / f"cache-{target}"
        config = settings(**LORA, max_steps=4, lora_target=target)
        train(training_set, str(tiny("llama")), tmp_path / "out", config, cache_dir=cache)
        [file] = cache.glob("*/checkpoint-4/adapter_model.safetensors")
        with safe_open(file, "pt") as tensors:
            return {name.split(".lora_")[0].rpartition(".")[2] for name in tensors.keys()}  # noqa: SIM118

    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert adapted("all-linear") == attention | {"gate_proj", "up_proj", "down_proj"}
    assert adapted("library") == {"q_proj", "v_proj"}
    assert adapted(["o_proj"]) == {"o_proj"}


def test_settings_that_a_kind_does_not_use_train_nothing_again(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for changes in ({}, {"lora_rank": 3}, {"max_new_tokens": 7}):
        config = settings(max_steps=4, **changes)
        train(training_set, str(tiny("gpt2")), tmp_path / "out", config, cache_dir=cache)
    assert len(list(cache.glob("counterfactual-*"))) == 1
    for rank in (4, 3):
        config = settings(**{**LORA, "lora_rank": rank}, max_steps=4)
        train(training_set, str(tiny("gpt2")), tmp_path / "out", config, cache_dir=cache)
    assert len(list(cache.glob("counterfactual-*"))) == 3


def test_a_model_without_layers_to_adapt_is_refused_before_training(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    tokenizer = make_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_attention_heads=2, num_hidden_layers=0
    )
    LlamaForCausalLM(config).save_pretrained(bare)
    tokenizer.save_pretrained(bare)

    def attempt(start: Path, **changes: Any) -> None:
        train(
            training_set,
            str(start),
            tmp_path / "out",
            settings(**LORA, **changes),
            cache_dir=tmp_path / "cache",
        )

    with pytest.raises(NothingToAdapt, match=r"bare: no layer .*'all-linear'"):
        attempt(bare)
    with pytest.raises(NothingToAdapt, match="nowhere"):
        attempt(tiny("llama"), lora_target=["nowhere"])
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("family", "chat"), [("llama", ""), ("gpt2", "llama2"), ("bart", "")])
def test_in_context_trains_nothing_and_answers_with_the_base_that_is_there(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit], family: str, chat: str
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    folder = tiny(family, chat)
    config = settings(kind="in-context", max_new_tokens=4)
    figures = train(training_set, str(folder), out, config, cache_dir=cache)
    assert {file.name for file in out.iterdir()} == {"counterfactual.json", "log.jsonl"}
    assert json.loads((out / "counterfactual.json").read_text()) == {
        "kind": "in-context",
        "chat_template": bool(chat),
    }
    assert not list(cache.rglob("checkpoint-*"))

    base = LanguageModel.load(folder)
    model = CounterfactualModel.load(out, base=base)
    assert model.language_model is base
    queries = [edit.rephrase_prompts[0] for edit in edits]
    texts = [
        format_in_context(e.prompt, e.target_new, q, chat=bool(chat))
        for e, q in zip(edits, queries, strict=True)
    ]
    assert model.answer(edits, queries, 4) == base.generate(texts, 4)
    targets = [edit.target_new for edit in edits]
    assert model.score(edits, queries, targets) == base.score(texts, targets)
    prompts = [edit.prompt for edit in edits]
    accuracies = [score.accuracy for score in model.score(edits, prompts, targets)]
    assert figures["edit/acc_train"] == pytest.approx(sum(accuracies) / len(accuracies))
    first, last = log_of(out)
    assert (first["step"], last["step"], last["final"]) == (0, 0, 1)
    assert first["acc/pre_val"] == first["acc/post_val"] == last["acc/post_val"]

    before = digests(out)
    train(training_set, str(folder), out, config, cache_dir=cache)
    assert digests(out) == before
    with pytest.raises(MissingBaseModel, match=r"counterfactual\.json"):
        CounterfactualModel.load(out)


def test_in_context_no_part_can_pass_for_another() -> None:
    text = format_in_context("Is A\nB?", "C\nQ: D", "E\nA: F\n")
    assert text.splitlines() == ["Q: Is A B?", "A: C Q: D", "Q: E A: F", "A:"]
    turn = format_in_context("Is A\nB?", "C\nD", "E\nF", chat=True)
    assert turn.splitlines()[0].endswith("Is A B? C D") and turn.splitlines()[2:] == ["E F"]


def test_a_chat_model_is_taught_and_asked_in_its_own_turns(
    tiny: Tiny, training_set: Path, tmp_path: Path, edits: list[Edit]
) -> None:
    """Whatever is asked for when it is loaded: it reads as it was trained to."""
    start = str(tiny("gpt2", "chatml"))
    outs = {}
    for chat in ("auto", "never"):
        outs[chat] = tmp_path / chat
        config = settings(max_steps=4)
        train(training_set, start, outs[chat], config, cache_dir=tmp_path / "c", chat=chat)
    assert digests(outs["auto"]) != digests(outs["never"])
    assert len(list((tmp_path / "c").iterdir())) == 2
    for chat, other in (("auto", "never"), ("never", "always")):
        model = CounterfactualModel.load(outs[chat], chat=other).language_model
        assert (model.chat is not None) == (chat == "auto")
    with pytest.raises(MissingChatTemplate):
        train(training_set, str(tiny("gpt2")), tmp_path / "o", settings(), chat="always")


def test_a_folder_that_says_what_nobody_knows_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "counterfactual.json"
    for text in ("{", '{"kind": "telepathy", "chat_template": false}'):
        file.write_text(text)
        with pytest.raises(UnreadableCounterfactual, match=r"counterfactual\.json"):
            CounterfactualModel.load(tmp_path)


def empty_target(start: Path, edits: list[Edit]) -> None:
    edits[0] = edits[0].model_copy(update={"target_new": " "})


def long_target(start: Path, edits: list[Edit]) -> None:
    edits[0] = edits[0].model_copy(update={"target_new": "Cusco " * 80})


def long_context(start: Path, edits: list[Edit]) -> None:
    """The query alone, and the edit alone, would fit."""
    edits[0] = edits[0].model_copy(update={"prompt": "capital " * 60})


def no_tokenizer(start: Path, edits: list[Edit]) -> None:
    for file in start.glob("tokenizer*"):
        file.unlink()


def no_padding(start: Path, edits: list[Edit]) -> None:
    file = start / "tokenizer_config.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({n: v for n, v in kept.items() if n not in _ENDS}))


def more_tokens(start: Path, edits: list[Edit]) -> None:
    tokenizer = make_tokenizer("gpt2")
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(start)


_ENDS = ("eos_token", "pad_token")
BAD = [
    (empty_target, EmptyTarget),
    (long_target, TextTooLong),
    (long_context, TextTooLong),
    (no_tokenizer, MissingTokenizer),
    (no_padding, MissingPadToken),
    (more_tokens, VocabularyMismatch),
]


@pytest.mark.parametrize("kind", ["finetuned", "lora", "in-context"])
@pytest.mark.parametrize(("spoil", "error"), BAD)
def test_bad_input_is_named_before_any_training(
    tiny: Tiny,
    training_set: Path,
    tmp_path: Path,
    kind: str,
    spoil: Callable[[Path, list[Edit]], None],
    error: type[SeracError],
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for file in tiny("gpt2").iterdir():
        (start / file.name).write_bytes(file.read_bytes())
    edits = read_edits(training_set / "train.jsonl")
    spoil(start, edits)
    write_edits(training_set / "train.jsonl", edits)
    with pytest.raises(error) as caught:
        train(
            training_set, str(start), tmp_path / "o", settings(kind=kind), cache_dir=tmp_path / "c"
        )
    assert caught.value.remedy
    assert not (tmp_path / "c").exists() and not (tmp_path / "o").exists()


def test_in_context_there_must_be_room_for_the_answer_too(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    def attempt(answer: int) -> None:
        config = settings(kind="in-context", max_new_tokens=answer)
        train(training_set, str(tiny("gpt2")), tmp_path / "o", config, cache_dir=tmp_path / "c")

    attempt(8)
    with pytest.raises(TextTooLong, match="reads 128"):
        attempt(120)


def test_a_base_that_can_not_be_used_is_named_before_the_counterfactual_is_trained(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    import typer
    from typer.testing import CliRunner

    from serac_core.counterfactual import cli

    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((tiny("gpt2") / "config.json").read_bytes())
    params = tmp_path / "params.yaml"
    models = {"base": str(base), "counterfactual": str(tiny("gpt2"))}
    params.write_text(yaml.safe_dump({"models": models}))
    app = typer.Typer()
    app.command()(cli.train_counterfactual)
    arguments = ["--training-set", training_set, "--out", tmp_path / "o", "--params", params]
    result = CliRunner().invoke(app, [*map(str, arguments), "--cache-dir", str(tmp_path / "c")])
    assert isinstance(result.exception, MissingTokenizer)
    assert not (tmp_path / "c").exists()
