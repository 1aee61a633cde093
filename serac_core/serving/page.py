"""The page for people: ask, compare both answers, see why, browse the edits.

Plain files, no build step, nothing from elsewhere, no inline script or style: it works under the
strictest content security policy.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from serac_core.serving.errors import NotFound

if TYPE_CHECKING:
    from serac_core.serving.state import ServerState

_INDEX = "index.html"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ASSETS = ("app.js", "chart.js", "icon.svg", "style.css")
# The report has its style and pictures in itself, and no script.
_REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)


def page_router(state: ServerState) -> APIRouter:
    """`GET /` and its assets below `/static/`, read once, and the release's own report."""
    router = APIRouter(include_in_schema=False)
    for name in (_INDEX, *_ASSETS):
        path = "/" if name == _INDEX else f"/static/{name}"
        router.add_api_route(path, _served(name), methods=["GET", "HEAD"])

    @router.get("/release/report")
    async def report() -> Response:
        """The report of the release that answers, as a page of its own."""
        with state.lease() as release:
            path = release.folder / "report" / "report.html"
            if not path.is_file():
                raise NotFound(f"{release.name} has no report", remedy="see GET /release")
            content = await asyncio.to_thread(path.read_bytes)
        headers = {"content-security-policy": _REPORT_POLICY}
        return Response(content, media_type=_TYPES["html"], headers=headers)

    return router


def _served(name: str) -> _Asset:
    content = (files("serac_core.serving") / "page" / name).read_bytes()
    return _Asset(content, _TYPES[name.rsplit(".", 1)[1]])


class _Asset:
    """A file as an endpoint; browsers ask each time whether theirs is still right."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def __call__(self, request: Request) -> Response:
        headers = {"etag": self._tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._media_type, headers=headers)
