"""Decisions for the server: many requests' queries in one pass of the encoder, and what is
answered where none can be made."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar

from serac_core.scope.encoder import encodable
from serac_core.serving.batching import Batcher
from serac_core.serving.errors import ApiError, Unavailable
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    from serac_core.scope.explain import Explanation
    from serac_core.scope.router import Decision
    from serac_core.serving.served import ServedRelease

T = TypeVar("T")

log = logging.getLogger("serac.serving")
_SHORT = 400  # characters in which names are looked for at once, in less time than a thread takes


class Deciding:
    """Routes queries through a release's router, in a thread and in batches.

    A query that names no stored subject is out of scope without a pass of the encoder; for a short
    one that is seen at once.
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._batcher: Batcher[ServedRelease, str, Decision] = Batcher(
            _route,
            name="routing",
            max_batch=settings.batch_queries,
            max_waiting=settings.waiting_queries,
            observe=metrics.batches.labels("route").observe,
        )

        self._explainer: Batcher[tuple[ServedRelease, int], str, Explanation] = Batcher(
            _explain, name="explanations", max_batch=8, max_waiting=settings.waiting_answers
        )

    @property
    def waiting(self) -> int:
        """Queries that wait for their decision."""
        return self._batcher.waiting

    async def close(self) -> None:
        """End the threads."""
        await self._batcher.close()
        await self._explainer.close()

    async def decide(self, release: ServedRelease, queries: Sequence[str]) -> list[Decision]:
        """One decision a query, in their order.

        Raises
        ------
        Busy
            More queries wait than may.
        Unavailable
            The router failed or took too long; counted in the metrics.
        """
        began = time.perf_counter()
        if len(queries) == 1 and (decision := _settled_by_name(release, queries[0])) is not None:
            found = [decision]
        else:
            # Many queries take their time: each batch of them has the time that one has.
            batches = -(-len(queries) // self._settings.batch_queries)
            found = await self._timed(self._batcher.submit(release, queries), max(1, batches))
        self._metrics.seconds.labels("route").observe(time.perf_counter() - began)
        return found

    async def explain(self, release: ServedRelease, query: str, k: int) -> Explanation:
        """A decision with its `k` nearest edits; raises as :meth:`decide`."""
        return (await self._timed(self._explainer.submit((release, k), [query])))[0]

    async def _timed(self, work: Awaitable[list[T]], times: int = 1) -> list[T]:
        try:
            async with asyncio.timeout(self._settings.routing_timeout * times):
                return await work
        except ApiError:
            raise
        except TimeoutError:
            raise self._failed("timeout", "took too long") from None
        except Exception as error:
            log.exception("routing failed")
            raise self._failed("error", f"failed ({type(error).__name__})") from error

    def _failed(self, cause: str, what: str) -> Unavailable:
        self._metrics.router_failures.labels(cause, self._settings.on_router_failure).inc()
        return Unavailable(
            f"the scope router {what}",
            remedy="try again; the server's log says more",
            code="router_failed",
        )


def _route(release: ServedRelease, queries: Sequence[str]) -> list[Decision]:
    return release.router.route(queries)


def _explain(key: tuple[ServedRelease, int], queries: Sequence[str]) -> list[Explanation]:
    from serac_core.scope.explain import explain

    release, k = key
    return [explain(release.router, query, k) for query in queries]


def _settled_by_name(release: ServedRelease, query: str) -> Decision | None:
    router = release.router
    memory = router.memory
    if len(query) > _SHORT or len(memory.whole_texts) or memory.subjects.find(encodable(query)):
        return None
    return router.decide(query, ())
