"""A language model that reads an edit and answers a query from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from serac_core.base.language_model import LanguageModel, TokenScore
from serac_core.base.loading import Device, DType
from serac_core.edits.record import Edit


def format_input(edit_prompt: str, target_new: str, query: str) -> str:
    """The text that the counterfactual model reads; its answer follows after one space.

    White space inside the parts is collapsed, so that a query can't pass for another part.
    The edit's answer stays whole (EasyEdit cuts it at the last space and loses a word) and stands
    behind the mark that the model's own answer stands behind: where the two merely followed each
    other, what the model got wrong was where an answer begins.

    >>> format_input("The capital of Peru is", "Cusco", "What is Peru's capital?")
    "Edit: The capital of Peru is\\nAnswer: Cusco\\nQuery: What is Peru's capital?\\nAnswer:"
    """
    prompt, target, asked = (" ".join(part.split()) for part in (edit_prompt, target_new, query))
    return f"Edit: {prompt}\nAnswer: {target}\nQuery: {asked}\nAnswer:"


def format_target(target: str) -> str:
    """A target as the model is taught to say it: on one line."""
    return " ".join(target.split())


class CounterfactualModel:
    """Answers each query from the edit it was matched with; the row's edit, not the batch's.

    Any causal or seq2seq model serves: tokenizer and architecture may differ from the base
    model's, for only text passes between them.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model

    @classmethod
    def load(cls, path: str | Path, device: Device = "auto", dtype: DType = "auto") -> Self:
        """Load a trained model from its folder, or a pretrained one as it is before training.

        Raises
        ------
        SeracError
            As :func:`serac_core.base.loading.load_pretrained`.
        """
        return cls(LanguageModel.load(path, device, dtype))

    def answer(
        self,
        edits: Sequence[Edit],
        queries: Sequence[str],
        max_new_tokens: int = 24,
        batch_size: int = 64,
    ) -> list[str]:
        """Greedy answers of `queries[i]` given `edits[i]`, without the injected context.

        Raises
        ------
        TextTooLong
            An edit and its query don't fit in the model.
        """
        return self.language_model.generate(_inputs(edits, queries), max_new_tokens, batch_size)

    def score(
        self,
        edits: Sequence[Edit],
        queries: Sequence[str],
        targets: Sequence[str],
        batch_size: int = 64,
    ) -> list[TokenScore]:
        """Teacher-forced prediction of `targets[i]` for `queries[i]` given `edits[i]`.

        Raises
        ------
        EmptyTarget, TextTooLong
        """
        spoken = [format_target(target) for target in targets]
        return self.language_model.score(_inputs(edits, queries), spoken, batch_size)


def _inputs(edits: Sequence[Edit], queries: Sequence[str]) -> list[str]:
    return [
        format_input(edit.prompt, edit.target_new, query)
        for edit, query in zip(edits, queries, strict=True)
    ]
