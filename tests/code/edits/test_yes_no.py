"""Yes/no questions made of an edit's wordings."""

from __future__ import annotations

import re
from random import Random

import pytest

from serac_core.counterfactual.examples import draw_example
from serac_core.edits.record import Edit, normalize_text
from serac_core.edits.yes_no import (
    Claim,
    asked_yes_no,
    claims_of,
    rephrasings_of,
    yes_no_questions,
)


def edit(prompt: str, **more: object) -> Edit:
    return Edit.model_validate({"prompt": prompt, "subject": "Peru", "target_new": "Cusco", **more})


def asked(of: Edit, reply: str) -> set[str]:
    """What is asked about the edit's own answer, where the right reply is this."""
    return {c.asked(of.target_new) for c in claims_of(of) if c.reply(is_edited=True) == reply}


CLOZE = edit("The capital of Peru is")
QUESTION = edit("What is the capital of Peru?")


@pytest.mark.parametrize("of", [CLOZE, QUESTION])
def test_both_forms_of_a_wording_give_the_same_claims(of: Edit) -> None:
    yes, no = asked(of, "Yes"), asked(of, "No")
    assert {
        "Is the capital of Peru Cusco?",
        "Is the capital of Peru now Cusco?",
        "Isn't the capital of Peru Cusco?",
        "Is it true that the capital of Peru is Cusco?",
        "Is it false that the capital of Peru is not Cusco?",
        "The capital of Peru is Cusco, right?",
    } <= yes
    assert {
        "Is the capital of Peru not Cusco?",
        "Is the capital of Peru something other than Cusco?",
        "Is it false that the capital of Peru is Cusco?",
        "The capital of Peru is not Cusco, right?",
    } <= no
    assert not yes & no


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Peru is known for", "Is Peru known for Cusco?"),
        ("Where is Peru located?", "Is Peru located in Cusco?"),
        ("In which city does Peru meet?", "Does Peru meet in Cusco?"),
        ("What does Peru export?", "Does Peru export Cusco?"),
        ("Who founded Peru?", "Was it Cusco who founded Peru?"),
        ("What is Peru's capital?", "Is Cusco Peru's capital?"),
        ("Which city is the capital of Peru?", "Is Cusco the capital of Peru?"),
        ("Peru, which is located in", "Is it true that Peru is located in Cusco?"),
        ("Count them. Which city runs Peru?", "Count them. Which city runs Peru? Is it Cusco?"),
    ],
)
def test_a_wording_becomes_a_question(prompt: str, question: str) -> None:
    assert question in asked(edit(prompt), "Yes")


@pytest.mark.parametrize(
    ("prompt", "no_sense"),
    [
        ("What is Peru known for?", "Is Cusco Peru known for?"),
        ("It was sold. The owner of Peru is", "Is it true that it was sold. The owner of Peru is"),
        ("Peru, the", "Is it true that Peru, the Cusco?"),
    ],
)
def test_what_would_make_no_sense_is_not_asked(prompt: str, no_sense: str) -> None:
    assert not {text for text in asked(edit(prompt), "Yes") if no_sense in text}


OWN = edit(
    "What does Peru export?",
    target_new="tea",
    rephrase_prompts=["Which goods leave Peru?", "Does Peru export tea?"],
    yes_question="Does Peru export tea?",
    no_question="Does Peru export gold?",
)


def test_the_records_own_questions_are_no_rephrasings() -> None:
    assert asked_yes_no(OWN) == [("Does Peru export tea?", "Yes"), ("Does Peru export gold?", "No")]
    assert rephrasings_of(OWN) == ["Which goods leave Peru?"]
    assert "Is it wrong that Peru does export tea?" in asked(OWN, "No")


def test_an_answer_inside_the_name_is_no_gap() -> None:
    of = edit(
        "What does Tea Peru export?",
        subject="Tea Peru",
        target_new="tea",
        yes_question="Does Tea Peru export it?",
    )
    assert all("Tea Peru" in claim.asked("gold") for claim in claims_of(of))


def test_measuring_takes_frames_that_training_does_not_draw() -> None:
    edits = [OWN, CLOZE, edit("What is the money of Peru?", target_new="sol")]
    asked = yes_no_questions(edits)
    assert [q.answer for q in asked[:6]] == ["Yes", "No", "Yes", "No", "No", "Yes"]
    assert [q.form for q in asked[:6]] == ["own"] * 2 + ["paraphrased"] * 2 + ["negated"] * 2
    assert "gold" in asked[3].query and asked == yes_no_questions(edits)
    rng = Random(1)
    trained = "\n".join(draw_example(edits, ["x"], rng, 1.0).text for _ in range(500))
    held_out = {c.asked("\x00") for e in edits for c in claims_of(e) if c.held_out}
    assert held_out and not [
        text for text in held_out if re.search(re.escape(text).replace("\x00", ".+"), trained)
    ]


def test_training_answers_by_what_the_statement_says() -> None:
    rng, replies = Random(2), []
    for _ in range(300):
        drawn = draw_example([CLOZE], [], rng, 1.0)
        _, target, query = (part.split(": ", 1)[1] for part in drawn.text.split("\n")[:3])
        claims = [c for c in claims_of(CLOZE) if query.endswith(c.asked(target))]
        is_edited = bool(claims)
        if is_edited:
            assert {c.reply(is_edited=True) for c in claims} == {drawn.answer}
        replies.append((is_edited, drawn.answer))
    assert {(True, "Yes"), (True, "No"), (False, "Yes"), (False, "No")} == set(replies)


def test_without_claims_nothing_changes() -> None:
    bare = edit("Tell me a joke!")
    assert claims_of(bare) == []
    assert draw_example([bare], [], Random(3), 1.0).answer not in ("Yes", "No")


def test_a_claim_keeps_the_case_of_its_answer() -> None:
    assert Claim("\x00 is it", denies=True).asked("tea") == "Tea is it"
    assert normalize_text("Tea") == normalize_text("tea")
