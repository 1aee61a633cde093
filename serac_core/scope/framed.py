"""Yes/no questions in a frame, said without it: "Is it wrong to think that X is made in Oslo?".

The encoder knows questions and statements. A frame around one moves it away from both, and the
answer that it holds is none of the edit's wording. So a framed text is compared as it is, as the
bare question, and as the statement without its last words, and the best of them counts
(docs/decisions/0010-yes-no-questions.md).
"""

from __future__ import annotations

import re

from serac_core.scope.subject import MASK, sentences_of, words_of

_AUXILIARY = (
    "(?:is|are|was|were|am|would|could|can|do|does|did|may|might|should|isn't|aren't|wasn't|"
    "weren't|wouldn't|don't|doesn't|didn't)"
)
_LOWER = r"[a-z']+ "
# After a person only verbs and the like: in "Do you know the day that X died" nothing is claimed.
_NO_THING = rf"(?!the |an? |who |what |when |where |why |how |which ){_LOWER}"
_PERSON = "(?:I|you|we|they|one|people|somebody|someone|anybody|anyone|everybody|everyone)"
_LEAD = re.compile(
    r"(?:(?:[Yy]es or no|[Tt]rue or (?:not|false)): )?"
    rf"(?:{_AUXILIARY} (?:it|this) (?:{_LOWER}){{0,8}}?that "
    rf"|{_AUXILIARY} {_PERSON} (?:{_NO_THING}){{1,5}}?that "
    rf"|{_PERSON} (?:{_NO_THING}){{1,4}}?that )",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:[,.:;] ?(?:and |or )?(?:is|was|am|isn't|wasn't|are) (?:that|this|it|i|they)"
    r"(?: [a-z']+){0,3}\?"
    r"|, (?:right|correct|true|yes|no|or so they say)\?"
    r"|[?.])$",
    re.IGNORECASE,
)
_VERB = re.compile(r"(?<= )(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would)(?= )")
_LAST_WORDS = re.compile(r"(.* (?:is|are|was|were|in|of|by|to|as|for|from|with|at|on|into|under)) ")
_QUESTION = re.compile(
    r"(is|are|was|were|does|do|did|has|have|had|can|could|will|would)(?:n't)? "
    rf"(?!(?:it|this|there|he|she|{_PERSON}) )((?:(?!{MASK}\b)\S+ ){{0,8}}?){MASK}((?: [^?.]+)?)\?",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|really|now|something other than|anything but) ")
_IS_IT = re.compile(
    rf"(.+\?) (?:{_AUXILIARY} (?:it|that|this|the answer)|would it|could it) [^?]+\?", re.IGNORECASE
)
_OF_ANSWER = re.compile(
    rf"{_AUXILIARY} [^\"\u201c]*\banswer\b[^\"\u201c]*[\"\u201c](.+)[\"\u201d]\?", re.IGNORECASE
)
_ASKS = re.compile(r"(?:who|whom|whose|what|which|when|where|why|how) ", re.IGNORECASE)
_LEAST_WORDS = 3


def bare_readings(said: str) -> tuple[str, ...]:
    """What a masked yes/no question asks or claims without its frame; nothing of other texts.

    >>> bare_readings("Is it wrong to think that X is made in Oslo?")
    ('is X made in Oslo?', 'X is made in')
    """
    asked = _IS_IT.fullmatch(said) or _OF_ANSWER.fullmatch(said)
    if asked is not None:
        return (asked[1],) if MASK in asked[1] else ()
    lead = _LEAD.match(said)
    if lead is None and _QUESTION.fullmatch(said):
        return _of_question(said)
    claim = said[lead.end() :] if lead else said
    tail = _TAIL.search(claim)
    if lead is None and (tail is None or len(tail[0]) == 1):
        return ()
    claim = claim[: tail.start()] if tail else claim
    if MASK not in claim or len(sentences_of(claim)) > 1 or _ASKS.match(claim):
        return ()
    verb = _VERB.search(claim)
    if verb:
        question = f"{verb[0]} {claim[: verb.start()].strip()} {claim[verb.end() :].strip()}?"
    else:
        question = f"{claim}?"
    return (question, *_unfinished(claim))


def _of_question(said: str) -> tuple[str, ...]:
    """Of "Isn't X made in Oslo?"."""
    found = _QUESTION.fullmatch(_DENIED.sub("", said))
    if found is None:
        return ()
    auxiliary, before, after = found[1].lower(), found[2], found[3]
    asked = f"{auxiliary} {before}{MASK}{after}?"
    verb = "" if auxiliary in ("do", "does", "did") else f" {auxiliary}"
    denied = (asked,) if asked.casefold() != said.casefold() else ()
    return (*denied, *(_unfinished(f"{before}{MASK}{verb}{after}") if after else ()))


def _unfinished(claim: str) -> tuple[str, ...]:
    """The claim without its last words, if that says something."""
    shorter = _LAST_WORDS.match(claim)
    statement = shorter[1] if shorter else claim.rpartition(" ")[0]
    return (statement,) if _says_something(statement) else ()


def _says_something(statement: str) -> bool:
    """ "X is" doesn't, "X plays" does."""
    words = len(words_of(statement))
    is_verb = _VERB.search(f"{statement} ") is not None
    return MASK in statement and words >= (_LEAST_WORDS if is_verb else _LEAST_WORDS - 1)
