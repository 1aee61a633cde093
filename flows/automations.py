"""What Prefect does by itself: fail runs that are lost, tell people of runs that failed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.automations import AutomationCore
    from prefect.client.orchestration import SyncPrefectClient

PROMOTED = "serac.release.promoted"
NOTIFICATION_BLOCK = "serac-alerts"

_OURS = {"prefect.resource.id": "prefect.tag.serac", "prefect.resource.role": "tag"}
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}
_BEATS_MISSED = 3


def make_automations() -> list[str]:
    """Create or update the automations on the server; returns their names.

    Runs that fail or crash are told to the notification block `serac-alerts`, of whatever
    kind, where the server has one.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        automations = [lost_run(), stuck_run()]
        if block := _notification_block(client):
            automations.append(notify(block))
        for automation in automations:
            existing = client.read_automations_by_name(automation.name)
            for one in existing[1:]:
                client.delete_automation(one.id)
            if existing:
                client.update_automation(existing[0].id, automation)
            else:
                client.create_automation(automation)
    return [automation.name for automation in automations]


def lost_run() -> AutomationCore:
    """A run whose heartbeats stop is over: its machine, worker or process died."""
    from prefect.settings import get_current_settings

    beat = get_current_settings().flows.heartbeat_frequency or 30
    return _crash_unless(
        "serac: lost run",
        after="prefect.flow-run.heartbeat",
        expect={"prefect.flow-run.heartbeat", *_ENDED},
        within=timedelta(seconds=_BEATS_MISSED * beat),
        message="no heartbeat: the run's process, worker or machine died, and its slots are free. "
        "Nothing half done is published. Remedy: run it again; what is done stays done",
    )


def stuck_run() -> AutomationCore:
    """A run that a worker took and never began is over: the worker died in between."""
    return _crash_unless(
        "serac: run never began",
        after="prefect.flow-run.Pending",
        expect={"prefect.flow-run.Running", "prefect.flow-run.Late", *_ENDED},
        within=timedelta(minutes=10),
        message="a worker took the run and never began it. Remedy: see that the pool has a worker "
        "(`serac doctor`), and run it again",
    )


def _crash_unless(
    name: str, *, after: str, expect: set[str], within: timedelta, message: str
) -> AutomationCore:
    from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType

    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            after={after},
            expect=expect,
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message)],
    )


def notify(block: UUID) -> AutomationCore:
    """Tell people of a run that failed (a closed gate is one) or crashed."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification

    return AutomationCore(
        name="serac: failed run",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OURS,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }} {{ flow_run.state.name | lower }}",
                body="{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    """The block document `serac-alerts`, whatever its type."""
    response = client.request(
        "POST",
        "/block_documents/filter",
        json={"block_documents": {"name": {"any_": [NOTIFICATION_BLOCK]}}},
    )
    found = response.json()
    return found[0]["id"] if found else None


def announce_release(release: str, *, how: str) -> None:
    """Emit the event that a release holds stage prod from now on.

    Parameters
    ----------
    release:
        E.g. `serac@v1.4.0`.
    how:
        What promoted it: `retrain`, `update-edits` or `rollback`.
    """
    from prefect.events import emit_event

    emit_event(
        event=PROMOTED,
        resource={"prefect.resource.id": f"serac.release.{release}"},
        payload={"release": release, "how": how},
    )
