"""Retraining, from the person's commit to a published release, as one Prefect flow.

`dvc.yaml` says how each artefact is built; this flow runs its stages in a clone of
its own, asks the gate, and is the only one that commits, tags and publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.artifacts import Progress, link_reports, show_gate, show_metrics
from flows.steps import log_errors_plainly, say, step
from serac_core.config import load_params
from serac_core.errors import SeracError
from serac_core.release.copies import RELEASE_FOLDER, keep_copy, release_copy
from serac_core.release.gate import GateResult, gate_release
from serac_core.release.publishing import Tagged, commit_release, tag_release
from serac_core.release.registry import Version, publish, read_registry
from serac_core.release.verdict import metric_rows, read_metrics, require_open, write_verdict
from serac_core.workspace.candidate import LOCK_FILE, Candidate, same_tree, take_candidate
from serac_core.workspace.pipeline import push_data, reproduce, set_default_remote
from serac_core.workspace.reports import failures_reported, keep_reports
from serac_core.workspace.runs import Run, find_checkout, start_run


@dataclass(frozen=True)
class Outcome:
    """What a completed run came to.

    Attributes
    ----------
    changed:
        False when nothing had changed since the last release: nothing was published.
    release:
        The released version, or the champion that stays, e.g. `serac@v1.4.0`.
    copy:
        Directory of that release, ready for `serac answer --release`.
    published_to:
        The repository that has branch `releases` and the tags.
    stages_run:
        Stages whose command ran; the others were up to date.
    snapshot_of:
        Uncommitted files of the person's that the release includes.
    """

    changed: bool
    release: str
    copy: Path
    published_to: str
    stages_run: tuple[str, ...] = ()
    snapshot_of: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    gate: GateResult | None = None


@flow(name="retrain", persist_result=False)
def retrain(checkout: str = ".", include_uncommitted: bool = False) -> State[Outcome]:
    """Retrain from a checkout's last commit and publish a release if the gate opens.

    Parameters
    ----------
    checkout:
        A folder of the repository; the run works in a clone of it.
    include_uncommitted:
        Take uncommitted changes of the pipeline's inputs along, as a snapshot.

    Returns
    -------
    State
        Completed with an :class:`Outcome`; Failed with the :class:`SeracError` when an
        input is wrong, a stage fails or the gate is closed: then nothing is published.
    """
    log_errors_plainly()
    try:
        with start_run(find_checkout(checkout), "retrain") as run:
            outcome = retrain_in_clone(run, include_uncommitted)
    except SeracError as error:
        return Failed(message=error.what, data=error)
    what = "released" if outcome.changed else "nothing changed, nothing published: champion"
    return Completed(message=f"{what} {outcome.release}", data=outcome)


def retrain_in_clone(run: Run, include_uncommitted: bool) -> Outcome:
    """The main path: clone, stages, gate, release."""
    progress = Progress(steps=len(STAGES) + 4)
    candidate = take_clone(run, include_uncommitted)
    progress.advance()
    if candidate.is_released:
        return champion_stays(run, candidate)

    prepare_remote(run)
    stages_run: list[str] = []
    for reproduce_stages in STAGES:
        stages_run += reproduce_stages(run)
        progress.advance()
    if candidate.releases and same_tree(run.workspace, candidate.releases, "", LOCK_FILE):
        return champion_stays(run, candidate)

    gate = ask_gate(run)
    progress.advance()
    require_open(gate, run.reports)

    upload_data(run)
    progress.advance()
    tagged = commit_and_tag(run)
    publish_release(run, candidate, tagged)
    copy = keep_release(run, tagged.release)
    progress.advance()
    return Outcome(
        changed=True,
        release=tagged.release.tag,
        copy=copy,
        published_to=candidate.target,
        stages_run=tuple(stages_run),
        snapshot_of=candidate.snapshot_of,
        metrics=read_metrics(copy),
        gate=gate,
    )


def stages(name: str, *targets: str) -> Callable[[Run], list[str]]:
    """A step that brings stages of dvc.yaml up to date in the run's clone; names those that ran."""

    @step(name)
    def reproduce_stages(run: Run) -> list[str]:
        with failures_reported(run):
            return reproduce(
                run.workspace, targets, say=say, log=run.log, environment=run.stage_environment
            )

    return reproduce_stages


STAGES = (
    stages("version and validate edits", "validate-edits", "live-edits"),
    stages("make training set", "training-set"),
    stages("train scope classifier", "train-scope"),
    stages("train counterfactual model", "train-counterfactual"),
    stages("export, calibrate, remember", "export", "calibrate", "memory"),
    stages("evaluate", "evaluate-model", "evaluate-live"),
    stages("package", "package"),
)


@step("take clone")
def take_clone(run: Run, include_uncommitted: bool) -> Candidate:
    settings = load_params(run.checkout / "params.yaml").registry
    candidate = take_candidate(
        run, publish_to=settings.publish_to, include_uncommitted=include_uncommitted
    )
    say(f"run {run.id} works in {run.workspace}, on commit {candidate.commit[:10]}")
    return candidate


@step("prepare DVC remote")
def prepare_remote(run: Run) -> None:
    settings = load_params(run.workspace / "params.yaml").registry
    url = set_default_remote(run.checkout, run.workspace, settings.dvc_remote)
    say(f"data is published to {url}")


@step("gate")
def ask_gate(run: Run) -> GateResult:
    champion = read_registry(run.workspace).champion
    against = release_copy(run, champion, say=say) if champion else None
    release = run.workspace / RELEASE_FOLDER
    verdict = gate_release(release, against, load_params(run.workspace / "params.yaml").gate)
    write_verdict(run.workspace, verdict, champion=champion.tag if champion else None)
    show_metrics(metric_rows(read_metrics(release)))
    show_gate(verdict)
    if not verdict.passed:
        link_reports(keep_reports(run))
    return verdict


@step("upload data")
def upload_data(run: Run) -> None:
    push_data(run.workspace, say=say, log=run.log)


@step("commit and tag")
def commit_and_tag(run: Run) -> Tagged:
    return tag_release(run.workspace, commit_release(run.workspace))


@step("publish")
def publish_release(run: Run, candidate: Candidate, tagged: Tagged) -> None:
    publish(run.workspace, tagged.tags, releases=candidate.releases)
    say(f"published {', '.join(tagged.tags)} to {candidate.target}")


@step("keep release")
def keep_release(run: Run, release: Version) -> Path:
    copy = keep_copy(run.workspace / RELEASE_FOLDER, run.checkout, release)
    link_reports(copy / "report")
    return copy


@step("champion stays")
def champion_stays(run: Run, candidate: Candidate) -> Outcome:
    """Nothing changed since the last release; make sure that its copy is at hand."""
    champion = read_registry(run.workspace).require_champion()
    copy = release_copy(run, champion, say=say)
    return Outcome(
        changed=False,
        release=champion.tag,
        copy=copy,
        published_to=candidate.target,
        metrics=read_metrics(copy),
    )
