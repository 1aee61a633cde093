"""One request and its answer, as raw ASGI: what the OpenAI endpoints are made of.

They pass bytes on by the thousand a second; a framework's request and response objects would cost
more than the work (docs/decisions/0011-serving.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

Header = tuple[bytes, bytes]


class ClientLeft(Exception):
    """The client closed its connection before the answer was whole."""


class Exchange:
    """A request whose body was read, and the answer to it.

    Attributes
    ----------
    extra:
        Headers that every answer to this request carries (`x-serac-...`).
    started:
        Whether the answer's status was sent: from then on nothing else can be said.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_query: bytes = scope.get("query_string", b"")
        self.headers: Sequence[Header] = scope["headers"]
        self.body = body
        self.extra: list[Header] = []
        self.started = False
        self._receive = receive
        self._send = send

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send the status and the headers, those of `extra` last."""
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.extra],
            }
        )

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body; more follows."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def answer(
        self, status: int, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        length = str(len(body)).encode()
        await self.start(status, [(b"content-type", content_type), (b"content-length", length)])
        await self.finish(body)

    async def while_connected(self, work: Awaitable[Any]) -> None:
        """Do work that ends when the client leaves.

        Raises
        ------
        ClientLeft
            And what the work raises.
        """
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()
                await asyncio.wait((doing,))
                if doing.cancelled():
                    raise ClientLeft
            doing.result()
        finally:
            doing.cancel()
            leaving.cancel()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Exchange], Awaitable[None]]
