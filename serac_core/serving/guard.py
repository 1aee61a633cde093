"""What every request passes first: counted, its key checked, its body read and bounded.

One middleware in plain ASGI, around everything. An error of the catalogue becomes its answer here,
anything else a 500 that says nothing of the inside; what it was goes to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serac_core.serving.errors import (
    ApiError,
    Busy,
    Internal,
    SlowRequest,
    TooLarge,
)
from serac_core.serving.exchange import Header
from serac_core.serving.keys import Keys, Role
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import ServingSettings

log = logging.getLogger("serac.serving")

BODY = "serac.body"
"""Where the body lies in the ASGI scope."""
KEY_HEADER = b"x-serac-key"
SECURITY_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


class _Left(Exception):
    """The client left before its request was whole."""


class Guard:
    """The middleware.

    Parameters
    ----------
    role_of:
        What a path and method need: `open`, `query` or `admin`.
    name_of:
        The path as metrics name it: one of few.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        settings: ServingSettings,
        metrics: Metrics,
        role_of: Callable[[str, str], Role],
        name_of: Callable[[str], str],
    ) -> None:
        self._app = app
        self._keys = keys
        self._settings = settings
        self._metrics = metrics
        self._role_of = role_of
        self._name_of = name_of
        self._open = 0
        self._limited = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send, scope["path"])
        self._open += 1
        self._metrics.open_requests.set(self._open)
        try:
            await self._guarded(scope, receive, answer)
        except _Left:
            self._metrics.clients_left.inc()
        except ApiError as error:
            await answer.error(error)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await answer.error(Internal("the server failed", remedy="its log says why"))
        finally:
            self._open -= 1
            self._metrics.open_requests.set(self._open)
            spent = time.perf_counter() - began
            name = self._name_of(scope["path"])
            self._metrics.requests.labels(name, str(answer.status or 0)).inc()
            if name.startswith("/v1/") or name in ("/route", "/explain", "/answer"):
                self._metrics.seconds.labels("request").observe(spent)
            if self._settings.access_log:
                log.info("%s %s %s %.1f ms", scope["method"], name, answer.status, spent * 1000)

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        needed = self._role_of(scope["path"], scope["method"])
        self._keys.require(needed, self._given(scope))
        if needed == "open":  # whoever asks how the server is gets an answer
            await self._pass_on(scope, receive, answer)
            return
        if self._limited >= self._settings.max_requests:
            raise Busy(
                f"{self._settings.max_requests} requests are under way",
                remedy="try again in a moment",
                retry_after=1,
            )
        self._limited += 1
        try:
            await self._pass_on(scope, receive, answer)
        finally:
            self._limited -= 1

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        body = await self._body(scope, receive)
        scope[BODY] = body
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, answer.send)

    def _given(self, scope: Scope) -> str | None:
        """The router's key of a request."""
        bearer = None
        for name, value in scope["headers"]:
            if name == KEY_HEADER:
                return str(value.decode("latin-1"))
            if name == b"authorization":
                kind, _, key = value.decode("latin-1").partition(" ")
                bearer = key.strip() if kind.lower() == "bearer" else value.decode("latin-1")
        return None if self._settings.forward_authorization else bearer or None

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._settings.max_body_bytes
        too_large = TooLarge(
            f"the request is longer than {most} bytes",
            remedy="send less, or raise max_body_bytes of the server",
        )
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > most:
                raise too_large
        message = await self._next(receive)
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > most:
                raise too_large
            return body
        parts, size = [body], len(body)
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while message.get("more_body"):
                    message = await self._next(receive)
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
        except TimeoutError:
            raise SlowRequest(
                f"the request was not whole after {self._settings.body_timeout:g} s",
                remedy="send it faster",
            ) from None
        return b"".join(parts)

    async def _next(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                message = await receive()
        except TimeoutError:
            raise SlowRequest("the request did not come", remedy="send it faster") from None
        if message["type"] == "http.disconnect":
            raise _Left
        return message


class _Answer:
    """Sends on, with the headers that every answer carries, and remembers the status."""

    def __init__(self, send: Send, path: str) -> None:
        self.status: int | None = None
        self._send = send
        self._closing = not path.startswith("/v1/")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._closing:
                held = {name for name, _ in message["headers"]}
                added = [header for header in SECURITY_HEADERS if header[0] not in held]
                message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def error(self, error: ApiError) -> None:
        """Answer with an error, unless an answer has begun: then it ends there, unfinished."""
        if self.status is not None:
            return
        body = error.body()
        headers = [*error.headers(), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
