"""Edits into the champion without training, as one Prefect flow: what comes in is held to the
rules, added beside the edit set, remembered, asked about, judged and published.

The stages of `dvc.yaml` that live edits are made into do the work, each what changed only; the
flow runs them in a clone of the champion and is the only one that commits, tags and publishes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.artifacts import Progress, link_reports, show_changes, show_gate
from flows.automations import announce_release
from flows.pools import PUBLISHING, slot
from flows.release_steps import (
    commit_and_tag,
    is_released,
    keep_release,
    prepare_remote,
    publish_release,
    stages,
    upload_data,
)
from flows.steps import log_errors_plainly, say, step
from serac_core.config import load_params
from serac_core.edits.edit_index import EditIndex
from serac_core.edits.intake import Intake, take_in
from serac_core.edits.token_limits import load_token_limits
from serac_core.errors import SeracError
from serac_core.evaluation.carried import keep_released
from serac_core.release.copies import RELEASE_FOLDER, release_copy
from serac_core.release.gate import GateResult
from serac_core.release.races import build_again_when_overtaken
from serac_core.release.registry import read_registry
from serac_core.release.update import (
    add_update,
    released_files,
    require_no_training,
    require_updates_served,
    take_update,
    with_models_of,
)
from serac_core.release.update_gate import gate_update
from serac_core.release.update_request import (
    BadRecords,
    OnBadRecord,
    Request,
    UpdateRefused,
    put_files_away,
    read_request,
)
from serac_core.release.verdict import write_verdict
from serac_core.workspace.candidate import Candidate
from serac_core.workspace.inbox import collect, inbox_files
from serac_core.workspace.reports import keep_reports
from serac_core.workspace.runs import Run, find_checkout, start_run


@dataclass(frozen=True)
class UpdateOutcome:
    """What a completed update came to.

    Attributes
    ----------
    changed:
        False when nothing new was in it: nothing was published.
    release, copy, published_to, stages_run, gate:
        As of a retraining; `release` "" where there was nothing to look at.
    added, superseded, retracted, unchanged:
        Ids of edits.
    rejected:
        Of each file with bad records: its new place and the reasons.
    """

    changed: bool
    release: str = ""
    copy: Path | None = None
    published_to: str = ""
    stages_run: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    rejected: tuple[dict[str, Any], ...] = ()
    gate: GateResult | None = None


@flow(name="update-edits", persist_result=False)
def update_edits(
    checkout: str = ".",
    files: list[str] | None = None,
    revision: str = "",
    on_bad_record: OnBadRecord | None = None,
) -> State[UpdateOutcome]:
    """Release new, superseding and retracted edits on the champion, without training.

    Updates of one checkout are made one after the other.

    Parameters
    ----------
    checkout:
        A folder of the repository; its uncommitted changes and commits don't matter.
    files:
        Files of edits and retractions. None: those in the inbox.
    revision:
        Or: a commit of the checkout whose edit set is to be served.
    on_bad_record:
        What becomes of the good records beside a bad one: `release-others` or `stop`. None:
        `update.on_bad_record` of params.yaml.

    Returns
    -------
    State
        Completed with an :class:`UpdateOutcome`; Failed with the :class:`SeracError` when an
        input is wrong, more than edits would change, or the gate is closed: the champion stays.
    """
    log_errors_plainly()
    try:
        root = find_checkout(checkout)
        request = read_request(root, files or (), revision, on_bad_record)
        with start_run(root, "update-edits", wait=True, say=say) as run:
            request = collect_files(run, request)
            if not request.incoming and not request.revision:
                nothing = UpdateOutcome(changed=False)
                return Completed(message="no file of edits is in the inbox", data=nothing)
            outcome = update(run, request)
    except SeracError as error:
        return Failed(message=str(error), data=error)
    what = "released" if outcome.changed else "nothing changed, nothing published: champion"
    return Completed(message=f"{what} {outcome.release}", data=outcome)


def update(run: Run, request: Request) -> UpdateOutcome:
    """Build and publish. Where the gate is closed to what is new, what is retracted goes all the
    same."""
    try:
        return build_again_when_overtaken(run, lambda: update_in_clone(run, request), say=say)
    except UpdateRefused as refused:
        if refused.intake.retracted and refused.intake.added:
            say("the gate is closed to what is new; what is retracted is released all the same")
            run.clear_workspace()
            retracting = replace(request, only_retractions=True)
            done = build_again_when_overtaken(
                run, lambda: update_in_clone(run, retracting), say=say
            )
            refused = refused.but_released(done.release)
        put_files_away(request, refused.rejections(request.incoming))
        raise refused from None


def update_in_clone(run: Run, request: Request) -> UpdateOutcome:
    """The main path: clone of the champion, intake, stages, gate, release."""
    progress = Progress(steps=6, flow=run.flow)
    candidate = take_clone(run, request)
    prepare_remote(run)
    intake = hold_to_rules(run, request)
    progress.advance()
    if not intake.records and candidate.is_released:
        return champion_stays(run, request, candidate, intake)

    champion = bring_champion(run)
    if intake.records:
        add_to_edit_set(run, intake)
    require_only_edits_changed(run)
    progress.advance()
    stages_run = serve_edits(run)
    progress.advance()
    if is_released(run, candidate):
        return champion_stays(run, request, candidate, intake)
    verdict = ask_gate(run, champion, intake)
    progress.advance()

    upload_data(run)
    with slot(PUBLISHING):
        tagged = commit_and_tag(run)
        progress.advance()
        publish_release(run, candidate, tagged)
    announce_release(tagged.release.tag, how="update-edits")
    copy = keep_release(run, tagged.release)
    rejected = put_files_away(request, intake.rejections)
    progress.advance()
    return UpdateOutcome(
        changed=True,
        release=tagged.release.tag,
        copy=copy,
        published_to=candidate.target,
        stages_run=tuple(stages_run),
        added=intake.added,
        superseded=intake.superseded,
        retracted=intake.retracted,
        unchanged=intake.unchanged,
        rejected=rejected,
        gate=verdict,
    )


serve_edits = stages("validate, remember, evaluate and package", "package")


@step("collect files")
def collect_files(run: Run, request: Request) -> Request:
    if request.revision and not request.files:
        return request
    files = request.files or inbox_files(request.inbox)
    return replace(request, incoming=tuple(collect(files, request.inbox, run.incoming)))


@step("take clone")
def take_clone(run: Run, request: Request) -> Candidate:
    settings = load_params(run.checkout / "params.yaml").registry
    candidate = take_update(run, publish_to=settings.publish_to, revision=request.revision)
    say(f"run {run.id} works in {run.workspace}, on commit {candidate.commit[:10]}")
    return candidate


@step("hold to rules")
def hold_to_rules(run: Run, request: Request) -> Intake:
    """What the files come to; where it is configured so, a bad record stops the run."""
    if not request.incoming:
        return Intake()
    params = with_models_of(run.workspace, load_params(run.workspace / "params.yaml"))
    require_updates_served(run.workspace, params)
    files = released_files(run.workspace, params, say=say, log=run.log)
    index = EditIndex(files, run.cache)
    limits = load_token_limits(params.models, in_context=params.counterfactual.kind == "in-context")
    intake = take_in([file.taken for file in request.incoming], index, limits)
    for rejection in intake.rejections:
        say(rejection.as_text().rstrip())
    if intake.rejections and request.on_bad_record == "stop":
        put_files_away(request, intake.rejections, only_rejected=True)
        raise BadRecords.of(intake.rejections, request.rejected)
    if request.only_retractions:
        intake = intake.only_retractions()
    show_changes(intake.rows())
    return intake


@step("bring champion")
def bring_champion(run: Run) -> Path:
    """A copy of the champion; its evaluation is kept for the stages to go on from."""
    copy = release_copy(run, read_registry(run.workspace).require_champion(), say=say)
    if keep_released(copy, run.cache):
        say("the champion's evaluation is taken from its release")
    return copy


@step("add to edit set")
def add_to_edit_set(run: Run, intake: Intake) -> None:
    path = add_update(run.workspace, load_params(run.workspace / "params.yaml"), intake.content)
    say(f"{len(intake.records)} records as {path.relative_to(run.workspace)}")


@step("see that nothing is to be trained")
def require_only_edits_changed(run: Run) -> None:
    require_no_training(run.workspace)


@step("gate")
def ask_gate(run: Run, champion: Path, intake: Intake) -> GateResult:
    config = load_params(run.workspace / "params.yaml").gate
    release = run.workspace / RELEASE_FOLDER
    verdict = gate_update(release, champion, config)
    tag = read_registry(run.workspace).require_champion().tag
    write_verdict(run.workspace, verdict, champion=tag)
    show_gate(verdict, run.flow)
    if not verdict.passed:
        reports = keep_reports(run)
        link_reports(reports, run.flow)
        raise UpdateRefused(verdict, reports, intake)
    return verdict


@step("champion stays")
def champion_stays(
    run: Run, request: Request, candidate: Candidate, intake: Intake
) -> UpdateOutcome:
    """Nothing is new; the files go all the same."""
    champion = read_registry(run.workspace).require_champion()
    return UpdateOutcome(
        changed=False,
        release=champion.tag,
        copy=release_copy(run, champion, say=say),
        published_to=candidate.target,
        unchanged=intake.unchanged,
        rejected=put_files_away(request, intake.rejections),
    )
