"""Generation and scoring: alignment, batches, lengths, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import CAUSAL, FAMILIES

from serac_core.base import EmptyTarget, LanguageModel, TextTooLong, TokenScore
from serac_core.base.language_model import answer_logits

Tiny = Callable[[str], Path]

PROMPTS = [
    "Who",
    "The capital of Peru is",
    "What is the currency of Japan?",
    "Edit: The capital of Peru is Cusco\nQuery: What is the capital of Peru?\nAnswer:",
    "The official language of Chile is",
    "",
    "日本 and Zoë?",
]
TARGETS = ["Cusco", "the new silver crown", "Quechua", "Zoë 日本", "Peru", "not Spanish", "Chile"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny: Tiny) -> LanguageModel:
    return LanguageModel.load(tiny(request.param))


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest, tiny: Tiny) -> LanguageModel:
    return LanguageModel.load(tiny(request.param))


def test_an_answer_is_the_same_alone_and_in_any_batch(model: LanguageModel) -> None:
    """EasyEdit pads on the left without position ids: a row differs from itself alone."""
    alone = [model.generate([prompt], 8)[0] for prompt in PROMPTS]
    assert len(set(alone)) > 1
    assert model.generate(PROMPTS, 8) == alone
    assert model.generate(PROMPTS[::-1], 8, batch_size=3) == alone[::-1]


def test_padding_on_the_left_is_seen_to_be_exact(causal: LanguageModel) -> None:
    assert causal.pads_exactly


def test_a_model_that_sees_padding_is_batched_by_length(tiny: Tiny) -> None:
    """A short convolution with a bias leaks from masked positions; the probe must notice."""
    from transformers import Lfm2ForCausalLM

    plain = LanguageModel.load(tiny("lfm2"))
    config = plain.model.config
    config.conv_bias = True
    torch.manual_seed(1)
    biased = Lfm2ForCausalLM(config).eval()
    for name, parameter in biased.named_parameters():
        if "in_proj.bias" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    model = LanguageModel(biased, plain.tokenizer)
    assert not model.pads_exactly
    assert model.generate(PROMPTS, 8) == [model.generate([prompt], 8)[0] for prompt in PROMPTS]


def test_generation_is_the_argmax_of_the_forward_pass(causal: LanguageModel) -> None:
    """Nothing of the model makers' sampling settings is left, and no logit is off by one."""
    causal.model.generation_config.do_sample = True
    causal.model.generation_config.temperature = 5.0
    causal.model.generation_config.repetition_penalty = 3.0
    prompt = "The capital of Peru is"
    ids = causal.tokenizer(prompt)["input_ids"]
    made: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            logits_1TV = causal.model(torch.tensor([ids + made])).logits
            made.append(int(logits_1TV[0, -1].argmax()))
            if made[-1] in causal.end_ids:
                break
    stop = len(made) - (made[-1] in causal.end_ids)
    text = causal.tokenizer.decode(made[:stop], skip_special_tokens=True).strip()
    expected = text.splitlines()[0].strip() if text else ""
    assert causal.generate([prompt], 6) == [expected]


def test_scores_are_shifted(causal: LanguageModel) -> None:
    """A base that is right at every token scores 1.0; EasyEdit's unshifted logits say 0.64."""
    prompt, target = "What is the capital of Peru?", "Cusco"
    [pair] = causal.encode_pairs([prompt], [target])
    row = torch.tensor([pair.prompt + pair.answer])
    with torch.no_grad():
        predicted = causal.model(row).logits[0].argmax(-1).tolist()
    start = len(pair.prompt)
    [score] = causal.score([prompt], [target])
    expected = tuple(predicted[start - 1 : start - 1 + len(score.target_ids)])
    assert score.predicted_ids == expected
    unshifted = tuple(predicted[start : start + len(score.target_ids)])
    assert unshifted != expected  # so that the check above means something


def test_a_model_trained_to_be_right_scores_one(model: LanguageModel) -> None:
    pairs = model.encode_pairs(PROMPTS[:4], TARGETS[:4])
    optimizer = torch.optim.Adam(model.model.parameters(), lr=3e-3)
    for _ in range(400):
        inputs = model.collate(pairs)
        labels_BK = inputs.pop("labels")
        logits_BKV = answer_logits(model.model, inputs, labels_BK.shape[1])
        loss = torch.nn.functional.cross_entropy(logits_BKV.flatten(0, 1), labels_BK.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.02:
            break
    scores = model.score(PROMPTS[:4], TARGETS[:4])
    assert [score.accuracy for score in scores] == [1.0] * 4
    assert model.generate(PROMPTS[:4], 24) == TARGETS[:4]


def test_scores_do_not_depend_on_the_batch(model: LanguageModel) -> None:
    alone = [model.score([p], [t])[0] for p, t in zip(PROMPTS, TARGETS, strict=True)]
    assert model.score(PROMPTS, TARGETS) == alone
    assert model.score(PROMPTS, TARGETS, batch_size=2) == alone
    assert model.generate([]) == [] and model.score([], []) == []


def test_a_target_holds_its_own_tokens_and_no_special_one(model: LanguageModel) -> None:
    """Labels of Llama tokenizers include BOS in EasyEdit, which every model gets wrong."""
    special = set(model.tokenizer.all_special_ids)
    for score, target in zip(model.score(PROMPTS, TARGETS), TARGETS, strict=True):
        assert not special & set(score.target_ids)
        assert model.tokenizer.decode(list(score.target_ids)).strip() == target


def test_prompt_and_target_meet_as_in_the_whole_text(causal: LanguageModel) -> None:
    for prompt, target in zip(PROMPTS, TARGETS, strict=True):
        [pair] = causal.encode_pairs([prompt], [target])
        if prompt:
            whole = causal.tokenizer(f"{prompt} {target}")["input_ids"]
            assert pair.prompt + pair.answer == [*whole, causal.tokenizer.eos_token_id]


def test_nothing_is_cut_silently(tiny: Tiny) -> None:
    """EasyEdit can cut the answer from the input and keep it in the labels."""
    model = LanguageModel.load(tiny("gpt2"))
    long = "word " * 200
    with pytest.raises(TextTooLong, match="reads 128"):
        model.generate(["fine", long])
    with pytest.raises(TextTooLong):
        model.score(["fine"], [long])


@pytest.mark.parametrize("target", ["", "   "])
def test_an_empty_target_is_refused(model: LanguageModel, target: str) -> None:
    with pytest.raises(EmptyTarget):
        model.score(["The capital of Peru is"], [target])


def test_text_that_is_no_text_is_answered(model: LanguageModel) -> None:
    answers = model.generate(["a lone surrogate \ud800", "\x00", "\n\n", "  "], 4)
    assert all("\n" not in answer and answer == answer.strip() for answer in answers)


def test_an_answer_ends_at_the_line(tiny: Tiny) -> None:
    """Leading line ends are skipped; what follows the first line of the answer is not said."""
    model = LanguageModel.load(tiny("gpt2"))
    ids = model.tokenizer("\n\nCusco is\nQuery: What")["input_ids"]
    assert model._decode(ids) == "Cusco is"


def test_token_score() -> None:
    assert TokenScore((1, 2, 3, 4), (1, 9, 3, 4)).accuracy == 0.75
    assert TokenScore((1, 2), (1, 2)).exact and not TokenScore((1, 2), (2, 1)).exact
