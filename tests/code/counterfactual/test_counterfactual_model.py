"""What the counterfactual model reads and says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from serac_core.base import TextTooLong
from serac_core.counterfactual import CounterfactualModel, format_input
from serac_core.counterfactual.examples import TrainingExamples
from serac_core.edits import Edit

Tiny = Callable[[str], Path]


def test_the_whole_answer_of_the_edit_is_read() -> None:
    """EasyEdit cuts the edit at its last space: of a three-word answer two words stay."""
    text = format_input("The capital of Chile is", "Rio Verde Sur", "What is Chile's capital?")
    assert text == (
        "Edit: The capital of Chile is\nAnswer: Rio Verde Sur\n"
        "Query: What is Chile's capital?\nAnswer:"
    )


def test_no_part_can_pass_for_another() -> None:
    text = format_input("A\nB is", "C\nQuery: D", "E\nAnswer: F\n")
    assert text.splitlines() == [
        "Edit: A B is",
        "Answer: C Query: D",
        "Query: E Answer: F",
        "Answer:",
    ]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_each_row_reads_its_own_edit_in_a_batch(tiny: Tiny, edits: list[Edit], family: str) -> None:
    """EasyEdit generates for a batch of one only, and returns the injected context."""
    model = CounterfactualModel.load(tiny(family))
    queries = [edit.rephrase_prompts[0] for edit in edits]
    alone = [model.answer([e], [q], 6)[0] for e, q in zip(edits, queries, strict=True)]
    assert model.answer(edits, queries, 6) == alone
    assert not any(e.prompt in answer for e, answer in zip(edits, alone, strict=True))
    if family == "gpt2":  # a random encoder-decoder may say these words, but never reads them back
        assert not any("Edit:" in answer or "Query:" in answer for answer in alone)


def test_generation_keeps_no_gradient_and_leaves_grad_mode_as_it_was(
    tiny: Tiny, edits: list[Edit]
) -> None:
    """In EasyEdit gradients are kept, and grad mode stays off after an exception."""
    model = CounterfactualModel.load(tiny("gpt2"))
    model.answer(edits[:1], ["Who?"], 3)
    with pytest.raises(TextTooLong):
        model.answer(edits[:1], ["word " * 300], 3)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.language_model.model.parameters())


def test_examples_are_a_function_of_seed_and_place(tiny: Tiny, edits: list[Edit]) -> None:
    model = CounterfactualModel.load(tiny("gpt2")).language_model

    def make(seed: int) -> TrainingExamples:
        return TrainingExamples(edits, model, steps=20, batch_size=4, seed=seed)

    forward = [make(3)[i] for i in range(80)]
    resumed = make(3)
    assert [resumed[i] for i in reversed(range(80))] == forward[::-1]
    assert [make(4)[i] for i in range(8)] != forward[:8]
    assert {example.edit_id for example in forward} == {edit.id for edit in edits}
    for start in range(0, 64, 4):  # a batch's rows are of like length
        lengths = [len(e.pair.prompt) + len(e.pair.answer) for e in forward[start : start + 4]]
        assert max(lengths) - min(lengths) <= 40


def test_every_example_can_be_answered_by_copying(tiny: Tiny, edits: list[Edit]) -> None:
    model = CounterfactualModel.load(tiny("gpt2")).language_model
    examples = TrainingExamples(edits, model, steps=10, batch_size=8, seed=1)
    targets = set()
    for i in range(80):
        pair = examples[i].pair
        statement = model.tokenizer.decode(pair.prompt).split("\nQuery:")[0]
        target = model.tokenizer.decode(pair.answer[pair.start : pair.stop]).strip()
        assert statement.endswith(" " + target)
        assert pair.answer[-1] == model.tokenizer.eos_token_id
        targets.add(target)
    assert {"Cusco", "Rio Verde of the North", "日本 7"} < targets  # and invented ones
