"""The reader: whether a query asks for the edit's answer, or whether this or that is the answer.

A yes/no question is read in two parts. Whether it names the edit's answer is seen by its words, as
the scope classifier sees which subject a text names. What it makes of the name is told by a small
network that never sees it: "Is it wrong to say that the capital of X is Y?" denies. So what was
never in training is read as well as what was. See docs/decisions/0010-yes-no-questions.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serac_core.edits.inferred_subject import subject_or_inferred
from serac_core.edits.record import Edit
from serac_core.edits.yes_no import NO, YES
from serac_core.errors import SeracError
from serac_core.scope.session import OnnxClassifier, UnusableEncoder
from serac_core.scope.subject import MASK, SubjectIndex, said_of, subject_key

READER_FOLDER = "reader"
"""In the folder of a counterfactual model, if it has a reader."""
READER_GRAPH = "reader.onnx"
CLASSES = ("asks", "confirms", "denies")
ANSWER_MASK = "Y"
"""Stands for the edit's answer in a marked query."""
_SURE = 0.9  # that it is a yes/no question; else the language model answers
_ARTICLE = re.compile(r"(?:the|a|an)\s+", re.IGNORECASE)
_MAY_ASK = re.compile(
    r"\?|^(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should)(?:n't)? ",
    re.IGNORECASE,
)  # anything else is a statement to complete
_OR = re.compile(r"(\w+)\W*,?\s+or\s+(\w+)")
_NO_CHOICES = frozenset(("true or false", "right or wrong", "correct or incorrect", "yes or no"))


class UnusableReader(SeracError):
    """The reader in a counterfactual model's folder is incomplete or damaged."""


@dataclass(frozen=True)
class Marked:
    """A query as the network reads it.

    Attributes
    ----------
    text:
        What it says about the edit's subject, the subject masked, and the edit's answer too.
    names_answer:
        Whether the answer stands in it.
    """

    text: str
    names_answer: bool


def mark(query: str, subject: str | None, target: str) -> Marked | None:
    """Mask a query; None where the answer has no words to be found by.

    >>> mark("Is it wrong to say that the capital of Peru is Cusco?", "Peru", "Cusco")
    Marked(text='Is it wrong to say that the capital of X is Y?', names_answer=True)
    """
    said = said_of(query, subject) or query
    answer = _masked(" ".join(target.split()), subject)
    key = subject_key(_ARTICLE.sub("", answer, count=1) if _ARTICLE.match(answer) else answer)
    if not key:
        return None
    found = SubjectIndex([key]).find(said)
    if answer == MASK:  # its own name is the answer: "Is Cuba in Cuba?"
        found = found[1:][-1:]
    parts, done = [], 0
    for mention in found:
        parts += [said[done : mention.start], ANSWER_MASK]
        done = mention.end
    return Marked("".join(parts) + said[done:], bool(found))


def _masked(text: str, subject: str | None) -> str:
    key = subject_key(subject)
    parts, done = [], 0
    for mention in SubjectIndex([key] if key else []).find(text):
        parts += [text[done : mention.start], MASK]
        done = mention.end
    return "".join(parts) + text[done:]


def offers_choice(text: str, edit: Edit) -> bool:
    """Whether a question offers things to choose from, whether or not the answer is among them:
    "Is X a mammal, a bird or something else?". An "or" of the edit's own wording ("sex or gender")
    is none.
    """
    own = edit.prompt.casefold()
    pairs = ((one[1], one[2]) for one in _OR.finditer(text.casefold()))
    return any(
        second != "not" and (pair := f"{first} or {second}") not in _NO_CHOICES and pair not in own
        for first, second in pairs
    )


class YesNoReader:
    """Answers the yes/no questions among queries from the edits they were matched with.

    Parameters
    ----------
    network:
        Gives the logits of `CLASSES` for a marked text.
    """

    def __init__(self, network: OnnxClassifier) -> None:
        self._network = network

    @classmethod
    def load(cls, folder: str | Path) -> YesNoReader | None:
        """The reader in a counterfactual model's folder; None where it has none.

        Raises
        ------
        UnusableReader
        """
        own = Path(folder) / READER_FOLDER
        return cls.open(own) if own.is_dir() else None

    @classmethod
    def open(cls, folder: Path) -> YesNoReader:
        """The reader in its own folder.

        Raises
        ------
        UnusableReader
        """
        try:
            return cls(OnnxClassifier(folder / READER_GRAPH))
        except UnusableEncoder as error:
            raise UnusableReader(
                error.what, remedy="`serac train counterfactual` writes it; or fetch it again"
            ) from error

    def replies(self, edits: Sequence[Edit], queries: Sequence[str]) -> list[str | None]:
        """ "Yes" or "No" to `queries[i]` given `edits[i]`; None where the answer itself is asked
        for, in doubt too, and where a question offers a choice."""
        found: list[str | None] = [None] * len(queries)
        marked = {}
        for place, (edit, query) in enumerate(zip(edits, queries, strict=True)):
            text = mark(query, subject_or_inferred(edit), edit.target_new)
            if text is None or not _MAY_ASK.search(query) or offers_choice(text.text, edit):
                continue
            marked[place] = text
        if not marked:
            return found
        texts = list(dict.fromkeys(text.text for text in marked.values()))
        logits_NC = self._network.logits(texts)
        odds_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        shares_NC = odds_NC / odds_NC.sum(axis=1, keepdims=True)
        shares = dict(zip(texts, shares_NC.tolist(), strict=True))
        for place, text in marked.items():
            asks, confirms, denies = shares[text.text]
            if asks <= 1 - _SURE:
                found[place] = YES if text.names_answer == (confirms > denies) else NO
        return found
