"""Which edits a text names, by their subjects, and what the text says about them.

An edit is about its subject, and a query in its scope names that subject; so names are
compared as words, exactly, and only what is *said about* the subject is left to the encoder:
the text with the name masked. See docs/decisions/0002-scope-classifier.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

MASK = "X"
"""Stands for the subject in a masked text."""

_HYPHENS = "-\u2010\u2011"


@dataclass(frozen=True, slots=True)
class Word:
    """A run of letters and digits: its folded form and where it stands in the text."""

    folded: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A subject found in a text, as `text[start:end]`."""

    subject: tuple[str, ...]
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text, case and accents folded (NFKD, marks dropped)."""
    words: list[Word] = []
    folded, start = "", 0
    for place, char in enumerate(text):
        found, is_mark = _fold(char)
        if found and not folded:
            start = place
        if found or (is_mark and folded):
            folded += found
        elif folded:
            words.append(Word(folded, start, place))
            folded = ""
    if folded:
        words.append(Word(folded, start, len(text)))
    return words


@lru_cache(maxsize=1 << 14)
def _fold(char: str) -> tuple[str, bool]:
    """The folded letters and digits of a character, and whether it is a mark."""
    found = "".join(
        part
        for part in unicodedata.normalize("NFKD", char.casefold())
        if unicodedata.category(part)[0] in "LN"
    )
    return found, unicodedata.category(char)[0] == "M"


def subject_key(subject: str | None) -> tuple[str, ...]:
    """The words that a text must hold, in this order, to name the subject; () for none."""
    return tuple(word.folded for word in words_of(subject or ""))


def masked(text: str, mention: Mention) -> str:
    """The text with the mention replaced by the mask."""
    return text[: mention.start] + MASK + text[mention.end :]


def mask_subject(text: str, subject: str | None) -> str | None:
    """The text with the first mention of the subject masked; None if it isn't named."""
    key = subject_key(subject)
    found = SubjectIndex([key]).find(text) if key else []
    return masked(text, found[0]) if found else None


class SubjectIndex:
    """Finds which of many subjects a text names, in time that depends on the text alone.

    Parameters
    ----------
    subjects:
        Keys of :func:`subject_key`; empty ones are left out.
    """

    def __init__(self, subjects: Iterable[tuple[str, ...]]) -> None:
        self._subjects = {key for key in subjects if key}
        self._lengths = sorted({len(key) for key in self._subjects}, reverse=True)

    def find(self, text: str) -> list[Mention]:
        """The mentions in the order of the text; one inside a longer one doesn't count.

        A word joined to another by a hyphen is part of it: "Guinea-Bissau" doesn't name Guinea.
        """
        if not self._subjects:
            return []
        words = words_of(text)
        found: list[Mention] = []
        covered: list[tuple[int, int]] = []
        for length in self._lengths:
            for first in range(len(words) - length + 1):
                key = tuple(word.folded for word in words[first : first + length])
                if key not in self._subjects:
                    continue
                start, end = words[first].start, words[first + length - 1].end
                inside = any(a <= start and end <= b for a, b in covered)
                if not inside and not _is_joined(text, start, end):
                    found.append(Mention(key, start, end))
                    covered.append((start, end))
        return sorted(found, key=lambda mention: mention.start)


def _is_joined(text: str, start: int, end: int) -> bool:
    before = start >= 2 and text[start - 1] in _HYPHENS and text[start - 2].isalnum()
    after = end + 1 < len(text) and text[end] in _HYPHENS and text[end + 1].isalnum()
    return before or after


def mentions_by_subject(mentions: Sequence[Mention]) -> dict[tuple[str, ...], Mention]:
    """The first mention of each subject."""
    first: dict[tuple[str, ...], Mention] = {}
    for mention in mentions:
        first.setdefault(mention.subject, mention)
    return first
