"""What a request to the OpenAI endpoints asks, and whether an edit could answer it.

An edit answers a plain question with a few plain words. A request that wants something else is not
routed and goes to the base as it is: what it wants instead is the reason in `x-serac-reason`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serac_core.serving.errors import BadRequest

# What has no meaning for an answer read from an edit: field, the values that ask for nothing, and
# the reason that any other gives.
_NOT_ANSWERED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("logprobs", (None, False), "logprobs"),
    ("modalities", (None, ["text"]), "modalities"),
    ("audio", (None,), "modalities"),
    ("echo", (None, False), "echo"),
    ("suffix", (None, ""), "suffix"),
    ("best_of", (None, 1), "best-of"),
    ("web_search_options", (None,), "tools"),
)
_MOST_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat, as far as it is text: `text` is None for anything else."""

    role: str
    text: str | None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to `/v1/chat/completions` or `/v1/completions`.

    Attributes
    ----------
    turns:
        The conversation; of a completion, its prompt as one user's turn. Empty where `unrouted`
        says why the scope is not decided.
    data:
        The whole request.
    max_tokens:
        That the client allows; None for no bound.
    """

    chat: bool
    data: Mapping[str, Any]
    model: str
    turns: tuple[Turn, ...]
    unrouted: str | None
    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int | None
    stop: tuple[str, ...]


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a request's body is.

    Raises
    ------
    BadRequest
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(
            f"the body is not JSON: {what}",
            remedy="send one JSON object in UTF-8",
            code="invalid_json",
        ) from None
    if not isinstance(data, dict):
        raise BadRequest(
            f"the body is {_kind(data)}, not a JSON object", remedy='send {"model": ..., ...}'
        )
    return data


def read_request(body: bytes, *, chat: bool) -> ModelRequest:
    """Read a request as far as the router needs to; what else is in it is the upstream's matter.

    Raises
    ------
    BadRequest
        No JSON object, or `model`, `messages` or `prompt` is missing or of another type.
    """
    data = read_json(body)
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise _missing("model", data, "a model's name, see GET /v1/models")
    turns = _turns(data) if chat else _prompt(data)
    reason = _unrouted(data) or (turns if isinstance(turns, str) else None)
    options = data.get("stream_options")
    return ModelRequest(
        chat=chat,
        data=data,
        model=model,
        turns=() if isinstance(turns, str) else turns,
        unrouted=reason,
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=_count(data.get("n")) or 1,
        max_tokens=_count(data.get("max_completion_tokens")) or _count(data.get("max_tokens")),
        stop=_stops(data.get("stop")),
    )


def _turns(data: Mapping[str, Any]) -> tuple[Turn, ...] | str:
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _missing("messages", data, 'a list such as [{"role": "user", "content": "..."}]')
    turns = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(
                f"messages[{place}] is no message with a role",
                remedy='write {"role": "user", "content": "..."}',
                param=f"messages[{place}]",
            )
        turns.append(Turn(message["role"], _text(message.get("content"))))
    last = turns[-1]
    if last.role != "user":
        return "no-user-turn"
    if last.text is None:
        return "not-text"
    return tuple(turns)


def _prompt(data: Mapping[str, Any]) -> tuple[Turn, ...] | str:
    prompt = data.get("prompt")
    if isinstance(prompt, str):
        return (Turn("user", prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise _missing("prompt", data, "a text, or a list of texts")
    if not isinstance(prompt[0], str):
        return "not-text"
    return (Turn("user", prompt[0]),) if len(prompt) == 1 else "several-prompts"


def _text(content: object) -> str | None:
    """A message's content where it is text alone, in one piece or in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in content
    ]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def _unrouted(data: Mapping[str, Any]) -> str | None:
    """Why an edit could not answer this, whatever is asked."""
    if (data.get("tools") or data.get("functions")) and data.get("tool_choice") != "none":
        return "tools"
    shape = data.get("response_format")
    if shape is not None and not (isinstance(shape, dict) and shape.get("type") == "text"):
        return "response-format"
    for name, nothing, reason in _NOT_ANSWERED:
        value = data.get(name)
        if not any(type(value) is type(one) and value == one for one in nothing):
            return reason
    choices = data.get("n")
    if choices is not None and not (_count(choices) and choices <= _MOST_CHOICES):
        return "n"  # the upstream says what is wrong with it
    return None


def _count(value: object) -> int | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if right else None  # type: ignore[return-value]


def _stops(value: object) -> tuple[str, ...]:
    found: Sequence[object] = (
        [value] if isinstance(value, str) else value if isinstance(value, list) else []
    )
    return tuple(stop for stop in found if isinstance(stop, str) and stop)


def _missing(name: str, data: Mapping[str, Any], allowed: str) -> BadRequest:
    found = f"is {_kind(data[name])}" if name in data else "is missing"
    return BadRequest(
        f"`{name}` {found}", remedy=f"give {allowed}", param=name, code="missing_" + name
    )


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "an empty text" if not value else "a text"
        case list():
            return "an empty list" if not value else "a list"
        case _:
            return "an object"
