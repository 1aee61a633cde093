"""What Prometheus is told. Labels are few and known: no text, no key, no client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from serac_core.serving.follow import FollowerStatus

_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60
)  # fmt: skip
_SCORES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The instruments of one server, in a registry of its own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "serac_requests", "Requests answered.", ("path", "status"), registry=own
        )
        self.open_requests = Gauge("serac_open_requests", "Requests under way.", registry=own)
        self.decisions = Counter(
            "serac_decisions", "Where queries went.", ("route", "release"), registry=own
        )
        self.scores = Histogram(
            "serac_decision_score",
            "Scores of queries that came near an edit.",
            ("in_scope",),
            buckets=_SCORES,
            registry=own,
        )
        self.seconds = Histogram(
            "serac_stage_seconds",
            "Seconds in a stage: route, answer (a local model), upstream (to its first byte), "
            "request (the whole).",
            ("stage",),
            buckets=_SECONDS,
            registry=own,
        )
        self.batches = Histogram(
            "serac_batch_size", "Queries done together.", ("stage",), buckets=_SIZES, registry=own
        )
        self.waiting = Gauge("serac_waiting", "Queries that wait.", ("stage",), registry=own)
        self.router_failures = Counter(
            "serac_router_failures",
            "Decisions that could not be made, by cause and by what was done.",
            ("cause", "done"),
            registry=own,
        )
        self.upstream_failures = Counter(
            "serac_upstream_failures",
            "Requests that the upstream failed.",
            ("cause",),
            registry=own,
        )
        self.upstream_retries = Counter(
            "serac_upstream_retries", "Connections tried again.", registry=own
        )
        self.clients_left = Counter(
            "serac_clients_left", "Requests whose client left before the end.", registry=own
        )
        self.log_dropped = Counter(
            "serac_decision_log_dropped", "Decisions that could not be logged.", registry=own
        )
        self.release = Gauge(
            "serac_release",
            "1 for the release that answers.",
            ("release", "variant", "provider"),
            registry=own,
        )
        self.edits = Gauge("serac_edits", "Live edits of that release.", registry=own)

    def follow(self, status: Callable[[], FollowerStatus]) -> None:
        """Tell from now on how following the registry goes."""
        self.registry.register(_Following(status))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _Following(Collector):
    """Asks the follower when Prometheus asks."""

    def __init__(self, status: Callable[[], FollowerStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        found = self._status()
        yield CounterMetricFamily("serac_release_swaps", "Releases put in place.", found.swaps)
        yield CounterMetricFamily(
            "serac_release_refusals",
            "Releases that are damaged or failed their smoke queries.",
            found.refusals,
        )
        yield CounterMetricFamily(
            "serac_follow_failures",
            "Checks in which the registry or a release's files could not be had.",
            found.failures,
        )
        yield GaugeMetricFamily(
            "serac_follow_ok",
            "1 while the release that should answer does, as far as the last check knows.",
            float(found.problem is None),
        )
        yield GaugeMetricFamily(
            "serac_releases_draining",
            "Releases out of use but for requests that began with them.",
            found.draining,
        )
