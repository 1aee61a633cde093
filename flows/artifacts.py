"""What a retrain run shows in Prefect: progress, metrics, the gate's table, links."""

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


class Progress:
    """The share of a run's steps that are done, as a Prefect progress artifact."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._artifact: Any = create_progress_artifact(
            progress=0.0, key="retrain-progress", description="Steps of this run that are done"
        )

    def advance(self) -> None:
        self._done += 1
        update_progress_artifact(self._artifact, progress=100.0 * self._done / self._steps)


def show_metrics(rows: list[dict[str, Any]]) -> None:
    create_table_artifact(table=rows, key="retrain-metrics", description="Metrics")


def show_gate(gate: GateResult) -> None:
    create_table_artifact(
        table=[asdict(check) for check in gate.checks],
        key="retrain-gate",
        description="The gate is open" if gate.passed else "The gate is closed",
    )


def show_widths(rows: list[dict[str, Any]]) -> None:
    create_table_artifact(table=rows, key="retrain-widths", description="The widths of the ramp")


def link_reports(folder: Path) -> None:
    """Link to the HTML pages (report, Data Docs) in a folder of reports."""
    for key, pattern in (("retrain-report", "report.html"), ("retrain-data-docs", "index.html")):
        page = next(iter(sorted(folder.rglob(pattern), key=lambda path: len(path.parts))), None)
        if page:
            create_link_artifact(link=page.resolve().as_uri(), key=key, link_text=page.name)
