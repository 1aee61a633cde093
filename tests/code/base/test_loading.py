"""Loading: any family, and an error of its own for each thing that goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, make_model, make_tokenizer
from transformers import LlamaModel

from serac_core.base import (
    LanguageModel,
    MissingPadToken,
    MissingTokenizer,
    ModelNotFound,
    UnreadableModel,
    VocabularyMismatch,
)
from serac_core.base.loading import UnknownDevice, check_pretrained

Tiny = Callable[[str], Path]


@pytest.fixture(params=[LanguageModel.load, check_pretrained], ids=["loaded", "checked"])
def look_at(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Loading a model, and looking at it without its weights, find the same faults."""
    found: Callable[[Path], object] = request.param
    return found


@pytest.fixture
def copied(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("llama"), tmp_path / "model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_by_its_configuration(tiny: Tiny, family: str) -> None:
    model = LanguageModel.load(tiny(family))
    assert model.is_encoder_decoder == (family in ("t5", "bart"))
    assert model.max_tokens == (None if family == "t5" else 128)


def test_a_folder_name_that_says_another_family_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """EasyEdit decides by substrings such as "gpt" or "bert" in the model's name."""
    folder = shutil.copytree(tiny("t5"), tmp_path / "gpt-bert-llama")
    prompts = ["The capital of Peru is", "Who"]
    renamed, usual = LanguageModel.load(folder), LanguageModel.load(tiny("t5"))
    assert renamed.is_encoder_decoder
    assert renamed.generate(prompts, 5) == usual.generate(prompts, 5)


def test_bfloat16_weights_are_computed_in_float32_on_a_cpu(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("lfm2")
    make_model("lfm2", tokenizer).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert LanguageModel.load(tmp_path, device="cpu").model.dtype == torch.float32
    assert LanguageModel.load(tmp_path, device="cpu", dtype="bfloat16").model.dtype == (
        torch.bfloat16
    )


@pytest.mark.parametrize("name", ["no/such/folder/here", "./missing", "/missing/model"])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(ModelNotFound, match=name):
        LanguageModel.load(name)


def test_a_relative_path_below_a_folder_here_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="no such folder"):
        LanguageModel.load("data/demo_model")


def test_no_tokenizer(copied: Path, look_at: Callable[[Path], object]) -> None:
    look_at(copied)
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(MissingTokenizer, match=str(copied)):
        look_at(copied)


def test_padding_falls_back_to_the_end_token_and_without_one_is_refused(
    copied: Path, look_at: Callable[[Path], object]
) -> None:
    assert LanguageModel.load(copied).tokenizer.pad_token == "</s>"
    file = copied / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for name in ("eos_token", "pad_token"):
        settings.pop(name, None)
    file.write_text(json.dumps(settings))
    with pytest.raises(MissingPadToken):
        look_at(copied)


def test_a_tokenizer_with_tokens_that_the_model_lacks(
    copied: Path, look_at: Callable[[Path], object]
) -> None:
    tokenizer = make_tokenizer("llama")
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(copied)
    with pytest.raises(VocabularyMismatch, match=f"{len(tokenizer)} tokens"):
        look_at(copied)


def test_weights_that_are_damaged_or_of_no_language_model(copied: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    tokenizer = make_tokenizer("llama")
    LlamaModel(make_model("llama", tokenizer).config).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    with pytest.raises(UnreadableModel, match="lm_head"):
        LanguageModel.load(bare)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UnreadableModel):
        LanguageModel.load(copied)
    (copied / "config.json").unlink()
    with pytest.raises(UnreadableModel, match=r"config\.json"):
        LanguageModel.load(copied)


def test_a_device_that_is_absent_is_refused(tiny: Tiny) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UnknownDevice):
        LanguageModel.load(tiny("gpt2"), device="cuda")


def test_a_device_that_is_none_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UnknownDevice, match="'quantum' is not known"):
        LanguageModel.load(tiny("gpt2"), device="quantum")
