"""The gate: may a candidate be served? Absolute bounds, stability, parity, speed, the champion.

Every check fails closed: what was not measured does not pass. Three tests are of significance
*and* size, so that neither noise on few items nor a trifle on many closes the gate:

- stability: exact McNemar test of base against edited model, with `max_pre_post_difference`;
- champion: one-sided sign test on the items that both answered, with `max_regression`;
- live edits at a narrower width of a ramp, a sample of those to be served: the whole 95 % interval
  below the bound. Of all live edits, the bound itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serac_core.config import GateConfig
from serac_core.errors import SeracError
from serac_core.evaluation.item_columns import ITEMS_FILE, ItemColumns, as_columns
from serac_core.release.latency import Latency, measure_latency
from serac_core.statistics import sign_test_worse

SIGNIFICANT = 0.05
REQUIRED_LOCALITY = ("same_subject", "same_relation", "unrelated")
_TOKEN_FOR_TOKEN = "queries routed out are answered token for token as the base does"

Row = Mapping[str, Any]


class MissingGateEvidence(SeracError):
    """A file that the gate judges by is missing or unreadable."""


@dataclass(frozen=True)
class Check:
    """One check and its verdict.

    Attributes
    ----------
    value, bound:
        Numbers where there are any; `bound` says its direction (`>= 0.95`).
    note:
        What the value means, or why there is none.
    """

    name: str
    value: float | None
    bound: str
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class GateResult:
    """All checks; open when every one passed."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def run_gate(
    metrics: Mapping[str, Any],
    items: Sequence[Row] | ItemColumns,
    champion_items: Sequence[Row] | ItemColumns | None,
    parity: Mapping[str, Any],
    latency: Latency | None,
    config: GateConfig,
    *,
    sample: bool = False,
) -> GateResult:
    """Judge a candidate.

    Parameters
    ----------
    metrics, items:
        `metrics.json` and rows of `items.jsonl` of the candidate's evaluation; metrics of the
        live edits under `live`, where they were evaluated.
    champion_items:
        The champion's rows; None when there is no champion yet.
    parity:
        `export.json` of the candidate's encoder.
    latency:
        Fresh from :func:`measure_latency`; None closes the gate.
    sample:
        The live edits are only some of those to be served: a narrower width of a ramp.
    """
    return GateResult(
        (
            *_quality(metrics, config),
            *_live(metrics.get("live"), config, sample),
            *_stability(metrics, config),
            *_export(metrics, parity, config),
            _speed(latency, config),
            *_against_champion(items, champion_items, config),
        )
    )


def gate_release(
    release: str | Path, champion: str | Path | None, config: GateConfig, *, sample: bool = False
) -> GateResult:
    """Judge a release directory against the champion's, latency measured now.

    `sample` as in :func:`run_gate`.

    Raises
    ------
    MissingGateEvidence
        Metrics below `report/`, or `scope/export.json`, can't be read.
    UnreadableItems
    """
    release = Path(release)
    return run_gate(
        _metrics(release),
        _items(release),
        _items(Path(champion)) if champion else None,
        _read_json(release / "scope" / "export.json"),
        measure_latency(release),
        config,
        sample=sample,
    )


def render_table(result: GateResult) -> str:
    """The checks as text: check, value, bound, verdict, note."""
    rows = [("check", "value", "bound", "verdict", "note")]
    rows += [
        (
            check.name,
            "-" if check.value is None else f"{check.value:.4g}",
            check.bound,
            "passed" if check.passed else "FAILED",
            check.note,
        )
        for check in result.checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = ", ".join(check.name for check in result.failed)
    lines.append(
        f"gate closed: {failed}" if failed else f"gate open: {len(result.checks)} checks passed"
    )
    return "\n".join(lines)


def _quality(metrics: Mapping[str, Any], config: GateConfig) -> list[Check]:
    kinds = dict.fromkeys(
        (
            *(f"locality/{kind}" for kind in REQUIRED_LOCALITY),
            *(name for name in metrics if name.startswith("locality/")),
        )
    )
    return [
        _at_least(metrics, "edit/acc", config.edit_acc),
        _at_least(metrics, "edit/exact_match", config.exact_match),
        _at_least(metrics, "generalization", config.generalization),
        _at_least(
            metrics,
            "generalization/held_out_relations",
            config.generalization_held_out_relations,
        ),
        *(_at_least(metrics, name, config.locality) for name in kinds),
    ]


def _live(live: Mapping[str, Any] | None, config: GateConfig, sample: bool) -> list[Check]:
    """The live edits, by bounds of their own: few, hand-written, and of no fixed difficulty."""
    if live is None:
        return []
    if "edit/exact_match" not in live:
        name, bound = "live/edit/exact_match", f">= {config.live_exact_match:g}"
        return [Check(name, None, bound, True, "there are no live edits")]
    named = {f"live/{name}": value for name, value in live.items()}
    named["intervals"] = {f"live/{name}": i for name, i in live.get("intervals", {}).items()}
    kinds = [name for name in named if name.startswith("live/locality/")]
    return [
        _live_share(named, "live/edit/exact_match", config.live_exact_match, sample),
        *(_live_share(named, name, config.live_locality, sample) for name in kinds),
        *(
            _at_most(named, name, 0.0, note=_TOKEN_FOR_TOKEN)
            for name in named
            if name == "live/routed_out/answers_changed"
        ),
    ]


def _live_share(named: Mapping[str, Any], name: str, bound: float, sample: bool) -> Check:
    check = _at_least(named, name, bound)
    interval = named["intervals"].get(name)
    if check.passed or not sample or interval is None or interval["high"] < bound:
        return check
    note = f"{check.note}; chance may account for it on some of the live edits, so it passes"
    return replace(check, passed=True, note=note)


def _stability(metrics: Mapping[str, Any], config: GateConfig) -> list[Check]:
    return [
        _at_most(
            metrics,
            "answers_changed/upper95",
            config.max_answers_changed,
            note=f"one-sided 95 % bound of {_shown(metrics, 'answers_changed')}",
        ),
        _at_most(metrics, "routed_out/answers_changed", 0.0, note=_TOKEN_FOR_TOKEN),
        _pre_post(metrics, config),
        _mcnemar(metrics, config),
    ]


def _pre_post(metrics: Mapping[str, Any], config: GateConfig) -> Check:
    name, bound = "stability/pre_post", f"<= {config.max_pre_post_difference:g}"
    pre, post = metrics.get("acc/pre"), metrics.get("acc/post")
    if pre is None or post is None:
        return Check(name, None, bound, False, "acc/pre and acc/post were not measured")
    difference = abs(pre - post)
    if pre < config.min_pre_informative:
        return Check(name, difference, bound, True, _uninformative(pre, config))
    return Check(
        name,
        difference,
        bound,
        difference <= config.max_pre_post_difference,
        f"|acc/pre {pre:.4f} - acc/post {post:.4f}|",
    )


def _mcnemar(metrics: Mapping[str, Any], config: GateConfig) -> Check:
    name, bound = "stability/mcnemar_p", f">= {SIGNIFICANT:g}"
    p, pre = metrics.get("mcnemar/p"), metrics.get("acc/pre")
    if p is None or pre is None:
        return Check(name, None, bound, False, "the McNemar test was not made")
    if pre < config.min_pre_informative:
        return Check(name, p, bound, True, _uninformative(pre, config))
    lost, gained, n = (int(metrics[f"mcnemar/{key}"]) for key in ("lost", "gained", "n"))
    fall = (lost - gained) / n
    trifling = fall <= config.max_pre_post_difference
    note = f"{lost} right answers lost, {gained} gained of {n}"
    if p < SIGNIFICANT and trifling:
        note += f"; a fall of at most {config.max_pre_post_difference:g} passes"
    return Check(name, p, bound, p >= SIGNIFICANT or trifling, note)


def _uninformative(pre: float, config: GateConfig) -> str:
    return (
        f"uninformative: acc/pre {pre:.4f} is below {config.min_pre_informative:g}, the base knows "
        "too little for its accuracy to show harm; answers_changed decides"
    )


def _export(
    metrics: Mapping[str, Any], parity: Mapping[str, Any], config: GateConfig
) -> list[Check]:
    difference = _fp32_difference(parity)
    bound = f"<= {config.parity_fp32:g}"
    checks = [
        Check("parity/fp32", None, bound, False, "export.json names no difference for fp32")
        if difference is None
        else Check(
            "parity/fp32",
            difference,
            bound,
            difference <= config.parity_fp32,
            "largest embedding difference, ONNX fp32 - PyTorch",
        )
    ]
    if "parity/decisions" in metrics:
        checks.append(
            _at_least(
                metrics,
                "parity/decisions",
                1.0,
                note="decisions ONNX fp32 shares with PyTorch, away from the threshold",
            )
        )
    if "routing/int8_agreement" in metrics or "int8" in parity.get("parity", {}):
        checks.append(
            _at_least(
                metrics,
                "routing/int8_agreement",
                config.int8_agreement,
                note="decisions int8 shares with fp32",
            )
        )
    return checks


def _fp32_difference(parity: Mapping[str, Any]) -> float | None:
    found = parity.get("parity", {}).get("fp32", {}).get("max_abs_diff")
    return float(found) if isinstance(found, int | float) else None


def _speed(latency: Latency | None, config: GateConfig) -> Check:
    name, bound = "latency/ratio", f"<= {config.max_latency_ratio:g}"
    if latency is None:
        return Check(name, None, bound, False, "latency was not measured")
    return Check(
        name,
        latency.ratio,
        bound,
        latency.ratio <= config.max_latency_ratio,
        f"routing one query {latency.route_ms:.2f} ms, bare encoder pass "
        f"{latency.encode_ms:.2f} ms (medians of {latency.calls}, interleaved)",
    )


def _against_champion(
    items: Sequence[Row] | ItemColumns,
    champion_items: Sequence[Row] | ItemColumns | None,
    config: GateConfig,
) -> list[Check]:
    bound = f"<= {config.max_regression:g}"
    if champion_items is None:
        return [Check("regression", None, bound, True, "no champion yet: nothing to compare with")]
    now, before = as_columns(items), as_columns(champion_items)
    pairs = same_questions(now, before)
    if not len(pairs):
        return [
            Check(
                "regression",
                None,
                bound,
                True,
                f"not comparable: none of {len(now)} items is among the champion's {len(before)}",
            )
        ]
    named: dict[str, list[int]] = {}
    of_now, of_before = now.taken(pairs[:, 0]), before.taken(pairs[:, 1])
    for part in of_now.part.names:
        for group in of_now.group.names:
            of_I = of_now.part.are(part) & of_now.group.are(group)
            if of_I.any():
                named[f"{part}/{group}"] = lost_and_gained(of_before, of_now, of_I)
    return [_regression(name, config, *named[name]) for name in sorted(named)]


def same_questions(now: ItemColumns, before: ItemColumns) -> NDArray[np.int64]:
    """(P, 2) the places, now and before, of the questions that both asked."""
    _, now_P, before_P = np.intersect1d(now.key_I, before.key_I, return_indices=True)
    return np.stack([now_P, before_P], axis=1)


def lost_and_gained(before: ItemColumns, now: ItemColumns, of_I: NDArray[np.bool_]) -> list[int]:
    """Of the same questions: answers lost, answers gained, and how many there are."""
    was_I, is_I = before.correct_I[of_I], now.correct_I[of_I]
    lost, gained = was_I & ~is_I, is_I & ~was_I
    return [int(np.count_nonzero(lost)), int(np.count_nonzero(gained)), len(was_I)]


def _regression(name: str, config: GateConfig, lost: int, gained: int, total: int) -> Check:
    fall = (lost - gained) / total
    p = sign_test_worse(lost, gained)
    return Check(
        f"regression/{name}",
        fall,
        f"<= {config.max_regression:g}",
        fall <= config.max_regression or p >= SIGNIFICANT,
        f"against the champion on the same {total} items: {lost} lost, {gained} gained, "
        f"p = {p:.3g}",
    )


def _metrics(release: Path) -> dict[str, Any]:
    """Metrics of the model evaluation, those of the live edits under `live`."""
    metrics = _read_json(release / "report" / "metrics.json")
    live = release / "report" / "live" / "metrics.json"
    return {**metrics, "live": _read_json(live)} if live.exists() else metrics


def _items(release: Path) -> ItemColumns:
    """Items of both evaluations of a release."""
    parts = [release / "report", release / "report" / "live"]
    found = [ItemColumns.read(part) for part in parts if part == parts[0] or _has_items(part)]
    return ItemColumns.joined(found)


def _has_items(part: Path) -> bool:
    return (part / ITEMS_FILE).exists()


def _at_least(metrics: Mapping[str, Any], name: str, bound: float, note: str = "") -> Check:
    value = metrics.get(name)
    if not isinstance(value, int | float):
        return Check(name, None, f">= {bound:g}", False, "not measured: no item speaks of it")
    return Check(name, value, f">= {bound:g}", value >= bound, note or _interval_of(metrics, name))


def _at_most(metrics: Mapping[str, Any], name: str, bound: float, note: str) -> Check:
    value = metrics.get(name)
    if not isinstance(value, int | float):
        return Check(name, None, f"<= {bound:g}", False, "not measured: no item speaks of it")
    return Check(name, value, f"<= {bound:g}", value <= bound, note)


def _interval_of(metrics: Mapping[str, Any], name: str) -> str:
    found = metrics.get("intervals", {}).get(name)
    return f"95 %: {found['low']:.3f} to {found['high']:.3f}, n={found['n']}" if found else ""


def _shown(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    n = metrics.get("intervals", {}).get(name, {}).get("n", 0)
    return f"{value:.4f}, n={n}" if isinstance(value, int | float) else "nothing"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise MissingGateEvidence(
            f"{path}: {error}", remedy="run the stage that writes it: `dvc repro package`"
        ) from error
    return content
