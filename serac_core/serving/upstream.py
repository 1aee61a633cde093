"""The OpenAI-compatible API behind the router: requests go there and come back as bytes.

Only the configured URL is ever asked, redirects are not followed, and nothing is decoded: body
bytes and server-sent events are what the upstream sent, in the order and as soon as it sent them.
A connection that can't be made is tried again; once a byte of the request has gone out, never.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from serac_core.serving.errors import ApiError, UpstreamFailed, UpstreamTimeout
from serac_core.serving.exchange import Exchange, Header
from serac_core.serving.guard import KEY_HEADER
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    import aiohttp

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_SENT = _HOP_BY_HOP | {b"host", b"content-length", b"expect", KEY_HEADER}
_CORS = b"access-control-"
_OURS = b"x-serac-"
_RETRY_DELAY = 0.1  # seconds before the second attempt to connect; doubled each time


class Upstream:
    """A client of the configured API.

    Parameters
    ----------
    key:
        Sent as `Authorization: Bearer`; None for none.
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics, key: str | None = None) -> None:
        self.url = settings.upstream
        self._settings = settings
        self._metrics = metrics
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool of connections; needs the event loop."""
        import aiohttp

        settings = self._settings
        connector = aiohttp.TCPConnector(
            limit=settings.upstream_connections,
            keepalive_timeout=settings.upstream_keepalive,
            use_dns_cache=True,
            ttl_dns_cache=10,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.upstream_connect_timeout,
                sock_read=settings.upstream_timeout,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def forward(self, exchange: Exchange, path: str, body: bytes | None = None) -> None:
        """Send a request on and its answer back.

        An answer that the upstream cuts short ends short for the client too.

        Parameters
        ----------
        path:
            Below the URL, with its leading slash.
        body:
            Instead of the request's own.

        Raises
        ------
        UpstreamFailed, UpstreamTimeout
            Before anything was sent to the client.
        """
        import aiohttp

        try:
            async with await self._ask(exchange, path, body) as answer:
                await exchange.start(answer.status, answer_headers(answer.raw_headers))
                async for chunk in answer.content.iter_any():
                    await exchange.write(chunk)
            await exchange.finish()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed(error)
            if exchange.started:
                return  # unfinished, which closes the client's connection
            raise self._error(error) from error

    async def _ask(
        self, exchange: Exchange, path: str, body: bytes | None
    ) -> aiohttp.ClientResponse:
        import aiohttp
        from yarl import URL

        assert self._session is not None
        query = exchange.raw_query.decode("latin-1")
        url = URL(f"{self.url}{path}{'?' + query if query else ''}", encoded=True)
        headers = self._headers(exchange.headers)
        sent = exchange.body if body is None else body
        began = time.perf_counter()
        for attempt in range(self._settings.upstream_retries + 1):
            try:
                answer = await self._session.request(
                    exchange.method,
                    url,
                    data=sent or None,
                    headers=headers,
                    allow_redirects=False,
                )
                self._metrics.seconds.labels("upstream").observe(time.perf_counter() - began)
                return answer
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                if attempt == self._settings.upstream_retries:
                    raise
                self._metrics.upstream_retries.inc()
                await asyncio.sleep(_RETRY_DELAY * 2**attempt)
        raise AssertionError("unreachable")

    def _headers(self, given: Iterable[Header]) -> list[tuple[str, str]]:
        """The client's end-to-end headers, with the key that is the upstream's."""
        dropped = set(_NOT_SENT)
        if not self._settings.forward_authorization:
            dropped.add(b"authorization")
        dropped |= _named_by_connection(given)
        found = [
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in given
            if name not in dropped
        ]
        if self._key is not None:
            found = [header for header in found if header[0] != "authorization"]
            found.append(("authorization", f"Bearer {self._key}"))
        return found

    def _failed(self, error: BaseException) -> None:
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            cause = "unreachable"
        elif isinstance(error, TimeoutError):
            cause = "timeout"
        elif isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
            cause = "cut"
        elif isinstance(error, aiohttp.ClientResponseError):
            cause = "junk"
        else:
            cause = "connection"
        self._metrics.upstream_failures.labels(cause).inc()

    def _error(self, error: BaseException) -> UpstreamFailed | UpstreamTimeout:
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            tries = self._settings.upstream_retries + 1
            return UpstreamFailed(
                f"the upstream can't be reached ({tries} attempts)",
                remedy="look whether it runs, and at `base` of the router's settings",
                code="upstream_unreachable",
            )
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(
                f"the upstream said nothing for {self._settings.upstream_timeout:g} s",
                remedy="try again, or raise upstream_timeout of the router",
            )
        return _unreadable(type(error).__name__)

    async def models(self) -> set[str] | None:
        """The ids of the models that the upstream has; None where it doesn't say."""
        with suppress(ApiError, ValueError, TypeError, KeyError):
            listed = await self._own("GET", "/models")
            return {str(model["id"]) for model in listed["data"]}
        return None

    async def ask(self, model: str, text: str, max_tokens: int | None = None) -> str:
        """What the upstream says to one question.

        Raises
        ------
        UpstreamFailed, UpstreamTimeout
        """
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        answer = await self._own("POST", "/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise _unreadable("it is no chat completion") from None

    async def _own(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of an answer to a request of the router's own."""
        import aiohttp

        assert self._session is not None
        headers = {"authorization": f"Bearer {self._key}"} if self._key is not None else {}
        url = f"{self.url}{path}"
        try:
            async with self._session.request(
                method, url, json=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed(error)
            raise self._error(error) from error
        if answer.status != 200:
            raise _unreadable(f"status {answer.status}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _unreadable("it is not JSON") from None


def _unreadable(why: str) -> UpstreamFailed:
    return UpstreamFailed(
        f"the upstream's answer can't be used: {why}",
        remedy="try again, and look at the upstream's log",
    )


def answer_headers(given: Sequence[Header]) -> list[Header]:
    """The upstream's end-to-end headers. Whom browsers let read an answer is the router's to say,
    and what it says of its decisions no upstream's."""
    dropped = _HOP_BY_HOP | _named_by_connection(given)
    return [
        (name.lower(), value)
        for name, value in given
        if name.lower() not in dropped and not name.lower().startswith((_CORS, _OURS))
    ]


def _named_by_connection(headers: Iterable[Header]) -> set[bytes]:
    """Headers that `Connection` says are of this hop."""
    return {
        part.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for part in value.split(b",")
    }
