"""Work of many requests put together: what waits is done in one go, what comes alone at once."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serac_core.serving.errors import Busy

K = TypeVar("K", bound=Hashable)
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


@dataclass(slots=True)
class _Part(Generic[K, I, R]):
    """Items of one request that are done together."""

    key: K
    items: Sequence[I]
    done: asyncio.Future[list[R]] = field(repr=False)


class Batcher(Generic[K, I, R]):
    """Does work in a thread of its own, a batch at a time.

    There is no waiting for company: an idle batcher begins at once, and what comes meanwhile is
    the next batch. Whose client has gone is left out. Where a batch fails, its parts are done one
    by one, so that a request fails by its own fault only.

    Parameters
    ----------
    work:
        One result an item. Items of one batch have one key.
    max_batch:
        Items of a batch.
    max_waiting:
        Items that may wait.
    observe:
        Told the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[K, Sequence[I]], Sequence[R]],
        *,
        name: str,
        max_batch: int,
        max_waiting: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work = work
        self._name = name
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._observe = observe
        self._waiting: deque[_Part[K, I, R]] = deque()
        self._items_waiting = 0
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"serac-{name}")

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return self._items_waiting

    async def submit(self, key: K, items: Sequence[I]) -> list[R]:
        """The results of some items. More than a batch holds go in turns with other requests.

        Raises
        ------
        Busy
            And what the work raises.
        """
        results: list[R] = []
        for first in range(0, len(items), self._max_batch):
            results += await self._submit(key, items[first : first + self._max_batch])
        return results

    async def close(self) -> None:
        """End the thread; nothing may be waiting."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _submit(self, key: K, items: Sequence[I]) -> list[R]:
        if self._items_waiting + len(items) > self._max_waiting:
            raise Busy(
                f"{self._items_waiting} queries wait for {self._name} already",
                remedy="try again in a moment, or ask less at once",
                retry_after=max(1, math.ceil(self._items_waiting / 1000)),
            )
        part = _Part(key, items, asyncio.get_running_loop().create_future())
        self._waiting.append(part)
        self._items_waiting += len(items)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await part.done

    async def _run(self) -> None:
        try:
            while batch := self._next():
                await self._do(batch)
        finally:
            self._runner = None

    def _next(self) -> list[_Part[K, I, R]]:
        batch: list[_Part[K, I, R]] = []
        size = 0
        while self._waiting:
            part = self._waiting[0]
            if not part.done.done():
                if batch and (part.key != batch[0].key or size + len(part.items) > self._max_batch):
                    break
                batch.append(part)
                size += len(part.items)
            self._waiting.popleft()
            self._items_waiting -= len(part.items)
        return batch

    async def _do(self, batch: list[_Part[K, I, R]]) -> None:
        items = [item for part in batch for item in part.items]
        self._observe(len(items))
        loop = asyncio.get_running_loop()
        try:
            results = list(
                await loop.run_in_executor(self._thread, self._work, batch[0].key, items)
            )
        except Exception as error:
            if len(batch) == 1:
                if not batch[0].done.done():
                    batch[0].done.set_exception(error)
                return
            for part in batch:
                await self._do([part])
            return
        for part in batch:
            if not part.done.done():
                part.done.set_result(results[: len(part.items)])
            results = results[len(part.items) :]
