"""The application: endpoints, who may use them, and how it describes itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serac_core.serving.errors import ApiError, BadRequest, Internal, MethodNotAllowed, NotFound
from serac_core.serving.guard import Guard
from serac_core.serving.keys import Keys, Role
from serac_core.serving.native_api import native_router
from serac_core.serving.openai_api import CHAT, COMPLETIONS, MODELS, OpenAIApi
from serac_core.serving.openapi import openai_paths
from serac_core.serving.page import page_router

if TYPE_CHECKING:
    from serac_core.serving.state import ServerState

_OPEN = frozenset(("/healthz", "/readyz", "/openapi.json", "/"))
_OPEN_BELOW = "/static/"
_NATIVE = frozenset(
    (
        "/route",
        "/explain",
        "/answer",
        "/edits",
        "/release",
        "/release/report",
        "/reload",
        "/metrics",
    )
)
_QUEUE = "/edits/queue/"
_ADMIN = frozenset((("POST", "/edits"), ("POST", "/reload")))


def make_app(state: ServerState, keys: Keys) -> Guard:
    """The server as one ASGI application. The state is opened and closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await state.open()
        try:
            yield
        finally:
            await state.close()

    app = FastAPI(
        title="SERAC router",
        version=version("serac-ops"),
        description="A router in front of a language model: edited facts are answered by the "
        "edit's counterfactual model, everything else goes to the model as it came.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(native_router(state))
    app.include_router(page_router(state))
    app.router.routes.extend(OpenAIApi(state).routes())
    _describe(app)
    app.add_exception_handler(ApiError, _said)
    app.add_exception_handler(HTTPException, _said)
    app.add_exception_handler(RequestValidationError, _said)
    app.add_exception_handler(Exception, _said)
    return Guard(
        app,
        keys=keys,
        settings=state.settings,
        metrics=state.metrics,
        role_of=lambda path, method: role_of(
            path, method, open_metrics=state.settings.open_metrics
        ),
        name_of=name_of,
    )


def role_of(path: str, method: str, *, open_metrics: bool = True) -> Role:
    """What a path and method need. What isn't known needs a client's key, to say no more."""
    if path in _OPEN or path.startswith(_OPEN_BELOW) or (path == "/metrics" and open_metrics):
        return "open"
    if (method, path) in _ADMIN or path.startswith(_QUEUE):
        return "admin"
    return "query"


def name_of(path: str) -> str:
    """The path as metrics name it: one of few, whatever is asked for."""
    if path in _OPEN or path in _NATIVE or path in (CHAT, COMPLETIONS, MODELS):
        return path
    if path.startswith(_QUEUE):
        return _QUEUE + "{id}"
    return "/static" if path.startswith(_OPEN_BELOW) else "other"


def _said(request: Request, error: Exception) -> Response:
    """Any error in OpenAI's format; nothing of the inside."""
    told = _as_api_error(request, error)
    answer = Response(told.body(), told.status)
    answer.raw_headers += told.headers()
    if isinstance(error, HTTPException) and error.headers and "allow" in error.headers:
        answer.headers["allow"] = error.headers["allow"]
    return answer


def _as_api_error(request: Request, error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(request, error)
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return NotFound(
                f"there is no {request.method} {request.url.path}", remedy="see /openapi.json"
            )
        if error.status_code == 405:
            return MethodNotAllowed(
                f"{request.url.path} does not take {request.method}", remedy="see /openapi.json"
            )
        return BadRequest(str(error.detail), remedy="see /openapi.json")
    return Internal("the server failed", remedy="its log says why")


def _invalid(request: Request, error: RequestValidationError) -> BadRequest:
    """What is wrong with a request to a native endpoint, field by field."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and not kind.endswith("json"):
        return BadRequest(
            f"the content type is {kind or 'missing'}, not application/json",
            remedy="send `Content-Type: application/json` with a JSON object",
            param="the body",
        )
    told, fields = [], []
    for found in error.errors():
        where = ".".join(str(part) for part in found["loc"][1:]) or "the body"
        unknown = found["type"] == "extra_forbidden"
        told.append(f"{where}: {'unknown field' if unknown else found['msg']}")
        fields.append(where)
    return BadRequest(
        "; ".join(told),
        remedy="see the fields and examples in /openapi.json",
        param=fields[0] if fields else None,
    )


def _describe(app: FastAPI) -> None:
    """Put the OpenAI endpoints into the schema, and what every endpoint may answer."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schema["paths"] = {**openai_paths(), **schema["paths"]}
            parts = schema.setdefault("components", {})
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, methods in schema["paths"].items():
                for method, described in methods.items():
                    described["responses"].pop("422", None)
                    if role_of(path, method.upper()) != "open":
                        described["security"] = [{"key": []}]
            for name in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
