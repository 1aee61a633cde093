"""Which edits a text names, by their subjects, and what the text says about them.

An edit is about its subject, and a query in its scope names that subject; so names are
compared as words, exactly, and only what is *said about* the subject is left to the encoder:
the text with the name masked. See docs/decisions/0002-scope-classifier.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

MASK = "X"
"""Stands for the subject in a masked text."""

_LEAST_WORDS = 3
_LEAST_PLURAL = 4  # letters of a noun whose plural is known
_SENTENCE_END = re.compile(r"(?:[.!?\u2026]+[\"'\u2019\u201d)\]]*\s+|\n+)(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:bros|co|col|corp|dr|ft|gen|gov|hon|inc|jr|lt|ltd|mr|mrs|ms|mt|no|prof|rep|rev|sen|sgt|"
    r"sr|st|ste|vol|vs)",
    re.IGNORECASE,
)
_ASCII = re.compile("[A-Za-z0-9]+")
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
    if text.isascii():
        return [
            Word(found[0].lower(), found.start(), found.end()) for found in _ASCII.finditer(text)
        ]
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


def said_about(text: str, mentions: Sequence[Mention]) -> str:
    """What the text says about a subject: the mentions masked, from the beginning of the sentence
    that names it last.

    What stands before is other matter more often than not; a sentence of fewer than three words
    is taken together with the one before, unless it goes on after the name: "Of X." says nothing,
    "X, by" does. What comes after counts: "X is in Oslo. The mayor of Bergen is" asks nothing about
    X.

    Parameters
    ----------
    mentions:
        Of one subject, in the order of the text; one at least.
    """
    parts, done = [], 0
    for mention in mentions:
        parts += [text[done : mention.start], MASK]
        done = mention.end
    before = "".join(parts)
    said = before + text[done:]
    may_begin = -1 if "?" in text[done:] else len(before) - len(MASK)
    for start in reversed([0, *_sentence_starts(before, may_begin)]):
        part = said[start:]
        words = len(words_of(part))
        goes_on = part.startswith(MASK) and part.rstrip()[-1:] not in ".?!"
        if words >= _LEAST_WORDS or (words == _LEAST_WORDS - 1 and goes_on):
            return part
    return said


def said_of(text: str, subject: str | None) -> str | None:
    """:func:`said_about` one subject; None if the text doesn't name it."""
    key = subject_key(subject)
    found = SubjectIndex([key]).find(text) if key else []
    return said_about(text, found) if found else None


def sentences_of(text: str) -> list[str]:
    """The sentences of a text; full stops after initials and common abbreviations end none."""
    edges = [0, *_sentence_starts(text), len(text)]
    return [text[a:b] for a, b in pairwise(edges) if text[a:b].strip()]


def _sentence_starts(text: str, mask: int = -1) -> list[int]:
    """Where sentences after the first begin.

    Parameters
    ----------
    mask:
        Where a sentence may begin after an abbreviation too, if not after an initial: "see Vol. X
        is owned by" is cut there, and "Mr. X is owned by" loses nothing. A question would lose its
        beginning: "Is Brill Inc. X's owner?"
    """
    starts = []
    for found in _SENTENCE_END.finditer(text):
        word = text[: found.start()].rpartition(" ")[2].strip("(\"'")
        last = word.rpartition(".")[2]
        is_initial = len(last) == 1 and last.isupper()
        is_short = len(last) == 1 or _ABBREVIATION.fullmatch(word) is not None
        may_go_on = is_initial or (is_short and found.end() != mask)
        if not (found[0].startswith(".") and may_go_on):
            starts.append(found.end())
    return starts


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

        A word joined to another by a hyphen is part of it: "Guinea-Bissau" doesn't name Guinea. A
        common noun may stand in the plural: "cysts" names the subject "cyst".
        """
        if not self._subjects:
            return []
        words = words_of(text)
        found: list[Mention] = []
        covered: list[tuple[int, int]] = []
        for length in self._lengths:
            for first in range(len(words) - length + 1):
                last = words[first + length - 1]
                key = tuple(word.folded for word in words[first : first + length])
                if key not in self._subjects:
                    key = (*key[:-1], singular_of(last, text))
                    if key not in self._subjects:
                        continue
                start, end = words[first].start, name_end(text, words[first].start, last.end)
                inside = any(a <= start and end <= b for a, b in covered)
                if not inside and not is_joined(text, start, end):
                    found.append(Mention(key, start, end))
                    covered.append((start, end))
        return sorted(found, key=lambda mention: mention.start)


def name_end(text: str, start: int, end: int) -> int:
    """Where a name ends whose last word ends there: with its bracket, and with its full stop where
    the sentence goes on ("Washington, D.C. is")."""
    if text[end : end + 1] == ")" and text.count("(", start, end) > text.count(")", start, end):
        end += 1
    goes_on = text[end : end + 1] == "." and text[end + 1 : end + 2] == " "
    return end + 1 if goes_on and text[end + 2 : end + 3].islower() else end


def singular_of(word: Word, text: str) -> str:
    """What a lower-case word is the plural of, folded; "" if it can't be one."""
    if not (word.folded.endswith("s") and text[word.start].islower()):
        return ""
    return word.folded[:-1] if len(word.folded) > _LEAST_PLURAL else ""


def is_joined(text: str, start: int, end: int) -> bool:
    """Whether a hyphen joins a span to another word."""
    before = start >= 2 and text[start - 1] in _HYPHENS and text[start - 2].isalnum()
    after = end + 1 < len(text) and text[end] in _HYPHENS and text[end + 1].isalnum()
    return before or after


def mentions_by_subject(mentions: Iterable[Mention]) -> dict[tuple[str, ...], list[Mention]]:
    """The mentions of each subject, in the order of the text."""
    found: dict[tuple[str, ...], list[Mention]] = {}
    for mention in mentions:
        found.setdefault(mention.subject, []).append(mention)
    return found
