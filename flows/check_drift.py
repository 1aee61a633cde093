"""Whether the routers' traffic has drifted from what the champion was judged on.

A drift is an event, `serac.drift.detected`; the deployment of `retrain` runs on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows.steps import log_errors_plainly, say
from serac_core.config import load_params
from serac_core.errors import SeracError
from serac_core.evaluation.drift import DriftReport, drift_report
from serac_core.release.copies import release_copy
from serac_core.release.registry import read_registry
from serac_core.workspace.candidate import publish_target, share_cache, take_clone
from serac_core.workspace.runs import find_checkout, start_run, state_folder

DRIFT = "serac.drift.detected"


@flow(name="check-drift", persist_result=False)
def check_drift(
    checkout: str = ".", decisions: str = "", variant: str = "fp32"
) -> State[DriftReport]:
    """Compare the routers' decisions with the champion's evaluation; a drift emits an event.

    Parameters
    ----------
    checkout:
        A folder of the repository whose champion the routers serve.
    decisions:
        Folder of their decision logs. Empty: `.serac/decisions` of the checkout.

    Returns
    -------
    State
        Completed with a :class:`serac_core.evaluation.drift.DriftReport`, drifted or not; Failed
        with the :class:`SeracError`.
    """
    log_errors_plainly()
    try:
        root = find_checkout(checkout)
        params = load_params(root / "params.yaml")
        with start_run(root, "check-drift", wait=True, say=say) as run:
            take_clone(root, run.workspace, publish_target(root, params.registry.publish_to))
            share_cache(root, run.workspace)
            champion = read_registry(run.workspace).require_champion()
            report = drift_report(
                release_copy(run, champion, say=say),
                Path(decisions) if decisions else state_folder(root) / "decisions",
                run.reports / "drift",
                params.drift,
                name=champion.tag,
                now=datetime.now(UTC),
                variant=variant,
            )
            show_drift(report, run.reports / "drift")
    except SeracError as error:
        return Failed(message=str(error), data=error)
    if report.drifted:
        emit_event(
            event=DRIFT,
            resource={"prefect.resource.id": f"serac.release.{report.release}"},
            payload=report.as_dict(),
        )
        return Completed(message=f"drift: {'; '.join(report.reasons)}", data=report)
    what = "too few decisions to tell" if report.too_few else "no drift"
    return Completed(message=f"{what}: {report.in_question} with an edit in question", data=report)


def show_drift(report: DriftReport, folder: Path) -> None:
    """The figures, the verdict and a link to the plot, as artifacts."""
    verdict = "; ".join(report.reasons) or ("too few decisions" if report.too_few else "no drift")
    say(f"{report.release}: {verdict}")
    create_table_artifact(table=report.rows(), key="drift", description=verdict)
    plot = (folder / "scores.png").resolve().as_uri()
    create_link_artifact(link=plot, key="drift-plot", link_text="scores.png")
    create_markdown_artifact(
        f"**{report.release}**: {verdict}\n\n![scores]({plot})", key="drift-report"
    )
