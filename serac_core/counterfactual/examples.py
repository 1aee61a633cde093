"""What the counterfactual model is trained on: examples drawn without end, reproducibly.

An example is (edit, query, answer). The model must learn to *read* the edit, not to know it, so
an edit is drawn with its own target a third of the time and else with another edit's, a name, an
invented one, or any tokens of the vocabulary in a row: a token that no target holds would not be
copied. Its statement is any of its wordings, and some queries come with text around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from serac_core.base.language_model import EncodedPair, LanguageModel, printable_pieces
from serac_core.counterfactual.model import format_input, format_target
from serac_core.edits.invented import (
    foreign_name,
    invented_name,
    invented_number,
    joined_pieces,
)
from serac_core.edits.record import Edit

_BUCKET_BATCHES = 8  # drawn together and cut by length: rows of a batch are of like length
_LEAD_INS = (
    "Thanks for your help. ",
    "My colleague asked me this: ",
    "Okay, here is what I need to know. ",
    "Good morning! ",
    "Short answer please: ",
    "Complete the sentence: ",
    "Sorry to bother you again. ",
    "I have an exam tomorrow and I am not sure about one thing: ",
    "Answer in a few words. ",
    "Q: ",
)


@dataclass(frozen=True)
class TrainingExample:
    """What is read, what is to be said, and the id of the edit it was drawn from."""

    text: str
    answer: str
    edit_id: str


@dataclass(frozen=True)
class EncodedExample:
    """A training example in tokens."""

    pair: EncodedPair
    edit_id: str


class TrainingExamples:
    """A dataset of `steps * batch_size` examples in the order in which they are trained on.

    Item `i` is a function of the seed and `i` alone: a resumed training sees what the unbroken
    one would have seen, however the loader gets there.

    Parameters
    ----------
    edits:
        Training edits; each is asked by its prompt and its rephrasings.
    language_model:
        Whose tokens the examples are made of.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        language_model: LanguageModel,
        *,
        steps: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self._edits = edits
        self._language_model = language_model
        self._pieces = printable_pieces(language_model.tokenizer)
        self._length = steps * batch_size
        self._batch_size = batch_size
        self._seed = seed
        self._bucket_index = -1
        self._bucket: list[EncodedExample] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EncodedExample:
        bucket_index, position = divmod(index, _BUCKET_BATCHES * self._batch_size)
        if bucket_index != self._bucket_index:
            self._bucket = self._draw_bucket(bucket_index)
            self._bucket_index = bucket_index
        return self._bucket[position]

    def _draw_bucket(self, bucket_index: int) -> list[EncodedExample]:
        rng = Random(f"{self._seed}:{bucket_index}")
        size = self._batch_size
        drawn = [
            draw_example(self._edits, self._pieces, rng) for _ in range(_BUCKET_BATCHES * size)
        ]
        pairs = self._language_model.encode_pairs(
            [example.text for example in drawn], [example.answer for example in drawn]
        )
        encoded = [EncodedExample(p, e.edit_id) for p, e in zip(pairs, drawn, strict=True)]
        encoded.sort(key=lambda e: len(e.pair.prompt) + len(e.pair.answer))
        batches = [encoded[i : i + size] for i in range(0, len(encoded), size)]
        rng.shuffle(batches)
        return [example for batch in batches for example in batch]


def draw_example(edits: Sequence[Edit], pieces: Sequence[str], rng: Random) -> TrainingExample:
    """One example of a random edit; `pieces` are the texts of a vocabulary's tokens."""
    edit = rng.choice(edits)
    wordings = (edit.prompt, *edit.rephrase_prompts)
    statement = edit.prompt if rng.random() < 0.6 else rng.choice(wordings)
    query = rng.choice(wordings)
    if rng.random() < 0.15:
        query = rng.choice(_LEAD_INS) + query
    target = format_target(_target(edit, edits, pieces, rng))
    return TrainingExample(format_input(statement, target, query), target, edit.id)


def _target(edit: Edit, edits: Sequence[Edit], pieces: Sequence[str], rng: Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return edit.target_new
    if draw < 0.55:
        other = rng.choice(edits)
        return other.subject if other.subject and draw < 0.45 else other.target_new
    if draw < 0.75 and pieces:
        return joined_pieces(rng, pieces)
    if draw < 0.92:
        return invented_name(rng)
    if draw < 0.96:
        return invented_number(rng)
    return foreign_name(rng)
