"""How the widths of a ramp went: the record a release keeps of them, and the end of a run at one.

Each width is judged by the whole gate. The champion's answers to the same questions are those of
its whole memory. A narrower memory has fewer edits to mistake for one another: it is the easier
one, and a fall against the champion is hardly the width's doing. What it hides, a wider one shows;
at the last width like is compared with like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import write_atomically
from serac_core.edits.live import LIVE_FILE
from serac_core.ramp import Ramp, width_name
from serac_core.release.gate import Check, GateResult, render_table
from serac_core.release.manifest import InvalidRelease, file_sha256
from serac_core.release.publishing import LIVE_EDITS
from serac_core.release.verdict import GateClosed
from serac_core.workspace.candidate import WIDTHS_FILE

SHOWN_METRICS = ("edit/exact_match", "generalization", "locality/", "routing/false_route/")


class RampStopped(GateClosed):
    """A width did not pass the gate: nothing wider was tried, the champion stays."""


@dataclass(frozen=True)
class LiveEdits:
    """All live edits of a run: how many, and the SHA-256 of their file."""

    count: int
    sha256: str


@dataclass(frozen=True)
class WidthResult:
    """What the gate said of one width.

    Attributes
    ----------
    width:
        Live edits that it serves, oldest first; 0: all.
    edits:
        How many they are.
    metrics:
        Those of the live edits' evaluation.
    """

    width: int
    edits: int
    metrics: Mapping[str, Any]
    gate: GateResult

    @property
    def name(self) -> str:
        return width_name(self.width)

    def row(self) -> dict[str, Any]:
        """What reports show: the metrics that matter, the verdict and the checks that failed."""
        failed = [
            {"name": check.name, "value": check.value, "bound": check.bound}
            for check in self.gate.failed
        ]
        row = width_row(self.width, self.edits, self.metrics)
        return {**row, "passed": self.gate.passed, "failed": failed}


def width_row(width: int, edits: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the record for a width that is not judged yet (`passed` is None)."""
    intervals = metrics.get("intervals", {})
    shown = {
        name: value
        for name, value in metrics.items()
        if name.startswith(SHOWN_METRICS) and isinstance(value, int | float)
    }
    return {
        "width": width_name(width),
        "edits": edits,
        "metrics": shown,
        "intervals": {name: intervals[name] for name in shown if name in intervals},
        "passed": None,
        "failed": [],
    }


def read_live_metrics(evaluation: Path) -> dict[str, Any]:
    """The metrics of the live edits from the folder of their evaluation.

    Raises
    ------
    InvalidRelease
    """
    path = evaluation / "metrics.json"
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRelease(
            f"{path}: {error}", remedy="`dvc repro evaluate-live` writes it"
        ) from error
    return metrics


def describe_live_edits(workspace: Path) -> LiveEdits:
    """The live edits that a workspace's stages have made."""
    path = workspace / LIVE_EDITS / LIVE_FILE
    with path.open("rb") as handle:
        return LiveEdits(sum(1 for line in handle if line.strip()), file_sha256(path))


def record_widths(workspace: Path, live: LiveEdits, passed: Sequence[WidthResult]) -> None:
    """Write the workspace's widths.json, which the package stage reads: the widths that passed
    on the way to these live edits, for which alone the record stands."""
    rows = [result.row() for result in passed]
    _write(workspace / WIDTHS_FILE, {"live_edits": live.sha256 if rows else None, "widths": rows})


def recorded_widths(workspace: Path, live_edits: Path) -> list[dict[str, Any]]:
    """The rows of a workspace's record; none if it is of other live edits.

    Raises
    ------
    InvalidRelease
        widths.json is there and is no record.
    """
    path = workspace / WIDTHS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        of, rows = record["live_edits"], list(record["widths"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRelease(
            f"{path}: {type(error).__name__}: {error}",
            remedy=f"restore it: `git checkout -- {WIDTHS_FILE}`",
        ) from error
    return rows if of == file_sha256(live_edits) else []


def write_widths(report: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write widths.json into a report folder, where the report reads it."""
    _write(report / WIDTHS_FILE, {"widths": list(rows)})


def report_widths(report: Path, results: Sequence[WidthResult]) -> None:
    """Put all widths with their verdicts into a kept report, and write its page again."""
    from serac_core.evaluation.report import write_report

    write_widths(report, [result.row() for result in results])
    write_report(report / "report.html", report)


def require_width_open(
    ramp: Ramp, results: Sequence[WidthResult], live: int, reports: Path
) -> None:
    """Stop here if the newest width did not pass.

    Parameters
    ----------
    live:
        Number of all live edits.

    Raises
    ------
    RampStopped
        Names the width, each failed check with value and bound, and the widths that passed.
    """
    newest = results[-1]
    if newest.gate.passed:
        return
    which = f"the oldest {newest.edits} of {live} live edits" if newest.width else f"all {live}"
    passed = ", ".join(result.name for result in results[:-1]) or "none"
    raise RampStopped(
        f"the ramp {ramp} stopped at width {newest.name} ({which}): the gate is closed; the "
        "champion stays, nothing is published\n"
        + "\n".join(map(_sentence, newest.gate.failed))
        + f"\nwidths that passed: {passed}\n{render_table(newest.gate)}",
        remedy=f"the report of this width is in {reports}; mend or retract the edits that fail, "
        "train longer, or set the bounds under `gate` in params.yaml; the next run goes on from "
        "what is done",
    )


def widths_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the record as flat table rows: width, edits, metrics, verdict."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    return [
        {
            "width": row["width"],
            "edits": row["edits"],
            **{name: row["metrics"].get(name) for name in names},
            "verdict": "passed"
            if row["passed"]
            else f"FAILED: {', '.join(check['name'] for check in row['failed'])}",
        }
        for row in rows
    ]


def render_widths(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same as text: a column a width, as the metrics' names are long."""
    table = widths_table(rows)
    columns = [list(table[0]), *([_shown(cell) for cell in row.values()] for row in table)]
    widest = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(line, widest, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(check: Check) -> str:
    value = "was not measured" if check.value is None else f"is {check.value:.4g}"
    return f"  {check.name} {value}, must be {check.bound}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, [(json.dumps(content, indent=1) + "\n").encode()])
