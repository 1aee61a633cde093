"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`: what existing clients talk to."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serac_core.serving.completions import EVENT_STREAM, Said, events, stopped, whole
from serac_core.serving.errors import ApiError, BadRequest, NotFound, TooLong, Unavailable
from serac_core.serving.exchange import ClientLeft, Exchange, Handler, Header
from serac_core.serving.guard import BODY
from serac_core.serving.request import ModelRequest, read_request
from serac_core.serving.turns import question_of

if TYPE_CHECKING:
    from serac_core.edits.record import Edit
    from serac_core.scope.router import Decision
    from serac_core.serving.state import ServerState

log = logging.getLogger("serac.serving")

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"


class OpenAIApi:
    """The endpoints, as raw ASGI routes."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """For the router of the application."""
        settings = self._state.settings
        found = [
            Route(CHAT, _Endpoint(self, self._chat), methods=["POST"]),
            Route(COMPLETIONS, _Endpoint(self, self._completions), methods=["POST"]),
            Route(MODELS, _Endpoint(self, self._models), methods=["GET"]),
            Route(MODELS + "/{model:path}", _Endpoint(self, self._models), methods=["GET"]),
        ]
        if settings.upstream:
            found += [
                Route("/v1/" + path.strip("/"), _Endpoint(self, self._forward))
                for path in settings.forward_paths
            ]
        return found

    async def _chat(self, exchange: Exchange) -> None:
        await self._ask(exchange, read_request(exchange.body, chat=True), "chat")

    async def _completions(self, exchange: Exchange) -> None:
        await self._ask(exchange, read_request(exchange.body, chat=False), "completions")

    async def _ask(self, exchange: Exchange, request: ModelRequest, endpoint: str) -> None:
        state = self._state
        if state.answering.base is not None and request.model not in state.model_names():
            raise _unknown_model(request.model, state.model_names())
        reason = "routing-off" if state.settings.routing == "off" else request.unrouted
        if reason is None:
            try:
                if await self._routed(exchange, request, endpoint):
                    return
            except Unavailable as error:
                if error.code == "no_release":
                    done = state.settings.on_router_failure
                    state.metrics.router_failures.labels("no-release", done).inc()
                if state.settings.on_router_failure == "closed":
                    raise
                reason = "router-failed"
        if reason is not None:
            self._unrouted(exchange, reason)
        await self._from_base(exchange, request)

    def _unrouted(self, exchange: Exchange, reason: str) -> None:
        """Say why the base answers although no scope was decided, or against it."""
        self._state.metrics.decisions.labels("unrouted", "").inc()
        exchange.extra = [(b"x-serac-route", b"unrouted"), (b"x-serac-reason", reason.encode())]

    async def _routed(self, exchange: Exchange, request: ModelRequest, endpoint: str) -> bool:
        """Answer from the edit that the question meets; False where it meets none."""
        state = self._state
        with state.lease() as release:
            question = question_of(request.turns, release.router.memory.subjects)
            (decision,) = await state.deciding.decide(release, [question])
            state.record(endpoint, release, [decision])
            exchange.extra = decision_headers(decision, release.name)
            if not decision.in_scope:
                return False  # the lease ends here: the base may talk for minutes
            edit = state.edit_of(release, decision)
            if state.answers_by_upstream(release):
                await self._in_context(exchange, request, edit, question)
                return True
            if state.upstream is not None and not await state.knows_model(request.model):
                self._unrouted(exchange, "unknown-model")
                return False
            tokens = state.answering.longest(request.max_tokens)
            try:
                said = await state.answering.from_edit(release, edit, question, tokens)
            except TooLong:
                if state.upstream is None:
                    raise
                self._unrouted(exchange, "too-long")
                return False
        await _say(exchange, request, stopped(said, request))
        return True

    async def _in_context(
        self, exchange: Exchange, request: ModelRequest, edit: Edit, question: str
    ) -> None:
        """The upstream's answer to the question with the edit before it; all else as it was."""
        from serac_core.counterfactual.model import format_in_context

        state = self._state
        text = format_in_context(edit.prompt, edit.target_new, question, chat=request.chat)
        body: dict[str, Any] = dict(request.data)
        if request.chat:
            messages = list(body["messages"])
            messages[-1] = {**messages[-1], "content": text}
            body["messages"] = messages
        else:
            body["prompt"] = text
            body["stop"] = body.get("stop") or ["\n"]
        assert state.upstream is not None
        path = exchange.path.removeprefix("/v1")
        await state.upstream.forward(exchange, path, json.dumps(body).encode())

    async def _from_base(self, exchange: Exchange, request: ModelRequest) -> None:
        state = self._state
        if state.upstream is not None:
            await self._forward(exchange)
            return
        if request.unrouted is not None:
            raise BadRequest(
                f"a local base model answers plain questions only, not {request.unrouted}",
                remedy="leave it out, or serve with an OpenAI-compatible upstream as base",
                code="unsupported",
            )
        tokens = state.answering.longest(request.max_tokens)
        said = await state.answering.from_base(request.turns[-1].text or "", tokens)
        await _say(exchange, request, stopped(said, request))

    async def _models(self, exchange: Exchange) -> None:
        state = self._state
        if state.upstream is not None:
            await self._forward(exchange)
            return
        names = state.model_names()
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "serac"} for name in names
        ]
        asked = exchange.path.removeprefix(MODELS).strip("/")
        if not asked:
            body: dict[str, Any] = {"object": "list", "data": listed}
        elif asked in names:
            body = listed[names.index(asked)]
        else:
            raise _unknown_model(asked, names)
        await exchange.answer(200, json.dumps(body).encode())

    async def _forward(self, exchange: Exchange) -> None:
        assert self._state.upstream is not None
        await self._state.upstream.forward(exchange, exchange.path.removeprefix("/v1"))


class _Endpoint:
    """A raw ASGI application for one route."""

    def __init__(self, api: OpenAIApi, handler: Handler) -> None:
        self._metrics = api._state.metrics
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the body, which the guard has read
        exchange = Exchange(scope, receive, send, scope[BODY])
        try:
            await exchange.while_connected(self._handler(exchange))
        except ClientLeft:
            self._metrics.clients_left.inc()
        except ApiError as error:
            if not exchange.started:
                await exchange.start(error.status, error.headers())
                await exchange.finish(error.body())


async def _say(exchange: Exchange, request: ModelRequest, said: Said) -> None:
    if not request.stream:
        await exchange.answer(200, whole(request, said))
        return
    await exchange.start(200, [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")])
    for event in events(request, said):
        await exchange.write(event)
    await exchange.finish()


def decision_headers(decision: Decision, release: str) -> list[Header]:
    """Where a query went, for the client to see."""
    found = [
        (b"x-serac-route", b"edit" if decision.in_scope else b"base"),
        (b"x-serac-score", f"{decision.score:.6f}".encode()),
        (b"x-serac-threshold", f"{decision.threshold:.6f}".encode()),
        (b"x-serac-release", _header(release)),
    ]
    if decision.edit_id is not None:
        found.append((b"x-serac-edit-id", _header(decision.edit_id)))
    return found


def _header(text: str) -> bytes:
    """Text that a header can hold: what isn't plain is percent-encoded."""
    return quote(text.encode("utf-8", "replace"), safe="!#$&'()*+,/:;=?@[]|~").encode()


def _unknown_model(name: str, known: list[str]) -> NotFound:
    return NotFound(
        f"the model {name!r} is not served here",
        remedy=f"name one of: {', '.join(known)}",
        param="model",
        code="model_not_found",
    )
