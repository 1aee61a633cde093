"""Retraining, from the person's commit to a published release, as one Prefect flow.

`dvc.yaml` says how each artefact is built; this flow runs its stages in a clone of
its own, asks the gate, and is the only one that commits, tags and publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.artifacts import Progress, link_reports, show_gate, show_metrics, show_widths
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
from flows.workers import on_workers
from serac_core.config import load_params
from serac_core.errors import SeracError
from serac_core.ramp import Ramp, parse_ramp, require_enough_edits, width_name
from serac_core.release.copies import RELEASE_FOLDER, release_copy
from serac_core.release.gate import GateResult, gate_release
from serac_core.release.races import build_again_when_overtaken
from serac_core.release.registry import read_registry
from serac_core.release.verdict import metric_rows, read_metrics, require_open, write_verdict
from serac_core.release.widths import (
    LiveEdits,
    WidthResult,
    describe_live_edits,
    read_live_metrics,
    record_widths,
    report_widths,
    require_width_open,
    widths_table,
)
from serac_core.workspace.candidate import Candidate, take_candidate
from serac_core.workspace.pipeline import is_up_to_date
from serac_core.workspace.reports import keep_reports
from serac_core.workspace.runs import Run, find_checkout, start_run
from serac_core.workspace.width import narrow, widen


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
    widths:
        Of a ramp: each width with its metrics and verdict.
    """

    changed: bool
    release: str
    copy: Path
    published_to: str
    stages_run: tuple[str, ...] = ()
    snapshot_of: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    gate: GateResult | None = None
    widths: tuple[dict[str, Any], ...] = ()


@flow(name="retrain", persist_result=False)
def retrain(
    checkout: str = ".",
    include_uncommitted: bool = False,
    ramp: str | None = None,
    train_on: str | None = None,
) -> State[Outcome]:
    """Retrain from a checkout's last commit and publish a release if the gate opens.

    Parameters
    ----------
    checkout:
        A folder of the repository; the run works in a clone of it.
    include_uncommitted:
        Take uncommitted changes of the pipeline's inputs along, as a snapshot.
    ramp:
        Widths of the live edits to go through, e.g. `50,200,all`: each passes the gate before
        the next begins, the last is released. None: `retrain.ramp` of params.yaml.
    train_on:
        Deployment whose workers train, `train-on-gpu/train-on-gpu`; empty: this process does.
        None: `retrain.train_on` of params.yaml.

    Returns
    -------
    State
        Completed with an :class:`Outcome`; Failed with the :class:`SeracError` when an
        input is wrong, a stage fails or the gate is closed: then nothing is published.
    """
    log_errors_plainly()
    try:
        root = find_checkout(checkout)
        settings = load_params(root / "params.yaml").retrain
        widths = parse_ramp(settings.ramp if ramp is None else ramp)
        trainer = settings.train_on if train_on is None else train_on
        with start_run(root, "retrain") as run:
            outcome = build_again_when_overtaken(
                run,
                lambda: retrain_in_clone(run, include_uncommitted, widths, trainer),
                say=say,
            )
    except SeracError as error:
        return Failed(message=str(error), data=error)
    what = "released" if outcome.changed else "nothing changed, nothing published: champion"
    return Completed(message=f"{what} {outcome.release}", data=outcome)


def retrain_in_clone(run: Run, include_uncommitted: bool, ramp: Ramp, train_on: str) -> Outcome:
    """The main path: clone, stages, gate, release. What serves and judges runs once a width."""
    learn = learning(train_on)
    progress = Progress(steps=len(learn) + 3 * len(ramp.widths) + 4)
    candidate = take_clone(run, include_uncommitted)
    progress.advance()
    if candidate.is_released:
        return champion_stays(run, candidate)

    prepare_remote(run)
    if candidate.releases and is_up_to_date(run.workspace, "package"):
        return champion_stays(run, candidate)
    stages_run = version_edits(run)
    progress.advance()
    live = describe_live_edits(run.workspace)
    require_enough_edits(ramp, live.count)
    for reproduce_stages in learn:
        stages_run += reproduce_stages(run)
        progress.advance()

    results: list[WidthResult] = []
    for width in ramp.widths:
        open_width(run, ramp, width, live, results)
        for reproduce_stages in serving(ramp, width):
            stages_run += reproduce_stages(run)
            progress.advance()
        if not width and is_released(run, candidate):
            return champion_stays(run, candidate)
        results.append(ask_gate(run, ramp, width, live, results))
        progress.advance()
        if ramp.narrower:
            require_width_open(ramp, results, live.count, run.reports)
        require_open(results[-1].gate, run.reports)

    upload_data(run)
    progress.advance()
    with slot(PUBLISHING):
        tagged = commit_and_tag(run)
        publish_release(run, candidate, tagged)
    announce_release(tagged.release.tag, how="retrain")
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
        gate=results[-1].gate,
        widths=tuple(result.row() for result in results) if ramp.narrower else (),
    )


version_edits = stages("version and validate edits", "validate-edits", "live-edits")


def learning(train_on: str) -> tuple[Callable[[Run], list[str]], ...]:
    """The steps that the models come from: trained by this process or a deployment's workers."""
    train: tuple[Callable[[Run], list[str]], ...] = (
        stages("train scope classifier", "train-scope"),
        stages("train counterfactual model", "train-counterfactual"),
    )
    if train_on:
        train = (on_workers(train_on, "train-scope", "train-counterfactual"),)
    return (
        stages("make training set", "training-set"),
        *train,
        stages("export and calibrate", "export", "calibrate"),
    )


def serving(ramp: Ramp, width: int) -> tuple[Callable[[Run], list[str]], ...]:
    """The steps that depend on which of the live edits are served."""
    name = width_name(width) if ramp.narrower else ""
    return (
        stages("remember and evaluate", "memory", "evaluate-model", "evaluate-live", width=name),
        stages("package", "package", width=name),
    )


@step("take clone")
def take_clone(run: Run, include_uncommitted: bool) -> Candidate:
    settings = load_params(run.checkout / "params.yaml").registry
    candidate = take_candidate(
        run, publish_to=settings.publish_to, include_uncommitted=include_uncommitted
    )
    say(f"run {run.id} works in {run.workspace}, on commit {candidate.commit[:10]}")
    return candidate


@step("open width")
def open_width(
    run: Run, ramp: Ramp, width: int, live: LiveEdits, passed: Sequence[WidthResult]
) -> None:
    """Let the clone's stages serve so many of the live edits; before all of them, note for the
    report which widths passed."""
    if width:
        narrow(run.workspace, width)
    else:
        widen(run.workspace)
        record_widths(run.workspace, live, passed)
    if ramp.narrower:
        say(
            f"width {width_name(width)} of {ramp}: {width or live.count} of {live.count} live edits"
        )


@step("gate")
def ask_gate(
    run: Run, ramp: Ramp, width: int, live: LiveEdits, passed: Sequence[WidthResult]
) -> WidthResult:
    champion = read_registry(run.workspace).champion
    against = release_copy(run, champion, say=say) if champion else None
    release = run.workspace / RELEASE_FOLDER
    config = load_params(run.workspace / "params.yaml").gate
    verdict = gate_release(release, against, config, sample=bool(width))
    write_verdict(
        run.workspace,
        verdict,
        champion=champion.tag if champion else None,
        narrower={result.name: result.gate for result in passed},
    )
    show_metrics(metric_rows(read_metrics(release)))
    show_gate(verdict)
    metrics = read_live_metrics(release / "report" / "live")
    result = WidthResult(width, width or live.count, metrics, verdict)
    reports = None if verdict.passed else keep_reports(run)
    if ramp.narrower:
        say(f"width {result.name}: the gate is {'open' if verdict.passed else 'closed'}")
        show_widths(widths_table([found.row() for found in (*passed, result)]))
        if reports:
            report_widths(reports / "report", [*passed, result])
    if reports:
        link_reports(reports)
    return result


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
