"""Who answers in scope: the counterfactual model, or the upstream that reads the edit; and a
router whose base is a local model."""

from __future__ import annotations

import json
import shutil

import httpx
import openai
import pytest
from processes import Router
from threads import serving

from serac_core.base import LanguageModel
from serac_core.counterfactual.description import Description, write_description
from serac_core.counterfactual.model import format_in_context
from serac_core.release.manifest import write_manifest

IN_SCOPE = "What is the capital of France?"


def say(url: str, *texts: str, headers=None, **fields):
    messages = []
    for text in texts:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "So?"}]
    body = {"model": "tiny-chat", "messages": messages[:-1], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_a_chat_is_routed_by_its_last_turn_in_context(router: Router) -> None:
    def edit(*texts: str) -> str | None:
        answer = say(router.url, *texts, headers=router.headers)
        assert answer.status_code == 200
        return answer.headers.get("x-serac-edit-id")

    assert edit(IN_SCOPE) == "e-capital-france"
    assert edit("Tell me about Norway.", "What is its capital?") is None  # the tiny encoder's score
    assert edit("Tell me about Norway.", "The capital of it is ?") == "e-capital-norway"
    assert edit(IN_SCOPE, "Thanks!") is None
    assert edit(IN_SCOPE, "And what about tea?") is None
    assert edit("Hello", IN_SCOPE) == "e-capital-france"


@pytest.fixture(scope="module")
def in_context_release(release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in-context") / "in-context"
    shutil.copytree(release, folder)
    shutil.rmtree(folder / "counterfactual")
    (folder / "counterfactual").mkdir()
    write_description(
        folder / "counterfactual", Description(kind="in-context", chat_template=False)
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, base_model=manifest["base_model"], edits=3, params={})
    return folder


def test_an_in_context_release_is_answered_for_by_the_upstream(
    in_context_release, upstream
) -> None:
    with serving(in_context_release, upstream) as (url, _):
        httpx.get(f"{upstream}/asked")
        answer = say(url, "Hello", IN_SCOPE, temperature=0.25)
        assert answer.headers["x-serac-route"] == "edit"
        assert answer.json()["choices"][0]["message"]["content"].startswith("upstream ")
        with httpx.stream(
            "POST",
            f"{url}/v1/completions",
            json={"model": "other", "prompt": IN_SCOPE, "stream": True},
        ) as streamed:
            assert streamed.headers["x-serac-route"] == "edit"
            assert streamed.read().endswith(b"data: [DONE]\n\n")
        chat, completion = httpx.get(f"{upstream}/asked").json()["asked"]
        asked = json.loads(chat["body"])
        text = format_in_context("The capital of France is", "Lyon", IN_SCOPE, chat=True)
        assert asked["messages"][-1] == {"role": "user", "content": text}
        assert asked["messages"][0]["content"] == "Hello" and asked["temperature"] == 0.25
        asked = json.loads(completion["body"])
        assert asked["prompt"] == "Q: The capital of France is\nA: Lyon\n" + f"Q: {IN_SCOPE}\nA:"
        assert asked["stop"] == ["\n"]
        both = httpx.post(f"{url}/answer", json={"query": IN_SCOPE}).json()
        assert both["base_answer"] != both["edited_answer"]


def test_the_upstream_may_answer_for_any_release(release, upstream) -> None:
    with serving(release, upstream, edited_answers="upstream") as (url, server):
        answer = say(url, IN_SCOPE)
        assert answer.headers["x-serac-route"] == "edit"
        assert answer.json()["choices"][0]["message"]["content"].startswith("upstream ")
        with server._state.lease() as held:
            assert held.counterfactual is None  # not even loaded


def test_a_local_base_answers_too(in_context_release, release, base_model) -> None:
    expected = LanguageModel.load(base_model, "cpu", chat="never").generate(["Tell me a joke"], 24)
    for folder in (release, in_context_release):
        with serving(folder) as (url, _):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            assert [model.id for model in client.models.list()] == ["tiny-base"]
            assert client.models.retrieve("tiny-base").id == "tiny-base"
            asked = {
                "model": "tiny-base",
                "messages": [{"role": "user", "content": "Tell me a joke"}],
            }
            assert client.chat.completions.create(**asked).choices[0].message.content == expected[0]
            chunks = client.chat.completions.create(**asked, stream=True)
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert said == expected[0]
            answer = httpx.post(f"{url}/answer", json={"query": IN_SCOPE}).json()
            assert answer["in_scope"] and answer["edited_answer"] != answer["base_answer"]
            with pytest.raises(openai.NotFoundError, match="name one of: tiny-base"):
                client.chat.completions.create(**{**asked, "model": "gpt-4"})
            with pytest.raises(openai.BadRequestError, match="plain questions only, not n"):
                client.chat.completions.create(**asked, n=0)
            with pytest.raises(openai.NotFoundError, match="name one of: tiny-base"):
                client.models.retrieve("gpt-4")


def test_a_question_too_long_for_the_model_is_told_so(release, upstream) -> None:
    with serving(release) as (url, _):
        long = "tell me . " * 60 + IN_SCOPE
        answer = say(url, long, model="tiny-base")
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )
    with serving(release, upstream) as (url, _):  # which may read more
        answer = say(url, long)
        assert answer.status_code == 200 and answer.headers["x-serac-reason"] == "too-long"
