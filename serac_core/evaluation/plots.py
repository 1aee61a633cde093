"""Plots of an evaluation: data for `dvc plots`, and pictures in a light and a dark style.

The same data gives the same bytes: no dates, no software names, fixed sizes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serac_core.evaluation.item_columns import ItemColumns, as_columns
from serac_core.evaluation.items import IN_SCOPE, OUT_OF_SCOPE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 50
NO_MATCH = -1.0
_LOWEST, _HIGHEST = -0.6, 1.0
_DPI = 110
SHOWN_SHARES = (
    "edit/acc",
    "edit/exact_match",
    "generalization",
    "generalization/held_out_relations",
    "generalization/multi_word_targets",
    "generalization/targets_absent_from_training",
    "ES",
    "locality/same_subject",
    "locality/same_relation",
    "locality/unrelated",
    "locality/distracting",
    "locality/traffic",
    "acc/pre",
    "acc/post",
)

Row = Mapping[str, Any]
Rows = Sequence[Row] | ItemColumns


@dataclass(frozen=True)
class Style:
    """Colours of a picture."""

    background: str
    ink: str
    grid: str
    first: str
    second: str


LIGHT = Style("#ffffff", "#1f2328", "#d8dee4", "#1f6fb4", "#c4590a")
DARK = Style("#14181d", "#e6e9ec", "#343c45", "#6ab0f3", "#f2a65a")


def write_plots(folder: Path, rows: Rows, metrics: Row, threshold: float) -> None:
    """Write `plots/{scores,shares,relations}.json` and `figures/*.png` below a folder."""
    from serac_core.evaluation.metrics import relation_table

    relations = relation_table(rows)
    for name, content in (
        ("scores", score_histogram(rows)),
        ("shares", share_rows(metrics)),
        ("relations", relations),
    ):
        target = folder / "plots" / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    figures = {
        "scores": draw_scores(rows, threshold),
        "shares": draw_shares(metrics),
        "relations": draw_relations(relations),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, png in figures.items():
        if png is not None:
            (folder / "figures" / f"{name}.png").write_bytes(png)


def score_histogram(rows: Rows) -> list[dict[str, Any]]:
    """Share of the queries of a scope in each bin of scores; `score` is the bin's middle.

    Queries for which no edit came into question (score -1) are in no bin: the shares of a
    scope sum to what is left.
    """
    width = (_HIGHEST - _LOWEST) / BINS
    table = []
    for scope, scores in _scores_by_scope(rows).items():
        bins = ((scores[scores > NO_MATCH] - _LOWEST) / width).astype(np.int64)
        counts = np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS).tolist()
        table += [
            {
                "score": round(_LOWEST + (number + 0.5) * width, 4),
                "share": round(count / len(scores), 6),
                "scope": scope,
            }
            for number, count in enumerate(counts)
        ]
    return table


def share_rows(metrics: Row) -> list[dict[str, Any]]:
    """The metrics that are shares, with their intervals, in reading order."""
    intervals = metrics.get("intervals", {})
    return [
        {"metric": name, "value": metrics[name], **intervals[name]}
        for name in SHOWN_SHARES
        if name in metrics and name in intervals
    ]


def draw_scores(rows: Rows, threshold: float, style: Style = LIGHT) -> bytes | None:
    """Score distributions in and out of scope with the threshold; None without scores."""
    table = score_histogram(rows)
    if not table:
        return None
    width = (_HIGHEST - _LOWEST) / BINS
    with _figure(style, 7.2, 3.0) as figure:
        axes = figure.add_subplot()
        for scope, colour in (("in scope", style.first), ("out of scope", style.second)):
            bins = [row for row in table if row["scope"] == scope]
            unmatched = 1 - sum(row["share"] for row in bins)
            label = f"{scope} ({unmatched:.0%} without a candidate)" if unmatched > 5e-3 else scope
            if bins:
                axes.bar(
                    [row["score"] for row in bins],
                    [row["share"] for row in bins],
                    width=width,
                    color=colour,
                    alpha=0.75,
                    label=label,
                )
        axes.axvline(threshold, color=style.ink, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"threshold {threshold:.3f}",
            (threshold, axes.get_ylim()[1]),
            xytext=(-5, -12),
            textcoords="offset points",
            ha="right",
            color=style.ink,
        )
        axes.set_xlim(_LOWEST, _HIGHEST)
        axes.set_xlabel("score of the nearest edit in memory")
        axes.set_ylabel("share of queries")
        _legend(figure, style)
        return _png(figure, style)


def draw_drift(
    logged: Sequence[float], evaluated: Sequence[float], threshold: float, style: Style = LIGHT
) -> bytes:
    """Scores of logged decisions beside the evaluation's, of queries that an edit came into
    question for."""
    edges = [n / 40 for n in range(41)]
    with _figure(style, 7.2, 3.0) as figure:
        axes = figure.add_subplot()
        for name, scores, colour in (
            ("evaluation", evaluated, style.second),
            ("routers", logged, style.first),
        ):
            found = [score for score in scores if score > NO_MATCH]
            weights = [1 / max(1, len(found))] * len(found)
            label = f"{name} ({len(found)})"
            axes.hist(found, bins=edges, weights=weights, color=colour, alpha=0.6, label=label)
        axes.axvline(threshold, color=style.ink, linewidth=1.2, linestyle="--")
        axes.set_xlim(0, 1)
        axes.set_xlabel("score of the nearest edit in memory")
        axes.set_ylabel("share of those in question")
        _legend(figure, style)
        return _png(figure, style)


def draw_shares(metrics: Row, style: Style = LIGHT) -> bytes | None:
    """Each share with its 95 % interval; None when there is none."""
    table = share_rows(metrics)[::-1]
    if not table:
        return None
    with _figure(style, 7.2, 0.8 + 0.27 * len(table)) as figure:
        axes = figure.add_subplot()
        for height, row in enumerate(table):
            axes.plot([row["low"], row["high"]], [height, height], color=style.first, linewidth=2)
            axes.plot([row["value"]], [height], "o", color=style.first, markersize=5)
        axes.set_yticks(range(len(table)), [row["metric"] for row in table])
        axes.set_xlim(min([0.9, *(row["low"] - 0.02 for row in table)]), 1.005)
        axes.set_xlabel("share, with its 95 % interval")
        return _png(figure, style)


def draw_relations(table: Sequence[Row], style: Style = LIGHT) -> bytes | None:
    """Generalization and locality of each relation; None without relations."""
    table = [row for row in table if row["generalization"] is not None][::-1]
    if not table:
        return None
    with _figure(style, 7.2, 0.9 + 0.2 * len(table)) as figure:
        axes = figure.add_subplot()
        for name, colour, mark in (
            ("generalization", style.first, "o"),
            ("locality", style.second, "x"),
        ):
            points = [(row[name], at) for at, row in enumerate(table) if row[name] is not None]
            axes.plot(*zip(*points, strict=True), mark, color=colour, markersize=5, label=name)
        labels = [row["relation"] + (" (held out)" if row["held_out"] else "") for row in table]
        axes.set_yticks(range(len(table)), labels)
        axes.set_xlim(min([0.8, *(row["generalization"] - 0.03 for row in table)]), 1.01)
        axes.margins(y=0.02)
        _legend(figure, style)
        return _png(figure, style)


def draw_curves(log: Sequence[Row], names: Sequence[str], style: Style = LIGHT) -> bytes | None:
    """Lines of a training log over steps, one for each name logged twice; None for none."""
    curves = {
        name: [(row["step"], row[name]) for row in log if "step" in row and name in row]
        for name in names
    }
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return None
    lines = ("-", "--", ":", "-.")
    with _figure(style, 7.2, 2.8) as figure:
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(drawn.items()):
            axes.plot(
                *zip(*points, strict=True),
                color=(style.first, style.second, style.ink)[number % 3],
                linestyle=lines[number // 3 % 4],
                marker=".",
                label=name,
            )
        axes.set_xlabel("step")
        _legend(figure, style, columns=4)
        return _png(figure, style)


def draw_quality(
    sizes: Mapping[str, Row], style: Style = LIGHT, label: str = "routed right"
) -> bytes:
    """A share of each kind of query against the number of edits in memory: right routes, unless
    `label` says another."""
    kinds = list(dict.fromkeys(kind for figures in sizes.values() for kind in figures))
    with _figure(style, 7.2, 3.4) as figure:
        axes = figure.add_subplot()
        for number, kind in enumerate(kinds):
            points = [(int(size), row[kind]) for size, row in sizes.items() if kind in row]
            at = [size for size, _ in points]
            colour = (style.first, style.second, style.ink)[number % 3]
            axes.plot(
                at,
                [found["right"] for _, found in points],
                color=colour,
                linestyle=("-", "--", ":")[number // 3 % 3],
                marker=".",
                label=kind,
            )
            axes.fill_between(
                at,
                [found["low"] for _, found in points],
                [found["high"] for _, found in points],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        axes.set_xscale("log")
        axes.set_xlabel("edits in memory")
        axes.set_ylabel(label)
        _legend(figure, style, columns=4)
        return _png(figure, style)


_ANSWERED = ("ES", "generalization", "portability")


def draw_answers(answers: Mapping[str, Row], style: Style = LIGHT) -> bytes:
    """Share of right answers against the number of edits in memory."""
    rows = {
        size: {
            name: {"right": metrics[name], **interval}
            for name, interval in metrics["intervals"].items()
            if name in _ANSWERED or name.startswith(("locality/", "yes_no/"))
        }
        for size, metrics in answers.items()
    }
    return draw_quality(rows, style, "answered right")


def draw_speed(sizes: Mapping[str, Row], style: Style = LIGHT) -> bytes:
    """Latency of a query, and throughput in batches, against the number of edits in memory."""
    at = [int(size) for size in sizes]
    rows = list(sizes.values())
    with _figure(style, 7.2, 3.4) as figure:
        latency, throughput = figure.subplots(1, 2, width_ratios=(3, 2))
        for name, colour in (("router", style.first), ("encoder", style.second)):
            for quantile, line in (("p50", "-"), ("p99", "--")):
                latency.plot(
                    at,
                    [row[name][quantile] for row in rows],
                    color=colour,
                    linestyle=line,
                    marker=".",
                    label=f"{name} {quantile}",
                )
            throughput.plot(at, [row["batches"][name] for row in rows], color=colour, marker=".")
        anew = [
            (n, row["baseline"]["mean"])
            for n, row in zip(at, rows, strict=True)
            if "baseline" in row
        ]
        if anew:
            latency.plot(
                *zip(*anew, strict=True),
                ":",
                color=style.ink,
                marker="x",
                label="memory encoded anew",
            )
        for axes in (latency, throughput):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("edits in memory")
        latency.set_ylabel("ms a query")
        throughput.set_ylabel("queries a second, in batches")
        _legend(figure, style, columns=5)
        return _png(figure, style)


def _scores_by_scope(rows: Rows) -> dict[str, NDArray[np.float64]]:
    found = as_columns(rows)
    is_scored_I = ~np.isnan(found.score_I)
    scores = {
        scope: found.score_I[is_scored_I & found.group.are(*groups)]
        for scope, groups in (("in scope", IN_SCOPE), ("out of scope", OUT_OF_SCOPE))
    }
    return {scope: found for scope, found in scores.items() if len(found)}


@contextmanager
def _figure(style: Style, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in a style, independent of anybody's matplotlibrc."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "figure.facecolor": style.background,
                "axes.facecolor": style.background,
                "axes.edgecolor": style.grid,
                "axes.labelcolor": style.ink,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "grid.color": style.grid,
                "grid.linewidth": 0.6,
                "xtick.color": style.ink,
                "ytick.color": style.ink,
                "text.color": style.ink,
                "font.size": 9,
            }
        )
        yield Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, style: Style, columns: int = 2) -> None:
    """A legend above the axes, where it hides nothing."""
    figure.legend(
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=style.ink,
        fontsize=8,
    )


def _png(figure: Figure, style: Style) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=_DPI, facecolor=style.background, metadata={"Software": None}
    )
    return buffer.getvalue()
