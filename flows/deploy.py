"""All that a Prefect server has to know: pools, limits, deployments, automations. Idempotent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from flows.automations import make_automations
from flows.deployments import apply_deployments, read_deployments
from flows.pools import LIMITS, POOLS, TRAINING, Infrastructure, make_limits, make_pools
from serac_core.errors import SeracError

P = ParamSpec("P")
R = TypeVar("R")


class PrefectUnreachable(SeracError):
    """The Prefect server that PREFECT_API_URL names does not answer."""


@dataclass(frozen=True)
class Deployed:
    """What a server has now."""

    deployments: tuple[str, ...]
    automations: tuple[str, ...]
    pools: tuple[str, ...]
    limits: dict[str, int]

    def lines(self) -> list[str]:
        return [
            f"deployments: {', '.join(self.deployments)}",
            f"work pools: {', '.join(self.pools)}",
            f"limits: {', '.join(f'{name} {slots}' for name, slots in self.limits.items())}",
            f"automations: {', '.join(self.automations)}",
        ]


def needs_server(function: Callable[P, R]) -> Callable[P, R]:
    """A function that talks to the Prefect server, whose absence is named.

    Raises
    ------
    PrefectUnreachable
    """

    @wraps(function)
    def asked(*arguments: P.args, **options: P.kwargs) -> R:
        import httpx

        try:
            return function(*arguments, **options)
        except httpx.HTTPError as error:
            raise PrefectUnreachable(
                f"Prefect does not answer: {error}",
                remedy="start the server that PREFECT_API_URL names, or all with `serac up`",
            ) from error

    return asked


@needs_server
def deploy(
    *,
    cron: str | None = None,
    timezone: str | None = None,
    training_slots: int = 2,
    infrastructure: Infrastructure = "process",
) -> Deployed:
    """Create what is missing on the server, bring the rest up to date.

    Raises
    ------
    InvalidDeployments, PoolOfAnotherKind, PrefectUnreachable
    """
    deployments = read_deployments(cron=cron, timezone=timezone)
    make_pools(infrastructure)
    make_limits(training_slots)
    return Deployed(
        deployments=tuple(apply_deployments(deployments)),
        automations=tuple(make_automations()),
        pools=tuple(POOLS),
        limits={**LIMITS, TRAINING: training_slots},
    )
