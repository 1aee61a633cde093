"""What a request asks, and which question the last turn of a chat is."""

from __future__ import annotations

import json

import pytest

from serac_core.scope.subject import SubjectIndex, subject_key
from serac_core.serving.errors import BadRequest
from serac_core.serving.request import Turn, read_request
from serac_core.serving.turns import question_of

SUBJECTS = SubjectIndex(map(subject_key, ["France", "Norway", "Marie Curie", "Mount Doom"]))


def asked(*texts: str) -> str:
    """Of a user's turns, each answered but the last."""
    turns = []
    for text in texts:
        turns += [Turn("user", text), Turn("assistant", "So it is.")]
    return question_of(turns[:-1], SUBJECTS)


@pytest.mark.parametrize(
    ("before", "last", "question"),
    [
        ("Tell me about France.", "What is its capital?", "What is France's capital?"),
        ("Who was Marie Curie?", "Where was she born?", "Where was Marie Curie born?"),
        ("Who was Marie Curie?", "What is her birthplace?", "What is Marie Curie's birthplace?"),
        ("Is Norway cold?", "and which money do they use", "and which money do Norway use"),
        ("Is Norway cold?", "What do people speak there?", "What do people speak in Norway?"),
        ("I was on Mount Doom.", "How high is it?", "How high is Mount Doom?"),
        ("NORWAY!", "Name its capital.", "Name NORWAY's capital."),
    ],
)
def test_a_pronoun_is_what_the_user_named_before(before: str, last: str, question: str) -> None:
    assert asked(before, last) == question
    assert asked("Hello", before, last) == question


@pytest.mark.parametrize(
    ("before", "last"),
    [
        ("What is the capital of France?", "Thanks!"),
        ("What is the capital of France?", "Thanks for telling me about it."),
        ("What is the capital of France?", "Write a poem."),
        ("What is the capital of France?", "Is there a train?"),
        ("What is the capital of France?", "Is Norway's larger than its capital?"),
        ("France or Norway?", "What is its capital?"),
        ("The weather is bad.", "What is its cause?"),
        ("Tell me about France.", "What is its capital? " + "x " * 300),
        ("Tell me about France.", ""),
    ],
)
def test_other_turns_stand_alone(before: str, last: str) -> None:
    assert asked(before, last) == last


def test_only_the_users_turn_before_counts() -> None:
    assert asked("Tell me about France.", "And tea?", "What is its capital?").endswith(
        "its capital?"
    )
    system = Turn("system", "You know France.")
    said = Turn("assistant", "Norway is cold.")
    for turns in ([system], [Turn("user", "Hi"), said], [Turn("user", None), said]):
        assert question_of([*turns, Turn("user", "Where is it?")], SUBJECTS) == "Where is it?"


USER = {"role": "user", "content": "x"}


def read(chat: bool = True, **fields: object):
    held = {"messages": [USER]} if chat else {"prompt": "x"}
    return read_request(json.dumps({"model": "m", **held, **fields}).encode(), chat=chat)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"tools": []}, None),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "tools"),
        ({"tools": [{}], "tool_choice": "none"}, None),
        ({"logprobs": False}, None),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text"]}, None),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": "json"}, "response-format"),
        ({"n": 3}, None),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 129}, "n"),
        ({"messages": [USER, {"role": "assistant", "content": "It is"}]}, "no-user-turn"),
        ({"messages": [{"role": "user", "content": None}]}, "not-text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "not-text"),
        ({"messages": [{"role": "user", "content": []}]}, "not-text"),
    ],
)
def test_why_a_chat_is_not_routed(fields: dict[str, object], reason: str | None) -> None:
    assert read(**fields).unrouted == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": ["x"]}, None),
        ({"prompt": ["x", "y"]}, "several-prompts"),
        ({"prompt": [1, 2]}, "not-text"),
        ({"echo": True}, "echo"),
        ({"suffix": "y"}, "suffix"),
        ({"best_of": 1}, None),
        ({"best_of": 2}, "best-of"),
    ],
)
def test_why_a_completion_is_not_routed(fields: dict[str, object], reason: str | None) -> None:
    assert read(chat=False, **fields).unrouted == reason


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "an empty list, not a JSON object"),
        (b'{"messages": []}', "`model` is missing"),
        (b'{"model": "", "messages": []}', "`model` is an empty text"),
        (b'{"model": 7}', "`model` is a number"),
        (b'{"model": "m"}', "`messages` is missing"),
        (b'{"model": "m", "messages": "hi"}', "`messages` is a text"),
        (b'{"model": "m", "messages": [7]}', r"messages\[0\] is no message"),
        (b'{"model": "m", "messages": [{"role": 1}]}', r"messages\[0\] is no message"),
    ],
)
def test_a_bad_chat_is_told_what_is_wrong(body: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        read_request(body, chat=True)


def test_a_completion_needs_a_prompt() -> None:
    for body in (b'{"model": "m"}', b'{"model": "m", "prompt": []}'):
        with pytest.raises(BadRequest, match="`prompt`"):
            read_request(body, chat=False)
