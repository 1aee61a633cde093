"""Answers of local models in OpenAI's formats: whole, or as server-sent events."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serac_core.serving.request import ModelRequest

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Said:
    """What a local model said.

    Attributes
    ----------
    cut:
        Whether it may have had more to say.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False


def stopped(said: Said, request: ModelRequest) -> Said:
    """The answer up to the first of the client's stop texts."""
    ends = [at for stop in request.stop if (at := said.text.find(stop)) >= 0]
    if not ends:
        return said
    return Said(said.text[: min(ends)], said.prompt_tokens, said.completion_tokens)


def whole(request: ModelRequest, said: Said) -> bytes:
    """One JSON answer; several choices are one answer, which is the model's best, repeated."""
    choices = [
        _choice(request, place, said.text, _finish(said)) for place in range(request.choices)
    ]
    answer = {
        **_head(request, "chat.completion" if request.chat else "text_completion"),
        "choices": choices,
        "usage": _usage(request, said),
    }
    return json.dumps(answer).encode()


def events(request: ModelRequest, said: Said) -> Iterator[bytes]:
    """The same in pieces, as a client that streams expects them."""
    head = _head(request, "chat.completion.chunk" if request.chat else "text_completion")
    if request.include_usage:
        head["usage"] = None
    places = range(request.choices)
    if request.chat:
        for place in places:
            yield _event(head, [_delta(place, {"role": "assistant", "content": ""}, None)])
    for piece in _PIECE.findall(said.text):
        for place in places:
            yield _event(
                head,
                [
                    _delta(place, {"content": piece}, None)
                    if request.chat
                    else _completion(place, piece, None)
                ],
            )
    for place in places:
        end = _finish(said)
        yield _event(
            head, [_delta(place, {}, end) if request.chat else _completion(place, "", end)]
        )
    if request.include_usage:
        yield _event({**head, "usage": _usage(request, said)}, [])
    yield DONE


def _head(request: ModelRequest, kind: str) -> dict[str, Any]:
    return {
        "id": ("chatcmpl-" if request.chat else "cmpl-") + uuid.uuid4().hex,
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "system_fingerprint": None,
    }


def _choice(request: ModelRequest, place: int, text: str, finish: str) -> dict[str, Any]:
    if not request.chat:
        return _completion(place, text, finish)
    return {
        "index": place,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": finish,
    }


def _completion(place: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": place, "text": text, "logprobs": None, "finish_reason": finish}


def _delta(place: int, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": place, "delta": delta, "logprobs": None, "finish_reason": finish}


def _finish(said: Said) -> str:
    return "length" if said.cut else "stop"


def _usage(request: ModelRequest, said: Said) -> dict[str, int]:
    made = said.completion_tokens * request.choices
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": said.prompt_tokens + made,
    }


def _event(head: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return b"data: " + json.dumps({**head, "choices": choices}).encode() + b"\n\n"
