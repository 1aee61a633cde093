"""The training benchmark: that its reference is the loop it says it is, and that both sides run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent / "base"))
sys.path.append(str(Path(__file__).parent / "scope"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import train_speed
from reference_loop import BATCH, ReferenceLoop
from tiny_models import make_model, make_tokenizer, save_tiny
from tiny_training import CONFIG, PLACES, edits, save_encoder, save_training_set

from serac_core.base.language_model import LanguageModel
from serac_core.config import CounterfactualConfig, ExportConfig, ModelsConfig, Params
from serac_core.scope.loading import load_encoder

STORED = edits(PLACES)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def loop(encoder: Path) -> ReferenceLoop:
    tokenizer = make_tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    base, trained = (LanguageModel(make_model("gpt2", tokenizer), tokenizer) for _ in range(2))
    return ReferenceLoop(base, trained, load_encoder(str(encoder)), STORED, learning_rate=1e-2)


def inputs_of(network: torch.nn.Module, calls: list[Any]) -> None:
    """Keep the token ids of every forward pass."""

    def keep(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        calls.append(given["input_ids"].tolist())

    network.register_forward_pre_hook(keep, with_kwargs=True)


def test_the_reference_learns_and_leaves_the_base_alone(loop: ReferenceLoop) -> None:
    untouched = {name: value.clone() for name, value in loop.base.model.state_dict().items()}
    before = loop.accuracy(STORED, STORED)
    losses = [loop.step() for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert loop.accuracy(STORED, STORED) > before
    assert all(torch.equal(untouched[n], v) for n, v in loop.base.model.state_dict().items())


def test_each_step_computes_base_logits_and_encodes_its_memory_again(loop: ReferenceLoop) -> None:
    base: list[list[list[int]]] = []
    encoded: list[list[list[int]]] = []
    inputs_of(loop.base.model, base)
    inputs_of(loop.network, encoded)
    tokenizer: Any = loop._tokenizer
    prompts = {edit.prompt for edit in STORED}
    for step in (1, 2):
        loop.step()
        # Of the probes without the memory and with it, and of the edits.
        before, of_edits, after = base[3 * (step - 1) :]
        assert before == after != of_edits and len(of_edits) == len(before)
        keys_then, queries, keys_now, probes = encoded[4 * (step - 1) :]
        assert keys_then == keys_now and len(keys_then) == len(queries) == len(probes)
        assert set(tokenizer.batch_decode(keys_then, skip_special_tokens=True)) <= prompts
    assert len(encoded[0]) == BATCH and encoded[0] != encoded[4]


def test_it_steps_once_in_so_many_batches(loop: ReferenceLoop) -> None:
    loop._accumulate = 2
    weights = loop.counterfactual.model.transformer.h[0].attn.c_attn.weight
    start = weights.clone()
    loop.step()
    assert torch.equal(weights, start)
    loop.step()
    assert not torch.equal(weights, start)


@pytest.mark.parametrize("steps", [None, 2])
def test_both_sides_run_and_are_compared(encoder: Path, tmp_path: Path, steps: int | None) -> None:
    model = save_tiny("lfm2", tmp_path / "model")
    (tmp_path / "training").mkdir()
    save_training_set(tmp_path / "training")
    params = Params(
        models=ModelsConfig(
            base=str(model), counterfactual=str(model), encoder=str(encoder), scope_start=""
        ),
        scope=CONFIG.model_copy(update={"max_steps": steps or 4}),
        counterfactual=CounterfactualConfig(max_steps=steps or 4, batch_size=4, checkpoint_every=2),
        export=ExportConfig(variants=("fp32",)),
    )
    asked = argparse.Namespace(
        edits=None,
        number=6,
        world=None,
        reference=["1e-3,1"],
        goal=0.0,
        cap=600.0,
        turn=0.0,
        measure_every=2,
        steps=steps,
    )
    found = train_speed.compare(params, asked, tmp_path)
    ours, reference = found["ours"], found["references"]["reference 1e-3,1"]
    assert found["edits"] == 6 and reference["steps"] == 2
    names = ("data, scope", "data, counterfactual", "scope", "export", "memory", "counterfactual")
    assert all(found["phases"][name]["edits_per_second"] > 0 for name in names)
    assert found["phases"]["scope"]["steps"] == (steps or 4)
    if steps is None:
        assert ours["reached"]["step"] == 1 and reference["reached"]["step"] == 2
        assert ours["reached"]["seconds"] > ours["reached_by_counterfactual_alone"]["seconds"]
    else:
        assert ours["reached"] is reference["reached"] is None
    text = "\n".join(train_speed.table(found))
    assert "times as many edits a second" in text and ("sooner" in text) is (steps is None)
