"""Training in less memory: the same steps in smaller parts, or in another numeric type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_counterfactual_training import digests, log_of
from test_counterfactual_training import settings as usual_settings

from serac_core.base import LanguageModel
from serac_core.base.language_model import answer_logits
from serac_core.config import CounterfactualConfig
from serac_core.counterfactual import NonFiniteTraining, train
from serac_core.counterfactual.examples import TrainingExamples
from serac_core.counterfactual.trainer import (
    NoGradientCheckpointing,
    OutOfMemory,
    PrecisionUnavailable,
)
from serac_core.edits import Edit, read_edits

Tiny = Callable[[str], Path]
Disturb = Callable[[Any, torch.Tensor], None]


def settings(**changes: Any) -> CounterfactualConfig:
    """float32, whatever the processor has: what is compared differs in the order of sums only."""
    return usual_settings(**{"precision": "float32", **changes})


def allocate_too_much() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)  # the allocator's own error, of any machine


def raise_as_cuda_does() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def disturb_training(monkeypatch: pytest.MonkeyPatch, disturb: Disturb) -> None:
    """Call `disturb` with the model and the input ids before each forward pass of training."""
    real = LanguageModel.load.__func__  # type: ignore[attr-defined]

    def load(cls: type[LanguageModel], *args: Any) -> LanguageModel:
        model: LanguageModel = real(cls, *args)
        forward = model.model.forward

        def disturbed(*given: Any, **named: Any) -> Any:
            if model.model.training:
                disturb(model, named["input_ids"])
            return forward(*given, **named)

        disturbed.__wrapped__ = forward  # type: ignore[attr-defined]  # its signature is asked for
        model.model.forward = disturbed
        return model

    monkeypatch.setattr(LanguageModel, "load", classmethod(load))


def losses(folder: Path) -> list[float]:
    return [line["loss/train"] for line in log_of(folder) if "loss/train" in line]


def assert_trained_alike(one: Path, two: Path) -> None:
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=1e-4)


@pytest.fixture
def plain(tiny: Tiny, training_set: Path, tmp_path: Path) -> Path:
    """An undisturbed training."""
    out = tmp_path / "plain"
    train(training_set, str(tiny("lfm2")), out, settings(), cache_dir=tmp_path / "c-plain")
    return out


@pytest.mark.parametrize("family", ["lfm2", "t5"])
def test_the_loss_is_the_mean_over_every_answer_token_of_the_step(
    tiny: Tiny, training_set: Path, tmp_path: Path, family: str
) -> None:
    """The Trainer's own count leaves out the first column of a causal model's labels."""
    config = settings(max_steps=1, checkpoint_every=1)
    train(training_set, str(tiny(family)), tmp_path / "out", config, cache_dir=tmp_path / "c")
    model = LanguageModel.load(tiny(family), "cpu")
    edits = read_edits(training_set / "train.jsonl")
    examples = TrainingExamples(edits, model, steps=1, batch_size=4, seed=17)
    inputs = model.collate([examples[i].pair for i in range(4)])
    labels_BK = inputs.pop("labels")
    with torch.no_grad():
        logits_BKV = answer_logits(model.model, inputs, labels_BK.shape[1])
    mean = torch.nn.functional.cross_entropy(logits_BKV.flatten(0, 1), labels_BK.flatten())
    assert losses(tmp_path / "out") == pytest.approx([float(mean)], rel=1e-5)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_step_in_parts_is_the_same_step(
    tiny: Tiny, training_set: Path, tmp_path: Path, plain: Path, parts: int
) -> None:
    config = settings(gradient_accumulation=parts)  # of 4 examples: 2 and 2, 2 and 2, 4 times 1
    out = tmp_path / "parts"
    train(training_set, str(tiny("lfm2")), out, config, cache_dir=tmp_path / "c")
    assert_trained_alike(out, plain)


@pytest.mark.parametrize("run_out", [allocate_too_much, raise_as_cuda_does])
def test_out_of_memory_is_answered_by_smaller_parts_of_the_same_step(
    tiny: Tiny,
    training_set: Path,
    tmp_path: Path,
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_out: Callable[[], None],
) -> None:
    rows_seen: list[int] = []

    def at_the_third_step(_: object, ids_BT: torch.Tensor) -> None:
        rows_seen.append(len(ids_BT))
        if len(rows_seen) > 2 and len(ids_BT) > 1:
            run_out()

    disturb_training(monkeypatch, at_the_third_step)
    out = tmp_path / "out"
    train(training_set, str(tiny("lfm2")), out, settings(), cache_dir=tmp_path / "c")
    assert rows_seen == [4, 4, 4, 2] + 6 * [1, 1, 1, 1]
    said = capsys.readouterr().err
    assert "step 3: out of memory with 4 examples at a time" in said
    assert "the step is computed again with 1" in said
    assert_trained_alike(out, plain)


def test_a_part_that_failed_leaves_nothing_behind(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in the second part of a step, the gradients of the first are dropped."""
    config = settings(gradient_accumulation=2)
    start = str(tiny("lfm2"))
    ones = settings(gradient_accumulation=4)
    train(training_set, start, tmp_path / "ones", ones, cache_dir=tmp_path / "c1")
    seen: list[int] = []

    def in_the_second_part(_: object, ids_BT: torch.Tensor) -> None:
        seen.append(len(ids_BT))
        if len(seen) == 2:
            raise_as_cuda_does()

    disturb_training(monkeypatch, in_the_second_part)
    train(training_set, start, tmp_path / "out", config, cache_dir=tmp_path / "c2")
    assert seen[:6] == [2, 2, 1, 1, 1, 1]
    assert digests(tmp_path / "out") == digests(tmp_path / "ones")


def test_without_memory_for_one_example_training_ends_and_can_go_on_elsewhere(
    tiny: Tiny,
    training_set: Path,
    tmp_path: Path,
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = iter(range(100))
    out, cache = tmp_path / "out", tmp_path / "c"
    with monkeypatch.context() as patch:
        disturb_training(patch, lambda *_: next(calls) >= 5 and allocate_too_much())  # type: ignore[func-returns-value]
        with pytest.raises(OutOfMemory, match=r"step 6: .* one example at a time") as caught:
            train(training_set, str(tiny("lfm2")), out, settings(), cache_dir=cache)
    assert "gradient_checkpointing" in str(caught.value) and not out.exists()
    capsys.readouterr()
    smaller = settings(gradient_accumulation=4, gradient_checkpointing=True)
    train(training_set, str(tiny("lfm2")), out, smaller, cache_dir=cache)
    assert "checkpoint-4" in capsys.readouterr().err
    assert_trained_alike(out, plain)


def test_another_error_is_not_taken_for_a_lack_of_memory(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    disturb_training(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(training_set, str(tiny("lfm2")), tmp_path / "o", settings(), cache_dir=tmp_path / "c")


def test_the_part_whose_loss_is_not_finite_is_the_one_named(
    tiny: Tiny,
    training_set: Path,
    tmp_path: Path,
    edits: list[Edit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    japan = next(edit for edit in edits if edit.subject == "Japan")
    loaded: list[LanguageModel] = []

    def spoil_japan(model: LanguageModel, ids_BT: torch.Tensor) -> None:
        loaded.append(model)
        if any("capital of Japan" in text for text in model.tokenizer.batch_decode(ids_BT)):
            with torch.no_grad():
                next(model.model.parameters()).fill_(float("nan"))

    disturb_training(monkeypatch, spoil_japan)
    config = settings(gradient_accumulation=4)
    with pytest.raises(NonFiniteTraining) as caught:
        train(training_set, str(tiny("lfm2")), tmp_path / "o", config, cache_dir=tmp_path / "c")
    assert f"in the batch of the edits {japan.id}\n" in str(caught.value)


@pytest.fixture
def layer_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Passes through the first layer's attention while training."""
    passes: list[int] = []
    real = LanguageModel.load.__func__  # type: ignore[attr-defined]

    def load(cls: type[LanguageModel], *args: Any) -> LanguageModel:
        model: LanguageModel = real(cls, *args)
        attention = model.model.get_decoder().layers[0].self_attn  # inside what is computed again
        attention.register_forward_pre_hook(
            lambda *_: passes.append(1) if model.model.training else None
        )
        return model

    monkeypatch.setattr(LanguageModel, "load", classmethod(load))
    return passes


def test_gradient_checkpointing_computes_twice_and_changes_nothing(
    tiny: Tiny, training_set: Path, tmp_path: Path, layer_passes: list[int]
) -> None:
    start = str(tiny("llama"))
    train(training_set, start, tmp_path / "kept", settings(), cache_dir=tmp_path / "c1")
    kept = len(layer_passes)
    layer_passes.clear()
    config = settings(gradient_checkpointing=True)
    train(training_set, start, tmp_path / "again", config, cache_dir=tmp_path / "c2")
    assert (kept, len(layer_passes)) == (8, 16)
    assert digests(tmp_path / "kept") == digests(tmp_path / "again")


def test_a_model_without_gradient_checkpointing_is_refused(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    config = settings(gradient_checkpointing=True)
    with pytest.raises(NoGradientCheckpointing, match="LlamaForCausalLM"):
        train(training_set, str(tiny("llama")), tmp_path / "o", config, cache_dir=tmp_path / "c")


def test_bfloat16_is_close_to_float32_and_weights_stay_float32(
    tiny: Tiny, training_set: Path, tmp_path: Path
) -> None:
    for precision in ("float32", "bfloat16"):
        train(
            training_set,
            str(tiny("lfm2")),
            tmp_path / precision,
            settings(precision=precision),
            cache_dir=tmp_path / "c",
        )
    exact, rounded = losses(tmp_path / "float32"), losses(tmp_path / "bfloat16")
    assert rounded == pytest.approx(exact, rel=0.05) and rounded != exact
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "float32"


def test_float16_needs_cuda(tiny: Tiny, training_set: Path, tmp_path: Path) -> None:
    config = settings(precision="float16")
    with pytest.raises(PrecisionUnavailable, match="float16 needs CUDA"):
        train(
            training_set,
            str(tiny("lfm2")),
            tmp_path / "o",
            config,
            cache_dir=tmp_path / "c",
            device="cpu",
        )
    assert not (tmp_path / "o").exists()


def test_batches_made_ahead_by_another_process_are_the_same(
    tiny: Tiny, training_set: Path, tmp_path: Path, plain: Path
) -> None:
    out = tmp_path / "out"
    config = settings(loader_workers=1)
    train(training_set, str(tiny("lfm2")), out, config, cache_dir=tmp_path / "c")
    assert digests(out) == digests(plain)


def test_the_readmes_lines_for_a_notebook_train_and_answer(
    tiny: Tiny,
    training_set: Path,
    tmp_path: Path,
    edits: list[Edit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    [lines] = [
        block.split("```")[0]
        for block in readme.split("```python\n")[1:]
        if "counterfactual import" in block
    ]
    assert len([line for line in lines.splitlines() if line]) == 5
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "training").symlink_to(training_set)
    (tmp_path / "data" / "demo_model").symlink_to(tiny("lfm2"))
    (tmp_path / "params.yaml").write_text(
        "counterfactual: {max_steps: 4, batch_size: 4, checkpoint_every: 4}\n"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(lines, names)
    assert log_of(tmp_path / "build" / "mine")[-1]["step"] == 4
    [answer] = names["model"].answer(edits[:1], ["What is Peru's capital?"])
    assert isinstance(answer, str)
