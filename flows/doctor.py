"""The Prefect side of `serac doctor`: server, clock, leases, pools, workers, limits, slots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from flows.pools import LIMITS, POOLS
from serac_core.release.finding import Finding

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_CLOCKS_APART = 5.0
_MAKE = "`serac deploy` makes it"


def examine_prefect() -> Iterator[Finding]:
    """Check the server that PREFECT_API_URL names, if it names one."""
    import httpx
    from prefect import __version__, get_client

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        yield Finding(
            "prefect api", True, "PREFECT_API_URL is not set: runs start a temporary server"
        )
        return
    try:
        with get_client(sync_client=True) as client:
            response = client.request("GET", "/admin/version")
            found = response.json()
            yield Finding(
                "prefect api",
                found == __version__,
                f"{url}, version {found}, here {__version__}",
                "install the same version here and on the server",
            )
            yield _clock(response.headers.get("date", ""))
            yield _lease_storage(client)
            yield from _pools(client)
            yield from _limits(client)
            yield _slots(client)
    except httpx.HTTPError as error:
        yield Finding(
            "prefect api",
            False,
            f"{url}: {error}",
            "start the server, all with `serac up`, or unset PREFECT_API_URL",
        )


def _clock(date: str) -> Finding:
    apart = abs((datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()) if date else 0.0
    return Finding(
        "clock",
        apart <= _CLOCKS_APART,
        f"{apart:.0f} s from the server's",
        "set both by a time server: with clocks apart runs start late and heartbeats look missed",
    )


def _lease_storage(client: SyncPrefectClient) -> Finding:
    settings: dict[str, Any] = client.request("GET", "/admin/settings").json()
    storage = str(settings["server"]["concurrency"]["lease_storage"])
    return Finding(
        "lease storage",
        not storage.endswith(".memory"),
        storage,
        "in memory, a restart of the server leaves slots taken for ever: set "
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage."
        "filesystem (or prefect_redis.lease_storage) on the server, as `serac up` does",
    )


def _pools(client: SyncPrefectClient) -> Iterator[Finding]:
    from prefect.exceptions import ObjectNotFound

    for name in POOLS:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            yield Finding(f"pool {name}", False, "not there", _MAKE)
            continue
        workers = client.read_workers_for_work_pool(name)
        online = [worker.name for worker in workers if worker.status == "ONLINE"]
        state = "paused" if pool.is_paused else f"online: {', '.join(online) or 'no worker'}"
        yield Finding(
            f"pool {name}",
            bool(online) and not pool.is_paused,
            f"{pool.type}, {state}",
            f"start one: `serac worker --pool {name}`"
            if not pool.is_paused
            else f"prefect work-pool resume {name}",
        )


def _limits(client: SyncPrefectClient) -> Iterator[Finding]:
    from prefect.exceptions import ObjectNotFound

    for name in LIMITS:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            yield Finding(f"limit {name}", False, "not there", _MAKE)
            continue
        yield Finding(f"limit {name}", True, f"{limit.active_slots} of {limit.limit} slots taken")


def _slots(client: SyncPrefectClient) -> Finding:
    """Slots that nobody gives back: more are taken than runs are at work."""
    at_work = _runs_at_work(client)
    leaked = []
    for limit in client.read_global_concurrency_limits(limit=200):
        deployment = limit.name.removeprefix("deployment:")
        if limit.name in LIMITS:
            runs = sum(at_work.values())
        elif deployment != limit.name:
            runs = at_work.get(deployment, 0)
        else:
            continue
        if limit.active_slots > runs:
            leaked.append((limit.name, limit.active_slots, runs))
    return Finding(
        "leaked slots",
        not leaked,
        "; ".join(f"{name}: {taken:.0f} taken by {runs} runs" for name, taken, runs in leaked)
        or f"none; {sum(at_work.values())} runs at work",
        "a lease ends by itself within five minutes; after that: "
        + "; ".join(f"prefect gcl update {name} --active-slots {runs}" for name, _, runs in leaked),
    )


def _runs_at_work(client: SyncPrefectClient) -> dict[str, int]:
    """How many runs each deployment (by id) has that may hold a slot."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType

    counts: dict[str, int] = {}
    states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})
    )
    for run in runs:
        counts[str(run.deployment_id)] = counts.get(str(run.deployment_id), 0) + 1
    return counts
