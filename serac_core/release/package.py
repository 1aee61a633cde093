"""The release directory: everything a router needs, its report and its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serac_core.config import Params
from serac_core.edits.atomic import folder_aside
from serac_core.errors import SeracError
from serac_core.release.manifest import Manifest, write_manifest
from serac_core.release.widths import (
    read_live_metrics,
    recorded_widths,
    width_row,
    write_widths,
)

# Settings that shape a release's content; the others (gate, registry) only judge or place it.
_SHAPING = {
    "seed",
    "models",
    "training_set",
    "scope",
    "counterfactual",
    "export",
    "calibration",
}
_TRAINING_LOG = "log.jsonl"
_CALIBRATION = "calibration.json"


class MissingArtifact(SeracError):
    """What a release is made of is not there."""


@dataclass(frozen=True)
class Artifacts:
    """Where the stages of dvc.yaml put what a release is made of, below the workspace's root."""

    live_edits: Path = Path("data/live/edits.jsonl")
    memory: Path = Path("build/memory")
    encoder: Path = Path("build/scope/onnx")
    calibration: Path = Path("build/scope/calibration")
    scope_model: Path = Path("build/scope/model")
    counterfactual: Path = Path("build/counterfactual")
    model_evaluation: Path = Path("build/evaluation/model")
    live_evaluation: Path = Path("build/evaluation/live")
    validation: Path = Path("build/validation/edits")


def package_release(workspace: Path, out: Path, params: Params) -> Manifest:
    """Put a release together: written aside, fsynced, renamed; complete or absent.

    The same artefacts and settings give the same bytes.

    Parameters
    ----------
    workspace:
        Root of the project, where the stages left their outputs.
    out:
        The release directory to write; an earlier one is replaced.

    Raises
    ------
    MissingArtifact
        Names the first artefact that is missing.
    UnwritableOutput
        The directory can't be written (disk full, no permission); nothing is left.
    """
    artifacts = Artifacts()
    _require(workspace, artifacts)
    with folder_aside(out) as folder:
        _copy(workspace / artifacts.encoder, folder / "scope")
        shutil.copyfile(
            workspace / artifacts.calibration / _CALIBRATION, folder / "scope" / _CALIBRATION
        )
        _copy(workspace / artifacts.memory, folder / "memory")
        _copy(workspace / artifacts.counterfactual, folder / "counterfactual", (_TRAINING_LOG,))
        shutil.copyfile(workspace / artifacts.live_edits, folder / "edits.jsonl")
        _fill_report(workspace, artifacts, folder / "report")
        return write_manifest(
            folder,
            base_model=params.models.base,
            edits=_count_lines(workspace / artifacts.live_edits),
            params=params.model_dump(mode="json", include=_SHAPING),
        )


def _require(workspace: Path, artifacts: Artifacts) -> None:
    for name, path in vars(artifacts).items():
        if not (workspace / path).exists():
            raise MissingArtifact(
                f"{workspace / path} is missing ({name.replace('_', ' ')})",
                remedy="`dvc repro package` builds what a release is made of",
            )


def _fill_report(workspace: Path, artifacts: Artifacts, folder: Path) -> None:
    """The model evaluation's files, the live evaluation's below `live/`, what they were made
    from (training logs, calibration, Data Docs), the widths of a ramp that ended in these live
    edits, and `report.html` with all of it."""
    from serac_core.evaluation.report import write_report

    _copy(workspace / artifacts.model_evaluation, folder)
    _copy(workspace / artifacts.live_evaluation, folder / "live")
    _copy(workspace / artifacts.validation, folder / "validation")
    _copy(workspace / artifacts.calibration, folder / "calibration", (_CALIBRATION,))
    for part, trained in (
        ("scope", artifacts.scope_model),
        ("counterfactual", artifacts.counterfactual),
    ):
        (folder / "training" / part).mkdir(parents=True)
        shutil.copyfile(
            workspace / trained / _TRAINING_LOG, folder / "training" / part / _TRAINING_LOG
        )
    live_edits = workspace / artifacts.live_edits
    if passed := recorded_widths(workspace, live_edits):
        metrics = read_live_metrics(folder / "live")
        write_widths(folder, [*passed, width_row(0, _count_lines(live_edits), metrics)])
    write_report(folder / "report.html", folder)


def _copy(source: Path, destination: Path, left_out: Iterable[str] = ()) -> None:
    shutil.copytree(
        source,
        destination,
        ignore=shutil.ignore_patterns(*left_out),
        copy_function=shutil.copyfile,
        dirs_exist_ok=True,
    )


def _count_lines(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(1 for line in handle if line.strip())
