"""What a run that publishes nothing leaves for people: `.serac/reports/<run id>/`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serac_core.errors import NegativeAnswer
from serac_core.workspace.pipeline import StageFailed
from serac_core.workspace.runs import Run

VALIDATION_STAGE = "validate-edits"

# Folder in the clone -> folder in the report.
_REPORTS = {
    "build/validation/edits": "validation",
    "build/evaluation": "evaluation",
    "release/report": "report",
}


class InvalidEdits(NegativeAnswer):
    """The edit set breaks a rule that validation enforces."""


def keep_reports(run: Run) -> Path:
    """Copy the reports out of the clone before it is removed; returns their folder."""
    run.reports.mkdir(parents=True, exist_ok=True)
    for source, name in _REPORTS.items():
        if (run.workspace / source).is_dir():
            shutil.copytree(run.workspace / source, run.reports / name, dirs_exist_ok=True)
    return run.reports


@contextmanager
def failures_reported(run: Run) -> Iterator[None]:
    """Keep the reports when a stage fails, and say where they lie.

    Raises
    ------
    InvalidEdits
        The validation stage answered no.
    StageFailed
        Any other failure of a stage.
    """
    try:
        yield
    except StageFailed as error:
        reports = keep_reports(run)
        if error.stage == VALIDATION_STAGE and error.stage_exit_code == 1:
            raise InvalidEdits(
                "the edits are not valid, nothing was trained or published:\n"
                + "\n".join(error.stage_output),
                remedy=f"mend them; results and Data Docs are in {reports / 'validation'}",
            ) from error
        raise
