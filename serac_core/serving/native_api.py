"""The router's own endpoints: decisions, explanations, answers side by side, edits, the release."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response

from serac_core.edits.record import Edit
from serac_core.release.manifest import MANIFEST, file_sha256
from serac_core.serving.errors import BadRequest, NotFound
from serac_core.serving.inbox import Inbox, Queued
from serac_core.serving.native_models import (
    AnswerAnswer,
    AnswerRequest,
    EditsAnswer,
    EditsQuery,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    Health,
    QueueAnswer,
    QueueRequest,
    ReleaseAnswer,
    ReloadAnswer,
    RouteAnswer,
    RouteRequest,
)

if TYPE_CHECKING:
    from serac_core.serving.served import ServedRelease
    from serac_core.serving.state import ServerState

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": said}
    for status, said in {
        400: "The request is wrong; the message says where.",
        401: "No key, or none that is known.",
        408: "The request did not come in time.",
        413: "The request is too long.",
        429: "More is asked than can wait; see Retry-After.",
        503: "No release, or the scope can't be decided.",
    }.items()
}
_ADMIN = {**_ERRORS, 403: {"model": ErrorAnswer, "description": "The key is no admin key."}}
_UPSTREAM: dict[int | str, dict[str, Any]] = {
    502: {"model": ErrorAnswer, "description": "The upstream failed."},
    504: {"model": ErrorAnswer, "description": "No answer in time."},
}


def native_router(state: ServerState) -> APIRouter:
    """The endpoints, for the application to include."""
    router = APIRouter()
    inbox = Inbox(state.settings.checkout, state.settings.inbox)

    @router.post("/route", response_model=RouteAnswer, responses=_ERRORS, tags=["decisions"])
    async def route(request: RouteRequest) -> Response:
        """Where queries go: to which edit, if any, with which score."""
        queries = request.queries if request.queries is not None else [request.query or ""]
        if len(queries) > state.settings.max_queries:
            raise BadRequest(
                f"{len(queries)} queries in one request; allowed are {state.settings.max_queries}",
                remedy="send them in several",
                param="queries",
            )
        with state.lease() as release:
            decisions = await state.deciding.decide(release, queries)
            state.record("route", release, decisions)
            found = [decision.as_dict() for decision in decisions]
            return _json({"release": release.name, "decisions": found})

    @router.post("/explain", response_model=ExplainAnswer, responses=_ERRORS, tags=["decisions"])
    async def explain(request: ExplainRequest) -> Response:
        """Why a query goes where it goes: the nearest edits, scores, threshold, reason."""
        with state.lease() as release:
            found = await state.deciding.explain(release, request.query, request.k)
            return _json({"release": release.name, **found.as_dict()})

    @router.post(
        "/answer", response_model=AnswerAnswer, responses=_ERRORS | _UPSTREAM, tags=["answers"]
    )
    async def answer(request: AnswerRequest) -> Response:
        """The base's answer beside the edited model's."""
        with state.lease() as release:
            (decision,) = await state.deciding.decide(release, [request.query])
            state.record("answer", release, [decision])
            answers = [_base_answer(state, request)]
            if decision.in_scope:
                edit = state.edit_of(release, decision)
                answers.append(_edited_answer(state, release, edit, request))
            said = await _all_of(answers)
        return _json(
            {
                "release": release.name,
                **decision.as_dict(),
                "base_answer": said[0],
                "edited_answer": said[-1],
            }
        )

    @router.get("/edits", response_model=EditsAnswer, responses=_ERRORS, tags=["edits"])
    async def edits(query: Annotated[EditsQuery, Query()]) -> Response:
        """The live edits, newest first, searched and page by page."""
        with state.lease() as release:
            found = await asyncio.to_thread(_search, list(release.edits.values()), query.search)
            page = found[query.offset : query.offset + query.limit]
            return _json(
                {
                    "release": release.name,
                    "total": len(found),
                    "offset": query.offset,
                    "edits": [edit.model_dump(mode="json") for edit in page],
                }
            )

    @router.get("/release", response_model=ReleaseAnswer, responses=_ERRORS, tags=["release"])
    async def release_() -> Response:
        """The release that answers, and what its report says."""
        with state.lease() as release:
            described = await asyncio.to_thread(_described, release)
        following = state.follower.status().as_dict() if state.follower is not None else None
        return _json({**described, "following": following})

    @router.post(
        "/edits", status_code=202, response_model=QueueAnswer, responses=_ADMIN, tags=["edits"]
    )
    async def queue(request: QueueRequest) -> Response:
        """Queue an edit for the next update, which makes it live, versioned and gated."""
        with state.lease() as release:
            found = await asyncio.to_thread(inbox.queue, request.edit, release.edits)
        return _queued(found, 202)

    @router.get(
        "/edits/queue/{queue_id}",
        response_model=QueueAnswer,
        responses=_ADMIN | {404: {"model": ErrorAnswer, "description": "No such id."}},
        tags=["edits"],
    )
    async def follow(queue_id: str) -> Response:
        """What became of a queued edit."""
        with state.lease() as release:
            found = await asyncio.to_thread(inbox.follow, queue_id, release.edits)
        return _queued(found, 200)

    @router.post(
        "/reload",
        response_model=ReloadAnswer,
        responses=_ADMIN | {404: {"model": ErrorAnswer, "description": "Nothing to look at."}},
        tags=["release"],
    )
    async def reload() -> Response:
        """Look for another release now; it serves if it is whole and routes its own edits."""
        if state.follower is None:
            raise NotFound("there is nowhere to look for a release", remedy="serve with --stage")
        found = await asyncio.to_thread(state.follower.reload_now)
        return _json(found.as_dict())

    @router.get("/healthz", response_model=Health, tags=["operation"])
    async def healthz() -> Response:
        """Whether the server lives."""
        return _json({"status": "ok", "release": state.holder.release_name})

    @router.get(
        "/readyz",
        response_model=Health,
        responses={503: {"model": Health, "description": "Send requests elsewhere."}},
        tags=["operation"],
    )
    async def readyz() -> Response:
        """Whether requests should be sent here."""
        status = "ready" if state.is_ready else "draining" if state.draining else "no release"
        told = {"status": status, "release": state.holder.release_name}
        return _json(told, 200 if state.is_ready else 503)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["operation"],
    )
    async def metrics() -> Response:
        """For Prometheus."""
        text = await asyncio.to_thread(state.metrics_text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _all_of(answers: list[Any]) -> list[str]:
    """All of some answers, asked for at once; none is left running where one fails."""
    said = await asyncio.gather(*answers, return_exceptions=True)
    if failed := [one for one in said if isinstance(one, BaseException)]:
        raise failed[0]
    return [one for one in said if isinstance(one, str)]


async def _base_answer(state: ServerState, request: AnswerRequest) -> str:
    if state.upstream is None:
        tokens = state.answering.longest(request.max_tokens)
        return (await state.answering.from_base(request.query, tokens)).text
    return await _ask_upstream(state, request, request.query)


async def _edited_answer(
    state: ServerState, release: ServedRelease, edit: Edit, request: AnswerRequest
) -> str:
    if not state.answers_by_upstream(release):
        tokens = state.answering.longest(request.max_tokens)
        return (await state.answering.from_edit(release, edit, request.query, tokens)).text
    from serac_core.counterfactual.model import format_in_context

    text = format_in_context(edit.prompt, edit.target_new, request.query, chat=True)
    return await _ask_upstream(state, request, text)


async def _ask_upstream(state: ServerState, request: AnswerRequest, text: str) -> str:
    assert state.upstream is not None
    model = request.model or await state.any_model()
    return await state.upstream.ask(model, text, request.max_tokens)


def _search(edits: list[Edit], wanted: str) -> list[Edit]:
    wanted = wanted.casefold()
    newest_first = reversed(edits)
    if not wanted:
        return list(newest_first)
    return [
        edit
        for edit in newest_first
        if any(
            wanted in (part or "").casefold()
            for part in (edit.id, edit.prompt, edit.subject, edit.target_new)
        )
    ]


def _described(release: ServedRelease) -> dict[str, Any]:
    report = release.folder / "report"
    return {
        "release": release.name,
        "edits": len(release.edits),
        "variant": release.variant,
        "provider": release.provider,
        "base_model": release.manifest["base_model"],
        "manifest_sha256": file_sha256(release.folder / MANIFEST),
        "metrics": _metrics(report / "metrics.json"),
        "live_metrics": _metrics(report / "live" / "metrics.json"),
    }


def _metrics(path: Any) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _queued(found: Queued, status: int) -> Response:
    follow = f"/edits/queue/{found.id}"
    answer = _json({**asdict(found), "follow": follow}, status)
    if status == 202:
        answer.headers["location"] = follow
    return answer


def _json(content: object, status: int = 200) -> Response:
    """JSON in ASCII: what UTF-8 can't hold is escaped."""
    return Response(json.dumps(content).encode(), status, media_type="application/json")
