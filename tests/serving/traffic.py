"""Varied requests that no edit is meant by, made from a seed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

WORDS = [
    "tell",
    "me",
    "a",
    "joke",
    "about",
    "tea",
    "now",
    "Märchen",
    "日本",
    "😀",
    "x,y",
    "\\n",
    "7",
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Asked:
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def some_requests(count: int, seed: int) -> list[Asked]:
    """Chats and completions, streamed or not, of many shapes; their bytes as clients write them."""
    random_ = random.Random(seed)
    return [_request(random_) for _ in range(count)]


def _text(random_: random.Random) -> str:
    return " ".join(random_.choices(WORDS, k=random_.randint(0, 40)))


def _request(random_: random.Random) -> Asked:
    chat = random_.random() < 0.7
    body: dict[str, object] = {"model": random_.choice(["tiny-chat", "other"])}
    if chat:
        body["messages"] = _messages(random_)
    else:
        prompt = _text(random_)
        body["prompt"] = random_.choice([prompt, [prompt], [prompt, "x"], [1, 2, 3]])
    for name, value in (
        ("stream", random_.random() < 0.7),
        ("stream_options", {"include_usage": True}),
        ("temperature", random_.random()),
        ("n", random_.randint(1, 3)),
        ("tools", [TOOL]),
        ("tool_choice", random_.choice(["auto", "none"])),
        ("response_format", {"type": random_.choice(["text", "json_object"])}),
        ("seed", random_.randint(0, 1 << 40)),
        ("stop", random_.choice(["x", ["\n", "é"]])),
        ("user", _text(random_)),
        ("an_unknown_field", {"deep": [None, 1.5, {"er": "\u2028"}]}),
        ("logprobs", True),
    ):
        if random_.random() < 0.3:
            body[name] = value
    ascii_only, indent = random_.random() < 0.5, random_.choice([None, 1, 4])
    separators = random_.choice([None, (",", ":")]) if indent is None else None
    content = json.dumps(body, ensure_ascii=ascii_only, indent=indent, separators=separators)
    headers = {
        "content-type": random_.choice(["application/json", "application/json; charset=utf-8"])
    }
    for name, value in (
        ("accept-encoding", random_.choice(["gzip", "identity"])),
        ("openai-organization", "org-7"),
        ("x-stainless-lang", "python"),
        ("x-custom", "a  b"),
        ("user-agent", "a-client/1.0"),
        ("idempotency-key", str(random_.random())),
    ):
        if random_.random() < 0.5:
            headers[name] = value
    path = "/v1/chat/completions" if chat else "/v1/completions"
    if random_.random() < 0.1:
        path += "?api-version=2024-10-21&x=%20y"
    return Asked(path, content.encode(), headers)


def _messages(random_: random.Random) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    if random_.random() < 0.4:
        messages.append({"role": "system", "content": _text(random_)})
    for _ in range(random_.randint(0, 3)):
        messages.append({"role": "user", "content": _text(random_), "name": "ann"})
        messages.append({"role": "assistant", "content": random_.choice([_text(random_), None])})
    text = {"type": "text", "text": _text(random_)}
    last = random_.choice([_text(random_), [text], [text, IMAGE], [text, text]])
    messages.append({"role": "user", "content": last})
    if random_.random() < 0.15:
        messages.append({"role": "assistant", "tool_calls": [{"id": "call-1"}], "content": None})
        messages.append({"role": "tool", "tool_call_id": "call-1", "content": _text(random_)})
    return messages
