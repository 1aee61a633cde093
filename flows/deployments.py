"""The deployments of deploy/prefect.yaml, made on the server that PREFECT_API_URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from serac_core.errors import SeracError

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

DEPLOY = Path(__file__).parents[1] / "deploy"
PREFECT_FILE = DEPLOY / "prefect.yaml"


class InvalidDeployments(SeracError):
    """deploy/prefect.yaml, or a setting that goes into it, breaks a rule of Prefect's."""


def read_deployments(
    *, cron: str | None = None, timezone: str | None = None, pools: bool = True
) -> list[RunnerDeployment]:
    """The deployments as Prefect's own objects, not yet on a server.

    Parameters
    ----------
    cron, timezone:
        When `retrain` runs, instead of what the file says; cron "": never by itself.
    pools:
        Whether workers of pools run them; else the process that serves them.

    Raises
    ------
    InvalidDeployments
    """
    try:
        data = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))
        for entry in data["deployments"]:
            if entry["name"] == "retrain":
                _reschedule(entry, cron, timezone)
        return [
            _deployment(entry, entry.get("pull", data["pull"]) if pools else None)
            for entry in data["deployments"]
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidDeployments(
            f"{PREFECT_FILE}: {type(error).__name__}: {error}",
            remedy="run serac from a clone of the project and mend the file, or the schedule: "
            "--cron has five fields, as in '0 3 * * *', --timezone a name as Europe/Berlin",
        ) from error


def apply_deployments(deployments: list[RunnerDeployment]) -> list[str]:
    """Create or update them on the server; returns their full names."""
    for deployment in deployments:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in deployments]


def _reschedule(entry: dict[str, Any], cron: str | None, timezone: str | None) -> None:
    if cron == "":
        entry["schedules"] = []
    for schedule in entry["schedules"]:
        schedule["cron"] = cron or schedule["cron"]
        schedule["timezone"] = timezone or schedule["timezone"]


def _deployment(entry: dict[str, Any], pull: list[dict[str, Any]] | None) -> RunnerDeployment:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentTriggerTypes
    from prefect.schedules import Cron
    from pydantic import TypeAdapter

    triggers: TypeAdapter[Any] = TypeAdapter(list[DeploymentTriggerTypes])
    limit = entry.get("concurrency_limit")
    pool = entry["work_pool"] if pull is not None else {}
    deployment: RunnerDeployment = RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=entry["name"],
        description=entry["description"],
        tags=entry["tags"],
        schedules=[
            Cron(schedule["cron"], timezone=schedule["timezone"])
            for schedule in entry.get("schedules", [])
        ],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
        parameters=entry.get("parameters", {}),
        triggers=triggers.validate_python(entry.get("triggers", [])),
        work_pool_name=pool.get("name"),
        job_variables=pool.get("job_variables"),
    )
    if pull is not None:
        deployment.storage = _pull_by(pull)
    return deployment


def _pull_by(steps: list[dict[str, Any]]) -> Any:
    """Prefect takes the steps that a worker prepares a run with from a storage object alone."""
    from prefect.runner.storage import LocalStorage

    class Steps(LocalStorage):
        def to_pull_step(self) -> Any:
            return steps

    return Steps(".")
