"""Steps that every flow which makes a release takes: stages, upload, commit, publish, keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flows.artifacts import link_reports
from flows.steps import say, step
from serac_core.config import load_params
from serac_core.release.copies import RELEASE_FOLDER, keep_copy
from serac_core.release.publishing import Tagged, commit_release, tag_release
from serac_core.release.registry import Version, publish
from serac_core.workspace.candidate import LOCK_FILE, Candidate, same_tree
from serac_core.workspace.pipeline import push_data, reproduce, set_default_remote
from serac_core.workspace.reports import failures_reported
from serac_core.workspace.runs import Run


def stages(name: str, *targets: str, width: str = "") -> Callable[[Run], list[str]]:
    """A step that brings stages of dvc.yaml up to date in the run's clone; names those that ran.

    In a ramp, step and progress lines name the width.
    """
    prefix = f"width {width}: " if width else ""

    @step(f"{prefix}{name}")
    def reproduce_stages(run: Run) -> list[str]:
        with failures_reported(run):
            return reproduce(
                run.workspace,
                targets,
                say=lambda line: say(f"{prefix}{line}"),
                log=run.log,
                environment=run.stage_environment,
            )

    return reproduce_stages


@step("prepare DVC remote")
def prepare_remote(run: Run) -> None:
    settings = load_params(run.workspace / "params.yaml").registry
    url = set_default_remote(
        run.checkout, run.workspace, settings.dvc_remote, settings.dvc_endpoint
    )
    say(f"data is published to {url}")


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
    link_reports(copy / "report", run.flow)
    return copy


def is_released(run: Run, candidate: Candidate) -> bool:
    """Whether all artefacts are those of the last release."""
    return bool(candidate.releases) and same_tree(run.workspace, candidate.releases, "", LOCK_FILE)
