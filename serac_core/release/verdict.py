"""What becomes of the gate's answer: gate.json beside the release, or the end of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serac_core.errors import NegativeAnswer
from serac_core.release.gate import GateResult, render_table
from serac_core.release.manifest import InvalidRelease
from serac_core.workspace.candidate import GATE_FILE


class GateClosed(NegativeAnswer):
    """At least one check of the gate failed; the champion stays."""


def write_verdict(
    workspace: Path,
    result: GateResult,
    *,
    champion: str | None,
    narrower: Mapping[str, GateResult] | None = None,
) -> None:
    """Write gate.json, a plain Git file that is committed with the release.

    Parameters
    ----------
    champion:
        Tag of the release that it was compared with.
    narrower:
        By name, what the gate said of the widths before this one, in a ramp.
    """
    content: dict[str, Any] = {"champion": champion, **result.as_dict()}
    if narrower:
        content["widths"] = {name: found.as_dict() for name, found in narrower.items()}
    (workspace / GATE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def require_open(result: GateResult, reports: Path) -> None:
    """Stop here if a check failed.

    Raises
    ------
    GateClosed
        Its message is the whole table.
    """
    if not result.passed:
        raise GateClosed(
            f"the gate is closed; the champion stays, nothing is published\n{render_table(result)}",
            remedy=f"the report is in {reports}; the bounds are under `gate` in params.yaml",
        )


def read_metrics(release: Path) -> dict[str, Any]:
    """The metrics in a release's report.

    Raises
    ------
    InvalidRelease
    """
    path = release / "report" / "metrics.json"
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRelease(f"{path}: {error}", remedy="`dvc repro package` writes it") from error
    return metrics


def metric_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics as table rows: name, value, 95 % interval and number of items."""
    intervals = metrics.get("intervals", {})
    rows = []
    for name, value in metrics.items():
        if isinstance(value, int | float):
            found = intervals.get(name)
            interval = f"{found['low']:.4f} to {found['high']:.4f}" if found else ""
            n = found["n"] if found else ""
            rows.append({"metric": name, "value": round(value, 4), "95 %": interval, "n": n})
    return rows
