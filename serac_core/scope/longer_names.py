"""Names that hold another: "University of Helsinki" is not about Helsinki.

Names are compared word by word (:mod:`serac_core.scope.subject`), so a longer name brings up the
edits about the shorter one. Whether it counts against them, and how much, is found by the
calibration.
"""

from __future__ import annotations

import re
from random import Random

from serac_core.scope.subject import MASK, words_of

_WORD_BEFORE = re.compile(r"(?:^|(?<=\s))([^\s,;:.?!()\"]+)(\s+of)?\s+$")
_WORD_AFTER = re.compile(r":?\s+(\w[^\s,;:.?!]*)")
_YES_NO = re.compile(
    r"\s*(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would)(?:n't)?\s", re.IGNORECASE
)
_NO_PART_OF_A_NAME = re.compile(
    r"(?:a|about|after|although|an|and|are|as|at|because|before|but|by|can|captain|could|"
    r"dame|did|do|doctor|does|dr|during|emperor|empress|for|from|has|have|he|her|his|how|"
    r"if|in|into|is|its|king|lady|like|lord|mr|mrs|ms|of|on|or|our|over|pope|president|"
    r"prince|princess|professor|queen|saint|she|should|since|sir|st|that|the|their|they|"
    r"through|to|under|until|was|we|were|what|when|where|whether|which|while|who|whom|"
    r"whose|why|will|with|would|you|your)"
)


def longer_name(name: str, one: str, two: str, rng: Random) -> str:
    """A name that holds another.

    Parameters
    ----------
    one, two:
        Other names, or parts of such.
    """
    return rng.choice(
        (
            f"{name} {one}",
            f"{one} {name}",
            f"{name} {one} {two}",
            f"{name} ({one})",
            f"{one} {two} of {name}",
        )
    )


def names_longer(edit_said: str, query_said: str) -> bool:
    """Whether the query seems to name something longer than the edit's subject: a capitalised
    word or a number stands beside it, or a capitalised word and "of" before it, that the edit's
    prompt doesn't hold. Words that ask, and titles of persons, are no part of a name; what follows
    it in a yes/no question may be the answer ("Is the capital of X Paris?"), and what stands before
    it behind a colon other matter ("Category:Rivers of Peru X flows through").

    Parameters
    ----------
    edit_said, query_said:
        Of :func:`said_about`.

    >>> names_longer("X is in", "The University of X is in")
    True
    >>> names_longer("What is the capital of X?", "Capital of X?")
    False
    """
    beside = _beside_mask(query_said)
    return bool(beside) and not beside <= {word.folded for word in words_of(edit_said)}


def _beside_mask(said: str) -> set[str]:
    """The words, folded, that may make a longer name with the masked one."""
    found: set[str] = set()
    asks = _YES_NO.match(said)
    for mask in re.finditer(rf"(?<!\w){MASK}(?!\w)", said):
        before = _WORD_BEFORE.search(said, 0, mask.start())
        if ":" in said[: mask.start()]:
            before = None
        after = None if asks else _WORD_AFTER.match(said, mask.end())
        for word in (before and before[1], after and after[1]):
            if word and word != MASK and not word[0].islower():
                found |= {part.folded for part in words_of(word)}
    return {word for word in found if not _NO_PART_OF_A_NAME.fullmatch(word)}
