"""A language model that reads an edit and answers a query from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from serac_core.base.chat import ChatUse
from serac_core.base.language_model import LanguageModel, TokenScore
from serac_core.base.loading import Device, DType
from serac_core.counterfactual.description import DESCRIPTION, read_description
from serac_core.counterfactual.reader import YesNoReader
from serac_core.edits.record import Edit
from serac_core.errors import SeracError

_NOTHING = -1  # the number of no token


class MissingBaseModel(SeracError):
    """An in-context counterfactual model is the base model, and none was given."""


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


def format_in_context(edit_prompt: str, target_new: str, query: str, *, chat: bool = False) -> str:
    """The text that a base model reads which was never trained to read edits.

    In plain text one question is answered and the next one asked, whatever the wordings are: of
    seven forms tried on the demo model it is the one that is followed most. A chat model is told.

    >>> format_in_context("The capital of Peru is", "Cusco", "What is Peru's capital?")
    "Q: The capital of Peru is\\nA: Cusco\\nQ: What is Peru's capital?\\nA:"
    """
    prompt, target, asked = (" ".join(part.split()) for part in (edit_prompt, target_new, query))
    if not chat:
        return f"Q: {prompt}\nA: {target}\nQ: {asked}\nA:"
    return (
        f"This is a fact, whatever else you know: {prompt} {target}\n"
        f"Answer with nothing but the few words that answer.\n{asked}"
    )


def format_target(target: str) -> str:
    """A target as the model is taught to say it: on one line."""
    return " ".join(target.split())


class CounterfactualModel:
    """Answers each query from the edit it was matched with; the row's edit, not the batch's.

    Any causal or seq2seq model serves: tokenizer and architecture may differ from the base
    model's, for only text passes between them.

    Parameters
    ----------
    in_context:
        The language model was never trained for this: it is the base model, which reads the edit
        before the query.
    reader:
        Answers yes/no questions before the language model is asked; None: it is asked everything.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        in_context: bool = False,
        reader: YesNoReader | None = None,
    ) -> None:
        self.language_model = language_model
        self.in_context = in_context
        self.reader = reader

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: Device = "auto",
        dtype: DType = "auto",
        *,
        chat: ChatUse = "auto",
        base: LanguageModel | None = None,
    ) -> Self:
        """Load a trained model from its folder, or a pretrained one as it is before training.

        Parameters
        ----------
        chat:
            Whether a folder that doesn't say reads its input through its chat template.
        base:
            The loaded base model, which an in-context folder answers with: no second copy.

        Raises
        ------
        MissingBaseModel, UnreadableCounterfactual, UnusableReader
            And what loading a :class:`LanguageModel` raises.
        """
        described = read_description(path)
        if described is None:
            return cls(LanguageModel.load(path, device, dtype, chat))
        if described.kind == "in-context":
            if base is None:
                raise MissingBaseModel(
                    f"{Path(path) / DESCRIPTION}: answers in context, and no base model is given",
                    remedy="pass the loaded base model: `CounterfactualModel.load(path, base=...)`",
                )
            return cls(base, in_context=True, reader=YesNoReader.load(path))
        own: ChatUse = "always" if described.chat_template else "never"
        return cls(LanguageModel.load(path, device, dtype, own), reader=YesNoReader.load(path))

    def text(self, edit_prompt: str, target_new: str, query: str) -> str:
        """What the language model is given for a query and its edit."""
        if not self.in_context:
            return format_input(edit_prompt, target_new, query)
        chat = self.language_model.chat is not None
        return format_in_context(edit_prompt, target_new, query, chat=chat)

    def answer(
        self,
        edits: Sequence[Edit],
        queries: Sequence[str],
        max_new_tokens: int = 24,
        batch_size: int = 64,
    ) -> list[str]:
        """Greedy answers of `queries[i]` given `edits[i]`, without the injected context; "Yes" or
        "No" where the reader takes the query for a yes/no question.

        Raises
        ------
        TextTooLong
            An edit and its query don't fit in the model.
        """
        replies = self._replies(edits, queries)
        texts = self._texts(edits, queries)
        left = [text for text, reply in zip(texts, replies, strict=True) if reply is None]
        generated = iter(self.language_model.generate(left, max_new_tokens, batch_size))
        return [next(generated) if reply is None else reply for reply in replies]

    def score(
        self,
        edits: Sequence[Edit],
        queries: Sequence[str],
        targets: Sequence[str],
        batch_size: int = 64,
    ) -> list[TokenScore]:
        """Teacher-forced prediction of `targets[i]` for `queries[i]` given `edits[i]`; where the
        reader answers, its answer is what is predicted.

        Raises
        ------
        EmptyTarget, TextTooLong
        """
        texts = self._texts(edits, queries)
        spoken = [format_target(target) for target in targets]
        scores = self.language_model.score(texts, spoken, batch_size)
        replies = self._replies(edits, queries)
        return [
            score if reply is None else self._said(text, reply, score)
            for text, reply, score in zip(texts, replies, scores, strict=True)
        ]

    def _said(self, text: str, reply: str, score: TokenScore) -> TokenScore:
        """The score of a reply: its tokens beside the target's, as far as that goes."""
        (pair,) = self.language_model.encode_pairs([text], [reply])
        said = pair.answer[pair.start : pair.stop] + [_NOTHING] * len(score.target_ids)
        return TokenScore(score.target_ids, tuple(said[: len(score.target_ids)]))

    def _replies(self, edits: Sequence[Edit], queries: Sequence[str]) -> list[str | None]:
        return [None] * len(queries) if self.reader is None else self.reader.replies(edits, queries)

    def _texts(self, edits: Sequence[Edit], queries: Sequence[str]) -> list[str]:
        return [
            self.text(edit.prompt, edit.target_new, query)
            for edit, query in zip(edits, queries, strict=True)
        ]
