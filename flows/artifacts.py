"""What a run shows in Prefect: progress, metrics, the gate's table, links; keys begin with the
flow's name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from serac_core.release.gate import GateResult

_SHOWN_CHANGES = 500


class Progress:
    """The share of a run's steps that are done, as a Prefect progress artifact."""

    def __init__(self, steps: int, flow: str = "retrain") -> None:
        self._steps = steps
        self._done = 0
        self._artifact: Any = create_progress_artifact(
            progress=0.0, key=f"{flow}-progress", description="Steps of this run that are done"
        )

    def advance(self) -> None:
        self._done += 1
        update_progress_artifact(self._artifact, progress=100.0 * self._done / self._steps)


def show_metrics(rows: list[dict[str, Any]]) -> None:
    create_table_artifact(table=rows, key="retrain-metrics", description="Metrics")


def show_gate(gate: GateResult, flow: str = "retrain") -> None:
    create_table_artifact(
        table=[asdict(check) for check in gate.checks],
        key=f"{flow}-gate",
        description="The gate is open" if gate.passed else "The gate is closed",
    )


def show_widths(rows: list[dict[str, Any]]) -> None:
    create_table_artifact(table=rows, key="retrain-widths", description="The widths of the ramp")


def show_changes(rows: list[dict[str, Any]]) -> None:
    create_table_artifact(
        table=rows, key="update-edits-changes", description="Edits by what became of them"
    )


def link_reports(folder: Path, flow: str = "retrain") -> None:
    """Link to the HTML pages (report, Data Docs) in a folder of reports."""
    for name, pattern in (("report", "report.html"), ("data-docs", "index.html")):
        page = next(iter(sorted(folder.rglob(pattern), key=lambda path: len(path.parts))), None)
        if page:
            create_link_artifact(
                link=page.resolve().as_uri(), key=f"{flow}-{name}", link_text=page.name
            )
