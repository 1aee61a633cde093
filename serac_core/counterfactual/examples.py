"""What the counterfactual model is trained on: examples drawn without end, reproducibly.

An example is (edit, query, answer). The model must learn to *read* the edit, not to know it, so
an edit is drawn with its own target a third of the time and else with another edit's, a name, an
invented one, or any tokens of the vocabulary in a row: a token that no target holds would not be
copied. Its statement is any of its wordings, and some queries come with text around them. A share
asks whether the edit says this or that, and is answered "Yes" or "No"
(:mod:`serac_core.edits.yes_no`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from serac_core.base.language_model import EncodedPair, LanguageModel, TextTooLong, printable_pieces
from serac_core.counterfactual.model import format_input, format_target
from serac_core.edits.invented import (
    foreign_name,
    invented_name,
    invented_number,
    joined_pieces,
)
from serac_core.edits.record import Edit, normalize_text
from serac_core.edits.yes_no import Claim, claims_of, rephrasings_of

_BUCKET_BATCHES = 8  # drawn together and cut by length: rows of a batch are of like length
_CLAIM_KINDS = {"question": 0.5, "statement": 0.35, "answer": 0.15}
LEAD_INS = (
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
    yes_no_share:
        How many of the examples are yes/no questions.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        language_model: LanguageModel,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        yes_no_share: float = 0.0,
    ) -> None:
        self._edits = edits
        self._by_id = {edit.id: edit for edit in edits}
        self._yes_no_share = yes_no_share
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
            draw_example(self._edits, self._pieces, rng, self._yes_no_share)
            for _ in range(_BUCKET_BATCHES * size)
        ]
        encoded = self._encoded(drawn)
        encoded.sort(key=lambda e: len(e.pair.prompt) + len(e.pair.answer))
        batches = [encoded[i : i + size] for i in range(0, len(encoded), size)]
        rng.shuffle(batches)
        return [example for batch in batches for example in batch]

    def _encoded(self, drawn: Sequence[TrainingExample]) -> list[EncodedExample]:
        """In tokens; what is too long for the model with what was put around it goes without."""
        encode = self._language_model.encode_pairs
        try:
            pairs = encode([example.text for example in drawn], [e.answer for e in drawn])
        except TextTooLong:
            if len(drawn) > 1:
                return [encoded for example in drawn for encoded in self._encoded([example])]
            edit = self._by_id[drawn[0].edit_id]
            target = format_target(edit.target_new)
            pairs = encode([format_input(edit.prompt, target, edit.prompt)], [target])
        return [EncodedExample(p, e.edit_id) for p, e in zip(pairs, drawn, strict=True)]


def draw_example(
    edits: Sequence[Edit], pieces: Sequence[str], rng: Random, yes_no_share: float = 0.0
) -> TrainingExample:
    """One example of a random edit; `pieces` are the texts of a vocabulary's tokens."""
    edit = rng.choice(edits)
    wordings = (edit.prompt, *rephrasings_of(edit))
    statement = edit.prompt if rng.random() < 0.6 else rng.choice(wordings)
    query = rng.choice(wordings)
    lead_in = rng.choice(LEAD_INS) if rng.random() < 0.15 else ""
    target = answer = format_target(draw_target(edit, edits, pieces, rng))
    claims = draw_claims(edit, rng) if yes_no_share and rng.random() < yes_no_share else []
    if claims:
        claim = rng.choice(claims)
        is_edited = rng.random() < 0.5
        value = target if is_edited else draw_other(target, edit, edits, pieces, rng)
        query, answer = claim.asked(value), claim.reply(is_edited)
    return TrainingExample(format_input(statement, target, lead_in + query), answer, edit.id)


def draw_claims(edit: Edit, rng: Random) -> list[Claim]:
    """The edit's claims of one kind and one right answer, so that each counts alike."""
    claims = [claim for claim in claims_of(edit) if not claim.held_out]
    kinds = sorted({claim.kind for claim in claims})
    if not kinds:
        return []
    weights = [_CLAIM_KINDS[kind] for kind in kinds]
    (kind,) = rng.choices(kinds, weights)
    denies = rng.random() < 0.5
    of_kind = [claim for claim in claims if claim.kind == kind]
    return [claim for claim in of_kind if claim.denies is denies] or of_kind


def draw_other(
    target: str, edit: Edit, edits: Sequence[Edit], pieces: Sequence[str], rng: Random
) -> str:
    """An answer that isn't the target: the one before the edit, any other, or one that shares
    words with it."""
    draw, words = rng.random(), target.split()
    value = target
    if draw < 0.25 and edit.ground_truth:
        value = edit.ground_truth
    elif draw < 0.4 and len(words) > 1:
        words[rng.randrange(len(words))] = invented_name(rng)
        value = " ".join(words)
    elif draw < 0.45 and len(words) > 1:
        value = " ".join(words[: rng.randrange(1, len(words))])
    while normalize_text(value) == normalize_text(target):
        value = draw_target(rng.choice(edits), edits, pieces, rng)
    return format_target(value)


def draw_target(edit: Edit, edits: Sequence[Edit], pieces: Sequence[str], rng: Random) -> str:
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
