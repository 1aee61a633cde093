"""The report of a release: one HTML file with everything in it, for people."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serac_core.edits.atomic import write_atomically
from serac_core.errors import SeracError
from serac_core.evaluation.item_columns import ItemColumns
from serac_core.evaluation.items import read_items, rows_at
from serac_core.evaluation.metrics import relation_table
from serac_core.evaluation.plots import (
    DARK,
    LIGHT,
    Style,
    draw_curves,
    draw_quality,
    draw_relations,
    draw_scores,
    draw_shares,
)

SHOWN_FAILURES = 200
_TEMPLATE = "report.html.j2"
_TRAININGS = {"scope": "Scope classifier", "counterfactual": "Counterfactual model"}

Row = Mapping[str, Any]

MEANINGS = {
    "edit/acc": "token accuracy on the edit prompts, through the router (EasyEdit)",
    "edit/exact_match": "edit prompts whose whole answer is the new one",
    "generalization": "rephrasings, held out from training, whose whole answer is the new one",
    "generalization/token_acc": "the same by token accuracy (EasyEdit)",
    "generalization/held_out_relations": "the same, relations that no training data holds",
    "generalization/multi_word_targets": "the same, new answers of several words",
    "generalization/targets_absent_from_training": "the same, new answers never seen in training",
    "ES": "edit success: whole answers in scope, prompts and rephrasings (SERAC paper)",
    "ES/routed_right": "the same of those that were routed to their own edit",
    "locality/same_subject": "other questions about an edited subject, answered as the base does",
    "locality/same_relation": "the same question about other subjects, answered as the base does",
    "locality/unrelated": "unrelated facts, answered as the base does",
    "locality/distracting": "queries that quote the edit, answered as the base does",
    "locality/traffic": "everyday messages, answered as the base does",
    "answers_changed": "out-of-scope answers that are not the base model's",
    "answers_changed/upper95": "its one-sided 95 % upper bound",
    "routed_out/answers_changed": "queries routed out and yet not answered as the base does",
    "DD": "drawdown: out-of-scope probes with any answer token predicted otherwise",
    "acc/pre": "token accuracy of the base model on out-of-scope facts",
    "acc/post": "token accuracy of the edited model on out-of-scope facts",
    "mcnemar/p": "exact McNemar test, base against edited model",
    "portability": "queries that an edit implies, answered right",
    "routing/true_route": "in-scope queries routed to their own edit",
    "routing/int8_agreement": "decisions that the int8 encoder shares with fp32",
    "parity/decisions": "decisions that ONNX fp32 shares with PyTorch, away from the threshold",
    "edit/acc_train": "token accuracy on the training edits, through the router",
    "edit/acc_val": "token accuracy on the validation edits, through the router",
}


class IncompleteReport(SeracError):
    """A file that the report shows is missing or unreadable."""


def write_report(out_file: str | Path, folder: str | Path) -> None:
    """Write the report of a release from its report folder.

    Parameters
    ----------
    out_file:
        The HTML file to write; self-contained, light and dark. The same inputs give the
        same bytes.
    folder:
        The model evaluation's files; the live evaluation's below `live/`; the training logs as
        `training/{scope,counterfactual}/log.jsonl` where there are any; `widths.json` of a ramp.

    Raises
    ------
    IncompleteReport
        `metrics.json`, `routing.json` or `items.jsonl` can't be read.
    """
    import jinja2

    folder = Path(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = _number
    parts = [_part("model", "Edits never trained on", folder)]
    if (folder / "live").is_dir():
        parts.append(_part("live", "Live edits", folder / "live"))
    html = environment.get_template(_TEMPLATE).render(
        parts=parts,
        widths=_widths(folder / "widths.json"),
        trainings=[
            _training(title, read_items(log))
            for name, title in _TRAININGS.items()
            if (log := folder / "training" / name / "log.jsonl").is_file()
        ],
    )
    write_atomically(out_file, [html.encode("utf-8", "backslashreplace")])


def _part(name: str, title: str, folder: Path) -> dict[str, Any]:
    metrics, routing = _read_json(folder / "metrics.json"), _read_json(folder / "routing.json")
    items = ItemColumns.read(folder)
    threshold = float(routing["threshold"])
    relations = relation_table(items)
    wrong = np.flatnonzero(~items.correct_I)
    return {
        "name": name,
        "title": title,
        "questions": len(items),
        "threshold": threshold,
        "metrics": _metric_rows(metrics),
        "relations": relations,
        "failures": rows_at(folder / "items.jsonl", wrong[:SHOWN_FAILURES].tolist()),
        "failures_total": len(wrong),
        "routing": {key: found for key, found in routing.items() if isinstance(found, list)},
        "pictures": {
            "shares": _picture(lambda style: draw_shares(metrics, style)),
            "scores": _picture(lambda style: draw_scores(items, threshold, style)),
            "relations": _picture(lambda style: draw_relations(relations, style)),
        },
    }


def _widths(path: Path) -> dict[str, Any] | None:
    """The widths of a ramp with their metrics and verdicts; None where there was no ramp."""
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = _read_json(path)["widths"]
    drawn = ("edit/exact_match", "generalization", "locality/")
    sizes = {
        str(row["edits"]): {
            name: {"right": row["metrics"][name], **interval}
            for name, interval in row["intervals"].items()
            if name.startswith(drawn)
        }
        for row in rows
    }
    return {
        "rows": rows,
        "names": list(dict.fromkeys(name for row in rows for name in row["metrics"])),
        "picture": _picture(lambda style: draw_quality(sizes, style, "share")),
    }


def _metric_rows(metrics: Row) -> list[dict[str, Any]]:
    """Metrics in reading order: those with a meaning first, then the others by name."""
    intervals = metrics.get("intervals", {})
    named = [name for name in MEANINGS if name in metrics]
    others = sorted(
        name
        for name, value in metrics.items()
        if name not in MEANINGS and isinstance(value, int | float)
    )
    return [
        {
            "name": name,
            "value": metrics[name],
            "interval": intervals.get(name),
            "meaning": MEANINGS.get(name, ""),
        }
        for name in (*named, *others)
    ]


def _training(title: str, log: Sequence[Row]) -> dict[str, Any]:
    """Curves of a training, and each measure where it was first taken and at the end.

    A measure `NAME_before` is `NAME_val` before the first step. A row marked `final` is of the
    weights as stored, which may be those of an earlier step: it is in the table, in no curve.
    """
    names = list(dict.fromkeys(name for row in log for name in row))
    measures = [
        name
        for name in names
        if name.startswith(("edit/", "acc/", "generalization")) and not name.endswith("_before")
    ]
    taken = {name: [(row["step"], row[name]) for row in log if name in row] for name in names}
    before_after = []
    for name in measures:
        first = taken.get(name.replace("_val", "_before"), taken[name])
        step, before = min(first + taken[name], key=lambda point: point[0])
        before_after.append(
            {"name": name, "step": step, "before": before, "after": taken[name][-1][1]}
        )
    curves = [row for row in log if not row.get("final")]
    losses = [name for name in names if name.startswith("loss/")]
    return {
        "title": title,
        "before_after": before_after,
        "pictures": {
            "losses": _picture(lambda style: draw_curves(curves, losses, style)),
            "measures": _picture(lambda style: draw_curves(curves, measures, style)),
        },
    }


def _picture(draw: Callable[[Style], bytes | None]) -> dict[str, str] | None:
    """The picture in both styles as data URIs; None when there is nothing to draw."""
    light, dark = draw(LIGHT), draw(DARK)
    if light is None or dark is None:
        return None
    return {"light": _data_uri(light), "dark": _data_uri(dark)}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _number(value: object) -> str:
    """A number as people read it: four decimals for shares, as it is for counts and text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 5e-5 or value == 0 else f"{value:.1e}"
    return str(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IncompleteReport(
            f"{path}: {error}", remedy="run the evaluation stages: `dvc repro evaluate-model`"
        ) from error
    return content
