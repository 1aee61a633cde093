"""The parts of a running server, and what its endpoints do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.serving.answering import Answering
from serac_core.serving.deciding import Deciding
from serac_core.serving.decision_log import DecisionLog
from serac_core.serving.errors import Unavailable
from serac_core.serving.metrics import Metrics
from serac_core.serving.served import NoRelease, ReleaseHolder, ServedRelease
from serac_core.serving.settings import ServingSettings
from serac_core.serving.upstream import Upstream

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel
    from serac_core.edits.record import Edit
    from serac_core.scope.router import Decision
    from serac_core.serving.follow import Follower

_MODELS_KNOWN = 60.0  # seconds for which the upstream's list of models is believed


class ServerState:
    """What one server holds. Made before the event loop, opened in it.

    Attributes
    ----------
    follower:
        Keeps the holder at the release that should answer; None where none is kept.
    draining:
        Whether the server is about to end.
    """

    def __init__(
        self,
        settings: ServingSettings,
        holder: ReleaseHolder,
        *,
        base: LanguageModel | None = None,
        upstream_key: str | None = None,
        follower: Follower | None = None,
    ) -> None:
        self.settings = settings
        self.holder = holder
        self.metrics = Metrics()
        self.deciding = Deciding(settings, self.metrics)
        self.answering = Answering(settings, self.metrics, base)
        self.upstream = (
            Upstream(settings, self.metrics, upstream_key) if settings.upstream else None
        )
        self.decision_log = DecisionLog(settings, self.metrics) if settings.decision_log else None
        self.follower = follower
        if follower is not None:
            self.metrics.follow(follower.status)
        self.draining = False
        self._models: set[str] | None = None
        self._models_at = float("-inf")

    async def open(self) -> None:
        """Make what needs the event loop."""
        if self.upstream is not None:
            await self.upstream.open()
        if self.follower is not None:
            self.follower.start()

    async def close(self) -> None:
        """End connections and threads, and give up the release."""
        if self.follower is not None:
            await asyncio.to_thread(self.follower.stop)
        if self.upstream is not None:
            await self.upstream.close()
        await self.deciding.close()
        await self.answering.close()
        if self.decision_log is not None:
            await asyncio.to_thread(self.decision_log.close)
        await asyncio.to_thread(self.holder.close, wait=1.0)

    @contextmanager
    def lease(self) -> Iterator[ServedRelease]:
        """The release of now, which stays loaded until the block ends.

        Raises
        ------
        Unavailable
        """
        try:
            lease = self.holder.current()
            release = lease.__enter__()
        except NoRelease as error:
            raise Unavailable(
                error.what, remedy=error.remedy, code="no_release", retry_after=1
            ) from None
        try:
            yield release
        finally:
            lease.__exit__(None, None, None)

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        has_release = self.holder.release_name is not None or self.settings.routing == "off"
        return has_release and not self.draining

    def record(self, endpoint: str, release: ServedRelease, decisions: Sequence[Decision]) -> None:
        """Count decisions, and log them where a log is kept."""
        for decision in decisions:
            route = "edit" if decision.in_scope else "base"
            self.metrics.decisions.labels(route, release.name).inc()
            if decision.nearest_edit_id is not None:
                self.metrics.scores.labels(str(decision.in_scope).lower()).observe(decision.score)
        if self.decision_log is not None:
            self.decision_log.add(endpoint, release.name, release.variant, decisions)

    def edit_of(self, release: ServedRelease, decision: Decision) -> Edit:
        """The edit that a query in scope met.

        Raises
        ------
        Unavailable
            The memory and the edits of the release are not of one another.
        """
        edit = release.edits.get(decision.edit_id or "")
        if edit is None:
            done = self.settings.on_router_failure
            self.metrics.router_failures.labels("stale-memory", done).inc()
            raise Unavailable(
                f"edit {decision.edit_id} is in the memory of {release.name}, not among its edits",
                remedy="release it again",
                code="router_failed",
            )
        return edit

    def answers_by_upstream(self, release: ServedRelease) -> bool:
        """Whether the upstream reads the edit and answers, not a model of the release."""
        return self.upstream is not None and (
            self.settings.edited_answers == "upstream" or release.counterfactual is None
        )

    def model_names(self) -> list[str]:
        """The names that a local base model answers to."""
        base = self.answering.base
        return [] if base is None else [Path(base.name).name or base.name]

    async def knows_model(self, name: str) -> bool:
        """Whether the upstream has a model; yes where it doesn't say which it has.

        `llama3` and `llama3:latest` are one.
        """
        assert self.upstream is not None
        if time.monotonic() - self._models_at > _MODELS_KNOWN:
            self._models_at = time.monotonic()
            self._models = await self.upstream.models()
        return self._models is None or bool({name, f"{name}:latest"} & self._models)

    async def any_model(self) -> str:
        """A model of the upstream, for questions that name none."""
        assert self.upstream is not None
        await self.knows_model("")
        return min(self._models) if self._models else "default"

    def metrics_text(self) -> bytes:
        """For Prometheus, with what is looked up only when it asks."""
        self.metrics.waiting.labels("route").set(self.deciding.waiting)
        self.metrics.waiting.labels("answer").set(self.answering.waiting)
        self.metrics.release.clear()
        try:
            with self.lease() as release:
                labels = (release.name, release.variant, release.provider)
                self.metrics.release.labels(*labels).set(1)
                self.metrics.edits.set(len(release.edits))
        except Unavailable:
            self.metrics.edits.set(0)
        return self.metrics.text()
