"""Which question the last turn of a chat asks, in words that can be read alone.

The scope of a chat is the scope of its last user turn. Where that turn names a stored subject, or
points at nothing, it stands alone: what was said before doesn't change where it goes, so that an
edit that answered once doesn't answer the thanks for it. Where it points back ("What is *its*
capital?") and the user's turn before names exactly one stored subject, that name takes the place
of the pronoun: "What is France's capital?" is what is routed, and what the counterfactual model
is asked. Two subjects, or none, are no ground for a guess: the turn is routed as it is. The rule
knows English pronouns; what it makes is only routed, so a wrong reading is out of scope unless it
asks just what an edit answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from serac_core.scope.subject import Mention
from serac_core.serving.request import Turn

_POSSESSIVE = r"its|their|his"
_PERSONAL = r"it|they|them|he|him|she"
_POINTER = re.compile(
    rf"\b(?:(?P<possessive>{_POSSESSIVE}|her(?=\s+\w))|(?P<personal>{_PERSONAL}|her)"
    r"|(?P<place>(?<!is )(?<!are )(?<!was )(?<!were )there))\b(?!['\u2019])",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\?|^\W*(?:and |so |ok(?:ay)?,? |then )*(?:what|which|who|whom|whose|where|when|how|why|is|"
    r"are|was|were|does|do|did|has|have|can|could|name|tell|give|in which|on which|by whom)\b",
    re.IGNORECASE,
)
_LONGEST = 400  # characters of a turn that points back; a longer one says what it is about


class Subjects(Protocol):
    """Finds the subjects of the stored edits in a text."""

    def find(self, text: str) -> list[Mention]:
        """The mentions in the order of the text."""
        ...


def question_of(turns: Sequence[Turn], subjects: Subjects) -> str:
    """The question that the last turn asks.

    Parameters
    ----------
    turns:
        The last of them a user's, in text.
    subjects:
        Of the stored edits.
    """
    last = turns[-1].text or ""
    before = next((turn.text for turn in reversed(turns[:-1]) if turn.role == "user"), None)
    if not before or len(last) > _LONGEST:
        return last
    pointer = _POINTER.search(last)
    if pointer is None or not _ASKS.search(last) or subjects.find(last):
        return last
    mentions = subjects.find(before[-16_384:])
    if len({mention.subject for mention in mentions}) != 1:
        return last
    named = before[-16_384:][mentions[-1].start : mentions[-1].end]
    return last[: pointer.start()] + _in_place_of(pointer, named) + last[pointer.end() :]


def _in_place_of(pointer: re.Match[str], named: str) -> str:
    if pointer["possessive"]:
        return f"{named}'s"
    return f"in {named}" if pointer["place"] else named
