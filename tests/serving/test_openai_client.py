"""The official client, pointed at the router instead of the upstream."""

from __future__ import annotations

import openai
import pytest
from processes import QUERY_KEY, UPSTREAM_KEY, Router
from traffic import IMAGE, TOOL

from serac_core.counterfactual import CounterfactualModel
from serac_core.edits.jsonl import read_edits

IN_SCOPE = "What is the capital of France?"
OUT_OF_SCOPE = "Tell me a joke about tea"


@pytest.fixture(scope="module")
def routed(router: Router) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router.url}/v1", api_key=QUERY_KEY, max_retries=0)


@pytest.fixture(scope="module")
def direct(router: Router) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router.upstream}/v1", api_key=UPSTREAM_KEY, max_retries=0)


@pytest.fixture(scope="module")
def expected(release) -> str:
    """What the release's counterfactual model says to the question."""
    edits = {edit.id: edit for edit in read_edits(release / "edits.jsonl")}
    model = CounterfactualModel.load(release / "counterfactual", "cpu", chat="never")
    return model.answer([edits["e-capital-france"]], [IN_SCOPE])[0]


def chat(client: openai.OpenAI, text: object, **options):
    return client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": text}], **options
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5, "n": 2, "extra_body": {"unknown": [1]}},
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_out_of_scope_the_client_sees_what_it_would_see(routed, direct, options) -> None:
    assert chat(routed, OUT_OF_SCOPE, **options) == chat(direct, OUT_OF_SCOPE, **options)
    streamed = [list(chat(c, OUT_OF_SCOPE, stream=True, **options)) for c in (routed, direct)]
    assert streamed[0] == streamed[1] and len(streamed[0]) > 1


def test_completions_and_models_likewise(routed, direct) -> None:
    asked = {"model": "other", "prompt": OUT_OF_SCOPE}
    assert routed.completions.create(**asked) == direct.completions.create(**asked)
    assert list(routed.models.list()) == list(direct.models.list())


def test_an_edited_question_is_answered_from_the_edit(routed, expected) -> None:
    raw = routed.chat.completions.with_raw_response.create(
        model="tiny-chat", messages=[{"role": "user", "content": IN_SCOPE}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == expected
    assert answer.model == "tiny-chat" and answer.usage.total_tokens > 0
    assert raw.headers["x-serac-route"] == "edit"
    assert raw.headers["x-serac-edit-id"] == "e-capital-france"
    assert float(raw.headers["x-serac-score"]) >= float(raw.headers["x-serac-threshold"]) == 0.8
    assert raw.headers["x-serac-release"] == "tiny-release"
    said = routed.completions.create(model="tiny-chat", prompt=IN_SCOPE)
    assert said.choices[0].text == expected


def test_an_edited_answer_is_streamed(routed, expected) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat(routed, [{"type": "text", "text": IN_SCOPE}], n=2, **options))
    for place in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == place]
        assert "".join(choice.delta.content or "" for choice in mine) == expected
        assert [c.finish_reason for c in mine if c.finish_reason] in (["stop"], ["length"])
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    asked = routed.completions.create(model="tiny-chat", prompt=IN_SCOPE, stream=True)
    assert "".join(chunk.choices[0].text for chunk in asked) == expected


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (IN_SCOPE, {"tools": [TOOL]}, "tools"),
        (IN_SCOPE, {"logprobs": True}, "logprobs"),
        (IN_SCOPE, {"response_format": {"type": "json_object"}}, "response-format"),
        ([{"type": "text", "text": IN_SCOPE}, IMAGE], {}, "not-text"),
    ],
)
def test_what_an_edit_cannot_answer_goes_to_the_base(routed, direct, content, options, reason):
    raw = routed.chat.completions.with_raw_response.create(
        model="other", messages=[{"role": "user", "content": content}], **options
    )
    assert raw.headers["x-serac-reason"] == reason
    asked = {"model": "other", "messages": [{"role": "user", "content": content}], **options}
    assert raw.parse() == direct.chat.completions.create(**asked)


def test_tools_that_may_not_be_called_don_t_keep_an_edit_from_answering(routed, expected) -> None:
    answer = chat(routed, IN_SCOPE, tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.content == expected


def test_stop_texts_and_lengths_hold_for_edited_answers(routed, expected) -> None:
    stop = expected[3:6]
    cut = chat(routed, IN_SCOPE, stop=[stop]).choices[0]
    assert cut.message.content == expected[: expected.find(stop)] and cut.finish_reason == "stop"
    short = chat(routed, IN_SCOPE, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert len(short.choices[0].message.content) < len(expected)


def test_a_model_that_the_upstream_lacks_is_the_upstreams_to_refuse(routed) -> None:
    with pytest.raises(openai.NotFoundError, match="as asked"):
        routed.chat.completions.create(
            model="status-404", messages=[{"role": "user", "content": IN_SCOPE}]
        )


def test_errors_are_those_that_the_client_knows(router: Router, routed) -> None:
    stranger = openai.OpenAI(base_url=f"{router.url}/v1", api_key="x" * 20, max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="not known here"):
        chat(stranger, OUT_OF_SCOPE)
    with pytest.raises(openai.BadRequestError, match="`messages` is an empty list") as found:
        routed.chat.completions.create(model="tiny-chat", messages=[])
    assert found.value.param == "messages" and found.value.type == "invalid_request_error"
