"""A running server: uvicorn around the application, drained before it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from serac_core.serving.settings import ServingSettings
from serac_core.serving.state import ServerState

log = logging.getLogger("serac.serving")
_KEEP_ALIVE = 75  # seconds; longer than load balancers and clients keep theirs


class RouterServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; then /readyz says no at once, requests are taken for
    `drain_delay` more seconds, and those under way are finished. A second signal ends it now.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: ServerState,
        *,
        started: Callable[[str, int], None] = lambda host, port: None,
    ) -> None:
        settings: ServingSettings = state.settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                backlog=2048,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=round(settings.drain_timeout),
            )
        )
        self._state = state
        self._started = started

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            gc.collect()
            gc.freeze()  # what was loaded stays: no collection looks at it again
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._started(str(host), int(port))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining:
            self.should_exit = self.force_exit = True
            return
        log.info("%s: draining", signal.Signals(sig).name)
        self._state.draining = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._state.settings.drain_delay, self._end)

    def _end(self) -> None:
        self.should_exit = True
