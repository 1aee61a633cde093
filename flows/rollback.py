"""Rollback as a Prefect flow, for schedules and automations; people type `serac rollback`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.automations import announce_release
from flows.pools import PUBLISHING, slot
from flows.steps import log_errors_plainly, say, step
from serac_core.errors import SeracError
from serac_core.release.rollback import RolledBack, roll_back


@step("assign earlier release")
def assign_earlier_release(checkout: str, to: str | None) -> RolledBack:
    return roll_back(checkout, to, say=say)


@flow(name="rollback", persist_result=False)
def rollback(checkout: str = ".", to: str | None = None) -> State[RolledBack]:
    """Make an earlier release the champion again.

    Parameters
    ----------
    checkout:
        A folder of the repository.
    to:
        A version, e.g. `v1.3.0`; None means the one before the champion.

    Returns
    -------
    State
        Completed with what was done, or Failed with the :class:`SeracError`.
    """
    log_errors_plainly()
    try:
        with slot(PUBLISHING):
            done = assign_earlier_release(checkout, to)
    except SeracError as error:
        return Failed(message=str(error), data=error)
    announce_release(done.assignment.version.tag, how="rollback")
    return Completed(message=f"champion {done.assignment.version.tag}", data=done)
