"""Yes/no questions that an edit settles: what the record asks, and what its wordings give.

A *claim* is a question with a gap: filled with the edit's answer it is to be answered "Yes", with
another "No", and the other way round where the claim denies. Claims are made by rules on the
edit's wordings: "The capital of Peru is" gives "Is the capital of Peru ...?", "Is it false that
the capital of Peru is ...?" and others. "Isn't it ...?" asks whether it is, as people mean it; a
"not" that stands apart denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.subject import sentences_of

YES, NO = "Yes", "No"
YES_FIELD, NO_FIELD = "yes_question", "no_question"
"""Fields of a record (HalluEditBench's names) that hold such a question with the edited answer,
and one with another."""

_GAP = "\x00"
_AUXILIARY = "is|are|was|were|does|do|did|has|have|had|can|could|will|would"
_PREPOSITION = "in|on|at|by|from|to|for|with|of|under|into|as"
_WHAT_IS = re.compile(r"(?:what|who|which [^?]*?) (is|are|was|were) ([^?]+)\?", re.IGNORECASE)
_WHERE_IS = re.compile(r"where (is|are|was|were) ([^?]+)\?", re.IGNORECASE)
_WHAT_DOES = re.compile(r"(?:what|who|which [^?]*?) (does|do|did) ([^?]+)\?", re.IGNORECASE)
_IN_WHICH = re.compile(
    rf"({_PREPOSITION}) (?:what|which|whom)\b[^?]*? ({_AUXILIARY}) ([^?]+)\?", re.IGNORECASE
)
_WHO_DID = re.compile(r"who ((?!is |are |was |were |does |do |did )[^?]+)\?", re.IGNORECASE)
_THING_IS = re.compile(r"(.+?) (is|are|was|were)(| [^?.!]*[^?.!\s])", re.IGNORECASE)
_CLAUSE = re.compile(r", (?:who|which) (?=is |was |are |were |has |had |[a-z]+(?:s|ed) )")
_APPOSITION = re.compile(r", (?:a |an |the )?[\w]+(?: \w+){0,2}$")
_ASKS = re.compile(rf"({_AUXILIARY}) (.+)\?", re.IGNORECASE)
_COMMON_FIRST = re.compile(
    r"(?:The|A|An|In|On|At|By|From|To|For|With|Of|Under|Into|As|It|Its|This|That|These|Among)\b"
)
_CONTRACTED = {"can": "can't", "will": "won't"}

_CONFIRMING = (
    "Is it true that {}?",
    "Is it correct that {}?",
    "Is it right that {}?",
    "Is it right to say that {}?",
    "Would it be right to say that {}?",
    "Would it be correct to say that {}?",
    "Is it accurate to say that {}?",
    "Is it the case that {}?",
    "Is it a fact that {}?",
    "Can one say that {}?",
    "Does it hold that {}?",
    "Do you agree that {}?",
    "Am I right that {}?",
    "Am I right in thinking that {}?",
    "Would you agree that {}?",
    "Isn't it true that {}?",
    "Isn't it so that {}?",
    "I believe that {}. Is that right?",
    "I heard that {}. Is that true?",
    "Somebody says that {}. Is this correct?",
    "True or not: {}?",
    "Can you confirm that {}?",
    "Yes or no: is it true that {}?",
)
_DENYING = (
    "Is it false that {}?",
    "Is it untrue that {}?",
    "Is it wrong that {}?",
    "Is it incorrect that {}?",
    "Is it wrong to say that {}?",
    "Would it be wrong to say that {}?",
    "Would it be false to say that {}?",
    "Would it be incorrect to say that {}?",
    "Would it be a mistake to say that {}?",
    "Is it a mistake to think that {}?",
    "Is it an error to say that {}?",
    "Is it inaccurate to say that {}?",
    "Is it not the case that {}?",
    "Is it not true that {}?",
    "Is it not so that {}?",
    "Is it a lie that {}?",
    "Am I wrong that {}?",
    "Am I mistaken in thinking that {}?",
    "Would you deny that {}?",
    "Would you disagree that {}?",
    "I heard that {}. Is that false?",
    "Somebody says that {}. Is this wrong?",
    "Yes or no: is it false that {}?",
)
_HELD_OUT_CONFIRMING = (
    "Would it be accurate to say that {}?",
    "Is it right to think that {}?",
    "Do you believe that {}, and is that correct?",
    "Isn't it correct that {}?",
)
_HELD_OUT_DENYING = (
    "Would it be inaccurate to say that {}?",
    "Is it wrong to think that {}?",
    "Would it be an error to say that {}?",
    "I believe that {}. Is that untrue?",
)
_CONFIRMING_TAGS = ("{}, right?", "{}, correct?", "{}, is that right?", "{}, yes?", "{}?")
_DENYING_TAGS = ("{}: is that wrong?", "{}: is that false?", "{}, or so they say. Is that untrue?")
_CONFIRMING_ANSWERS = (
    "{0} Is it {1}?",
    "{0} Is the answer {1}?",
    "{0} Would the answer be {1}?",
    "{0} Isn't it {1}?",
    'Is {1} the answer to "{0}"?',
    'Is {1} the right answer to the question "{0}"?',
)
_DENYING_ANSWERS = (
    "{0} Is it something other than {1}?",
    "{0} Is the answer not {1}?",
    "{0} Would it be wrong to answer {1}?",
    "{0} Is it anything but {1}?",
    'Is {1} a wrong answer to "{0}"?',
    'Is {1} not the answer to "{0}"?',
)


@dataclass(frozen=True)
class Claim:
    """A yes/no question with a gap for an answer.

    Attributes
    ----------
    text:
        With a NUL character where the answer stands.
    denies:
        Whether the right answer is "No" where the edit's own stands in the gap.
    kind:
        `question`: the auxiliary stands first; `statement`: a statement with a frame; `answer`: the
        wording as it is, and whether such is its answer.
    held_out:
        Whether its frame is kept from training, for measuring.
    """

    text: str
    denies: bool
    kind: Literal["question", "statement", "answer"] = "question"
    held_out: bool = False

    def asked(self, answer: str) -> str:
        """The question about an answer."""
        filled = self.text.replace(_GAP, answer)
        return filled[:1].upper() + filled[1:]

    def reply(self, is_edited: bool) -> str:
        """ "Yes" or "No", where the gap holds the edit's answer or another."""
        return YES if is_edited is not self.denies else NO


def asked_yes_no(edit: Edit) -> list[tuple[str, str]]:
    """The yes/no questions that the record brings, each with the right answer."""
    extra = edit.model_extra or {}
    return [
        (text, reply)
        for field, reply in ((YES_FIELD, YES), (NO_FIELD, NO))
        if isinstance(text := extra.get(field), str) and text.strip()
    ]


def rephrasings_of(edit: Edit) -> list[str]:
    """The rephrasings that ask for the edit's answer: those that are no yes/no question of the
    record."""
    asked = {normalize_text(text) for text, _ in asked_yes_no(edit)}
    return [text for text in edit.rephrase_prompts if normalize_text(text) not in asked]


def claims_of(edit: Edit) -> list[Claim]:
    """Every claim that the edit's wordings and its own yes/no question give, without repetition.

    A few rules on the order of words in English; what they don't fit gives the claims that hold
    the whole wording ("... Is it Oslo?").
    """
    questions: list[str] = []
    statements: list[str] = []
    asked: list[str] = []
    for wording in (edit.prompt, *rephrasings_of(edit)):
        text = " ".join(wording.split())
        if text.endswith("?"):
            asked.append(text)
        if len(sentences_of(text)) != 1:
            continue  # "It was sold. Who owns it now?": only as it is
        if text.endswith("?"):
            questions += _questions_from_question(text, edit.subject)
        elif text[-1] not in ".!:":
            text = _CLAUSE.sub(" ", text)
            questions += _questions_from_statement(text)
            if not _APPOSITION.search(text):
                statements.append(f"{text} {_GAP}")
    own = _own_question(edit)
    if own:
        questions.append(own)
    statements += [made for text in questions for made in _statements(text, edit.subject)]
    claims = [
        *_about_questions(questions, edit.subject),
        *(replace(claim, kind="statement") for claim in _about_statements(statements)),
        *(replace(claim, kind="answer") for claim in _about_answers(asked)),
    ]
    return list(dict.fromkeys(claims))


@dataclass(frozen=True)
class YesNoQuestion:
    """A yes/no question on an edit, for measuring.

    Attributes
    ----------
    form:
        `own` of the record, `paraphrased` or `negated` by a frame kept from training.
    """

    edit: Edit
    query: str
    answer: str
    form: Literal["own", "paraphrased", "negated"]


def yes_no_questions(edits: Sequence[Edit]) -> list[YesNoQuestion]:
    """The records' own questions, and of each edit four in frames kept from training: confirming
    and denying, with its answer and with another (that of its no-question, its ground truth, or
    another edit's).

    A function of the edits and their order.
    """
    found = []
    for number, edit in enumerate(edits):
        own = [YesNoQuestion(edit, query, reply, "own") for query, reply in asked_yes_no(edit)]
        found += own
        held_out = [claim for claim in claims_of(edit) if claim.held_out]
        for denies in (False, True):
            claims = [claim for claim in held_out if claim.denies is denies]
            if not claims:
                continue
            claim = claims[number % len(claims)]
            form: Literal["paraphrased", "negated"] = "negated" if denies else "paraphrased"
            for value in (edit.target_new, _another_answer(edit, edits, number)):
                is_edited = value == edit.target_new
                if is_edited or normalize_text(value) != normalize_text(edit.target_new):
                    question = claim.asked(" ".join(value.split()))
                    found.append(YesNoQuestion(edit, question, claim.reply(is_edited), form))
    return found


def _another_answer(edit: Edit, edits: Sequence[Edit], number: int) -> str:
    own = _own_question(edit)
    no_question = (edit.model_extra or {}).get(NO_FIELD)
    if own and isinstance(no_question, str):
        before, after = own.split(_GAP, 1)
        if no_question.startswith(before) and no_question.endswith(after):
            return no_question[len(before) : len(no_question) - len(after)]
    return edit.ground_truth or edits[(number + 1) % len(edits)].target_new


def _own_question(edit: Edit) -> str | None:
    """The record's question with a gap for the edit's answer, the last that is not in a name."""
    question = (edit.model_extra or {}).get(YES_FIELD)
    if not isinstance(question, str):
        return None
    place = question.casefold().rfind(edit.target_new.casefold())
    subject = question.casefold().find((edit.subject or _GAP).casefold())
    in_name = 0 <= subject <= place < subject + len(edit.subject or "")
    if place < 0 or in_name or len(question.casefold()) != len(question):
        return None
    return question[:place] + _GAP + question[place + len(edit.target_new) :]


def _questions_from_question(text: str, subject: str | None) -> Iterator[str]:
    found = _WHAT_IS.fullmatch(text)
    if found and _is_thing(found[2], subject):
        yield f"{found[1]} {found[2]} {_GAP}?"
        if _is_whole_thing(found[2], subject):
            yield f"{found[1]} {_GAP} {found[2]}?"
    found = _WHERE_IS.fullmatch(text)
    if found:
        yield f"{found[1]} {found[2]} in {_GAP}?"
    found = _WHAT_DOES.fullmatch(text)
    if found:
        yield f"{found[1]} {found[2]} {_GAP}?"
    found = _IN_WHICH.fullmatch(text)
    if found:
        yield f"{found[2]} {found[3]} {found[1].lower()} {_GAP}?"
    found = _WHO_DID.fullmatch(text)
    if found:
        yield f"was it {_GAP} who {found[1]}?"


def _questions_from_statement(text: str) -> Iterator[str]:
    found = _THING_IS.fullmatch(text)
    if found and "," not in found[1]:
        yield f"{found[2]} {_uncapped(found[1])}{found[3]} {_GAP}?"


def _is_thing(text: str, subject: str | None) -> bool:
    """Whether a text begins as the name of a thing does: "the ..." or with the subject."""
    begins = text.casefold()
    return begins.startswith("the ") or bool(subject and begins.startswith(subject.casefold()))


def _is_whole_thing(text: str, subject: str | None) -> bool:
    """Whether the name of a thing is all that a text holds: what is known *for* isn't one."""
    begins_with_subject = subject and text.casefold().startswith(subject.casefold())
    possessive = begins_with_subject and text[len(subject or "") :].startswith(("'s ", "' "))
    return bool(possessive or not begins_with_subject) and not re.search(
        rf" (?:{_PREPOSITION}|after)$", text
    )


def _statements(question: str, subject: str | None) -> Iterator[str]:
    """What a question asks, as a statement: the auxiliary behind the name of the thing."""
    found = _ASKS.fullmatch(question)
    if not found:
        return
    auxiliary, rest = found[1].lower(), found[2]
    name = _name_at_start(rest, subject)
    if name and name != rest:
        yield f"{name} {auxiliary} {rest[len(name) :].lstrip()}"


def _name_at_start(text: str, subject: str | None) -> str | None:
    """The thing that a text begins with: up to the subject, or the gap."""
    if text.startswith(_GAP):
        return _GAP
    if text.startswith(f"the {_GAP}"):
        return f"the {_GAP}"
    place = text.casefold().find(subject.casefold()) if subject else -1
    if place < 0 or not subject:
        return None
    before = text[:place].casefold()
    of_subject = re.fullmatch(r"(?:the |a |an )?(?:[\w' -]+ of )?(?:the )?", before)
    if not of_subject or _GAP in before:
        return None
    end = place + len(subject)
    possessive = re.match(r"'s? [\w -]+?(?= \x00)", text[end:])
    return text[: end + (possessive.end() if possessive else 0)]


def _about_questions(questions: Sequence[str], subject: str | None) -> Iterator[Claim]:
    for text in questions:
        found = _ASKS.fullmatch(text)
        if not found:
            continue
        auxiliary, rest = found[1].lower(), found[2]
        yield Claim(text, denies=False)
        contracted = _CONTRACTED.get(auxiliary, f"{auxiliary}n't")
        yield Claim(f"{contracted} {rest}?", denies=False)
        if rest.endswith(f" {_GAP}"):
            head = f"{auxiliary} {rest[: -len(_GAP)]}"
            yield Claim(f"{head}something other than {_GAP}?", denies=True)
            yield Claim(f"{head}anything but {_GAP}?", denies=True)
        name = _name_at_start(rest, subject)
        if name and name != rest:
            after = rest[len(name) :].lstrip()
            yield Claim(f"{auxiliary} {name} now {after}?", denies=False)
            yield Claim(f"{auxiliary} {name} really {after}?", denies=False)
            yield Claim(f"{auxiliary} {name} not {after}?", denies=True)
            if name == _GAP:
                yield Claim(f"{auxiliary} something other than {rest}?", denies=True)


def _about_statements(statements: Sequence[str]) -> Iterator[Claim]:
    for text in statements:
        inner = _uncapped(text)
        for forms, held_out, tags, denies in (
            (_CONFIRMING, _HELD_OUT_CONFIRMING, _CONFIRMING_TAGS, False),
            (_DENYING, _HELD_OUT_DENYING, _DENYING_TAGS, True),
        ):
            yield from (Claim(form.format(inner), denies) for form in forms)
            yield from (Claim(form.format(text), denies) for form in tags)
            yield from (Claim(form.format(inner), denies, held_out=True) for form in held_out)
        found = re.fullmatch(r"(.*?) (is|are|was|were|has|does|do|did) (.*)", text, re.IGNORECASE)
        if found:
            denied = f"{found[1]} {found[2]} not {found[3]}"
            yield Claim(f"{denied}, right?", denies=True)
            yield Claim(f"Is it true that {_uncapped(denied)}?", denies=True)
            yield Claim(f"Is it false that {_uncapped(denied)}?", denies=False)


def _about_answers(asked: Sequence[str]) -> Iterator[Claim]:
    for text in asked:
        for forms, denies in ((_CONFIRMING_ANSWERS, False), (_DENYING_ANSWERS, True)):
            yield from (Claim(form.format(text, _GAP), denies) for form in forms)


def _uncapped(text: str) -> str:
    """Without the capital of a sentence's first word, where that is none of a name."""
    return text[0].lower() + text[1:] if _COMMON_FIRST.match(text) else text
