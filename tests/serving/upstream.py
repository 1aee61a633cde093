"""A real OpenAI-compatible upstream in a process of its own: what it answers depends on what it is
asked, and on nothing else.

    python upstream.py PORT_FILE

Faults are asked for in the model's name: `slow`, `junk`, `cut`, `cut-stream`, `silent`,
`redirect`, `status-NNN`.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import sys
from pathlib import Path

import uvicorn

MODELS = ["tiny-chat", "tiny-chat:latest", "other"]


async def read(receive):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


class Upstream:
    """The application; it counts what it was asked, and which requests were left."""

    def __init__(self):
        self.asked = []
        self.left = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = await read(receive)
        path = scope["path"]
        if path == "/v1/models":
            data = [{"id": name, "object": "model"} for name in MODELS]
            await self.say(send, {"object": "list", "data": data})
            return
        if path == "/asked":
            await self.say(send, {"asked": self.asked, "left": self.left})
            self.asked = []
            return
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        digest = hashlib.sha256(body).hexdigest()
        self.asked.append(
            {"path": path, "query": scope["query_string"].decode(), "headers": headers,
             "body": body.decode("latin-1")}
        )  # fmt: skip
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError
        except ValueError:
            await self.say(send, {"error": {"message": "not JSON"}}, 400)
            return
        try:
            await self.answer(path, asked, digest, scope, receive, send)
        except asyncio.CancelledError:
            self.left += 1
            raise

    async def answer(self, path, asked, digest, scope, receive, send):
        model = str(asked.get("model"))
        if model.startswith("status-"):
            await self.say(send, {"error": {"message": "as asked"}}, int(model[7:]))
        elif model == "silent":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
        elif model == "slow":
            await asyncio.sleep(0.3)
            await self.say(send, {"slow": digest})
        elif model == "junk":
            await self.start(send, b"application/json")
            await send({"type": "http.response.body", "body": b"\xff\x00<<junk"})
        elif model == "redirect":
            headers = [(b"location", b"http://169.254.169.254/latest/meta-data")]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif model == "cut":
            await self.start(send, b"application/json", [(b"content-length", b"1000")])
            await send({"type": "http.response.body", "body": b'{"cut', "more_body": True})
        elif asked.get("stream") is True:
            await self.stream(asked, digest, send, receive, cut=model == "cut-stream")
        else:
            await self.whole(path, asked, digest, scope, send)

    async def whole(self, path, asked, digest, scope, send):
        said = {"id": digest[:12], "object": path.rpartition("/")[2], "model": asked.get("model")}
        if path.endswith("embeddings"):
            said["data"] = [{"embedding": [0.5, 0.25], "index": 0}]
        elif asked.get("tools"):
            call = {"name": "look_up", "arguments": json.dumps({"of": digest[:4]})}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call-1", "type": "function", "function": call}],
            }
            said["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
        else:
            text = f"upstream {digest[:16]} é"
            said["choices"] = [
                {"index": n, "finish_reason": "stop"}
                | (
                    {"message": {"role": "assistant", "content": text}}
                    if "chat" in path
                    else {"text": text}
                )
                for n in range(asked.get("n") or 1)
            ]
        content = json.dumps(said, ensure_ascii=False, indent=int(digest[0], 16) % 3 or None)
        packed = content.encode()
        extra = [
            (b"x-request-id", digest[:8].encode()),
            (b"openai-processing-ms", b"7"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
        ]
        if dict(scope["headers"]).get(b"accept-encoding", b"").startswith(b"gzip"):
            packed = gzip.compress(packed, mtime=0)
            extra.append((b"content-encoding", b"gzip"))
        if int(digest[1], 16) % 2:  # chunked, or of a known length
            extra.append((b"content-length", str(len(packed)).encode()))
        await self.start(send, b"application/json", extra)
        half = len(packed) // 2
        await send({"type": "http.response.body", "body": packed[:half], "more_body": True})
        await send({"type": "http.response.body", "body": packed[half:]})

    async def stream(self, asked, digest, send, receive, *, cut):
        await self.start(send, b"text/event-stream", [(b"x-request-id", digest[:8].encode())])
        events = [b": keep-alive comment\n\n"]
        for n in range(1 + int(digest[2], 16) % 6):
            piece = f"{digest[n : n + 4]} \U0001f600"
            choice = {"index": 0, "delta": {"content": piece}, "text": piece, "finish_reason": None}
            event = {"id": digest[:12], "choices": [choice]}
            end = b"\r\n\r\n" if n % 2 else b"\n\n"
            events.append(b"data: " + json.dumps(event, ensure_ascii=False).encode() + end)
        events.append(b'data: {"id": "x", "choices": [], "usage": {"total_tokens": 3}}\n\n')
        events.append(b"data: [DONE]\n\n")
        for n, event in enumerate(events):
            if cut and n == 2:
                return  # which closes the connection
            middle = len(event) // 2  # an event in two pieces, so that a character may be split
            await send({"type": "http.response.body", "body": event[:middle], "more_body": True})
            await asyncio.sleep(float(asked.get("delay", 0)))
            await send({"type": "http.response.body", "body": event[middle:], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    async def start(send, kind, extra=()):
        headers = [(b"content-type", kind), *extra]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    @staticmethod
    async def say(send, content, status=200):
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        Path(sys.argv[1]).write_text(str(port))


if __name__ == "__main__":
    config = uvicorn.Config(
        Upstream(), port=int((sys.argv[2:] or ["0"])[0]), log_level="critical", timeout_keep_alive=5
    )
    Announcing(config).run()
