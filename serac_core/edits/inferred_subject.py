"""What an edit is about, where its record doesn't say: the only name in its prompt.

A name is a run of words that begin with a capital or a digit, joined over particles ("University
of Oslo", "Simone de Beauvoir"); what opens a sentence without being a name ("What", "The") begins
none, an article isn't part of one, and the edit's target is none. A prompt with two names, or
without one, tells nothing.
"""

from __future__ import annotations

import re

from serac_core.edits.record import Edit, normalize_text

_WORD = re.compile(r"\S+")
_OPENING = re.compile(
    r"(?:what|which|who|whom|whose|where|when|why|how|in|on|at|of|from|by|to|for|is|are|was|were|did|"
    r"does|do|has|have|had|can|could|will|would|the|a|an|name|tell|it|its|this|that|he|she|they|his|"
    r"her|their|we|i|you|with|as|under|during|after|before|into|between|among|if|and|or|but)",
    re.IGNORECASE,
)
_PARTICLE = re.compile(
    r"(?:of|the|de|van|von|der|den|la|le|du|des|da|di|del|el|al|bin|ibn|y|e|and|&|in|for|on|to|a)"
)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_PARTICLES = 2  # in a row, at most
_QUOTES = "\"'\u201c\u201d\u2018\u2019"
_BEFORE = _QUOTES + "(["
_AFTER = _QUOTES + ")],;:?!"
_ENDS_NAME = re.compile(r"[,;:?!]$|['\u2019]s$")
_ENDS_SENTENCE = re.compile(r"[.?!][\"'\u2019\u201d)\]]*$")
_GENITIVE = re.compile(r"['\u2019]s$")


def subject_or_inferred(edit: Edit) -> str | None:
    """The edit's subject; where the record has none, what :func:`inferred_subject` finds. An empty
    subject says that the edit has none."""
    if edit.subject is not None:
        return edit.subject
    return inferred_subject(edit.prompt, edit.target_new)


def inferred_subject(prompt: str, target: str = "") -> str | None:
    """The only name in a prompt; None where there are several or none.

    Parameters
    ----------
    target:
        The edit's answer, which a statement may hold too.
    """
    answer = normalize_text(target)
    names = {normalize_text(name): name for name in _names(prompt)}
    names.pop(answer, None)
    return next(iter(names.values())) if len(names) == 1 else None


def _names(text: str) -> list[str]:
    spans = [found.span() for found in _WORD.finditer(text)]
    words = [text[start:end] for start, end in spans]
    names = []
    place = 0
    while place < len(words):
        word = words[place]
        opens = place == 0 or _ENDS_SENTENCE.search(words[place - 1]) is not None
        is_opening = opens and _OPENING.fullmatch(word.strip(_AFTER)) is not None
        if not _is_capital(word) or is_opening:
            place += 1
            continue
        last = _last_of_name(words, place)
        name = text[spans[place][0] : spans[last][1]].lstrip(_BEFORE).rstrip(_AFTER)
        names.append(_without_article(_GENITIVE.sub("", name)))
        place = last + 1
    return [name for name in names if normalize_text(name)]


def _without_article(name: str) -> str:
    """One subject for "The Normal Heart was" and "who wrote The Normal Heart"; The Who stays, for
    what is left of it would be named by every question."""
    bare = _ARTICLE.sub("", name)
    return name if _OPENING.fullmatch(bare) else bare


def _last_of_name(words: list[str], first: int) -> int:
    last = first
    while not _ENDS_NAME.search(words[last]):
        following = last + 1
        while following - last <= _PARTICLES and following < len(words):
            if not _PARTICLE.fullmatch(words[following]):
                break
            following += 1
        if following >= len(words) or not _is_capital(words[following]):
            break
        last = following
    return last


def _is_capital(word: str) -> bool:
    bare = word.lstrip(_BEFORE)
    return bool(bare) and (bare[0].isupper() or bare[0].isdigit())
