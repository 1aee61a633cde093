"""Calibration: the scale and the threshold of each exported variant, from edits kept for it.

The memory holds the calibration edits: subjects never trained on, some relations too, and
rephrasings that training did not see, as in use. The scale is that of
:func:`serac_core.scope.scale.fit_scale`, the threshold's rule that of
:func:`serac_core.scope.probes.balanced_threshold`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.progress import tell
from serac_core.scope.calibration_file import Abstention
from serac_core.scope.probes import (
    FAR_KINDS,
    Outcome,
    Probed,
    Probing,
    balanced_threshold,
    read_traffic,
    traffic_routed_in,
    with_clear_probes,
)
from serac_core.scope.router import NO_MATCH
from serac_core.scope.session import OnnxEncoder, exported_variants
from serac_core.statistics import upper_bound_95

_WHOLE_TEXTS_ASKED = 1500  # questions; all would take as long as the masked ones


def calibrate(
    encoder_dir: str | Path,
    training_set: str | Path,
    out: str | Path,
    target_false_route: float,
    *,
    max_probes_routed: float = 1.0,
    misroute_cost: float = 2.0,
    verifier_band: float = 0.002,
    edits_in_memory: int = 0,
    abstention: Abstention | None = None,
    provider: str = "cpu",
) -> dict[str, Any]:
    """Write `calibration.json`, `scores.jsonl`, `misrouted.jsonl`, `curve.csv` and `curve.png`.

    Parameters
    ----------
    max_probes_routed:
        Largest share of the edits' probes out of scope that may be routed in.
    misroute_cost:
        A probe routed in costs as much as so many queries in scope routed out.
    verifier_band:
        As `calibration.verifier_band` of params.yaml.
    target_false_route:
        Largest share of everyday messages (traffic) that may be routed in.
    abstention:
        What routers do near the threshold; figures here are without it.
    edits_in_memory:
        With how many edits in memory it has to hold; 0: with those that calibrate.

    Returns
    -------
    dict
        The content of `calibration.json`. Of each variant: `threshold`, `whole_text_threshold`,
        `scale` (its weights; None where scores are differences of cosines), `verification` (None
        without a verifier), `true_route` of `n_in` rephrasings and prompts, `false_route` of
        `n_out` queries with its one-sided 95 % Clopper-Pearson bound, and the same for each kind;
        `traffic_routed_in` and its bound (:func:`serac_core.scope.probes.traffic_routed_in`).

    Raises
    ------
    MissingEncoderFile, UnavailableProvider, UnreadableEdits, UnreadableTraffic
    """
    encoder_dir, training_set = Path(encoder_dir), Path(training_set)
    edits = with_clear_probes(read_edits(training_set / "calibrate.jsonl"))
    traffic = read_traffic(training_set / "traffic.jsonl", "calibrate")
    stored = edits_in_memory or len(edits)
    growth = stored / max(1, len(edits))
    variants: dict[str, Any] = {}
    outcomes: dict[str, Outcome] = {}
    for variant in exported_variants(encoder_dir) or ["fp32"]:
        encoder = OnnxEncoder.load(encoder_dir, variant, "cuda" if variant == "fp16" else provider)
        tell(f"{variant}: asking {len(edits)} edits' own questions, subjects masked")
        probing = Probing(encoder, edits, traffic)
        scale = probing.fitted_scale()
        verification = probing.fitted_verification(scale, verifier_band) if scale else None
        outcome = probing.outcome(scale, verification)
        tell(f"{variant}: the same by whole texts")
        whole = Probing(
            encoder, edits, traffic, whole_texts=True, asked_at_most=_WHOLE_TEXTS_ASKED
        ).outcome()
        threshold = balanced_threshold(
            outcome, target_false_route, max_probes_routed, growth, misroute_cost
        )
        expected, bound = traffic_routed_in(outcome, threshold, growth)
        variants[variant] = {
            "threshold": threshold,
            "whole_text_threshold": balanced_threshold(
                whole, target_false_route, max_probes_routed, misroute_cost=misroute_cost
            ),
            "scale": list(scale.weights) if scale else None,
            "verification": asdict(verification) if verification else None,
            "target_false_route": target_false_route,
            "traffic_routed_in": expected,
            "traffic_routed_in_bound": bound,
            "encoder_digest": encoder.digest,
            **_rates(outcome, threshold),
        }
        outcomes[variant] = outcome
        tell(
            f"{variant}: threshold {threshold:.4f}, "
            f"routed right {variants[variant]['true_route']:.4f}, "
            f"false {variants[variant]['false_route']:.4f}; with {stored} edits in memory "
            f"{expected:.5f} of the traffic, at most {bound:.5f}"
        )
        if bound > target_false_route:
            tell(
                f"{variant}: {target_false_route:g} holds for the traffic that was asked, not yet "
                "for its upper bound; more lines of traffic make it tighter"
            )
    calibration = {
        "schema": 1,
        "rule": f"least miss + {misroute_cost:g} x routed-in probes; "
        "traffic at most target_false_route with edits_in_memory",
        "edits_in_memory": stored,
        "calibration_edits": len(edits),
        "abstention": asdict(abstention) if abstention else None,
        "variants": variants,
    }
    with folder_aside(out) as folder:
        text = json.dumps(calibration, indent=1, sort_keys=True) + "\n"
        (folder / "calibration.json").write_text(text, encoding="utf-8")
        _write_scores(folder, outcomes, variants)
        _write_curve(folder, outcomes, variants)
    return calibration


def _rates(outcome: Outcome, threshold: float) -> dict[str, Any]:
    wrong = [probe for probe in outcome.outside if not probe.is_right(threshold)]
    kinds: dict[str, dict[str, Any]] = {}
    for kind in sorted({probe.kind for probe in outcome.probes}):
        of_kind = [probe for probe in outcome.probes if probe.kind == kind]
        right = sum(probe.is_right(threshold) for probe in of_kind)
        kinds[kind] = {"right": right / len(of_kind), "n": len(of_kind)}
    return {
        "true_route": outcome.true_route(threshold),
        "n_in": len(outcome.inside),
        "false_route": outcome.false_route(threshold),
        "false_route_upper95": upper_bound_95(len(wrong), len(outcome.outside)),
        "n_out": len(outcome.outside),
        "kinds": kinds,
    }


def _row(probe: Probed) -> dict[str, Any]:
    return {
        "query": probe.query,
        "kind": probe.kind,
        "expected_edit_id": probe.expected,
        "nearest_edit_id": probe.nearest,
        "score": round(probe.score, 6),
    }


def _write_scores(folder: Path, outcomes: dict[str, Outcome], variants: dict[str, Any]) -> None:
    scores: list[dict[str, Any]] = []
    misrouted: list[dict[str, Any]] = []
    for variant, outcome in outcomes.items():
        threshold = variants[variant]["threshold"]
        for probe in outcome.probes:
            row = {"variant": variant, **_row(probe)}
            scores.append(row)
            if not probe.is_right(threshold):
                misrouted.append(row)
    for name, rows in (("scores.jsonl", scores), ("misrouted.jsonl", misrouted)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def _curve(outcome: Outcome) -> list[tuple[float, float, float, float]]:
    """(threshold, true route, near misses routed in, far queries routed in), 200 steps."""
    scores = [probe.score for probe in outcome.probes if probe.score > NO_MATCH] or [0.0, 1.0]
    low, high = min(scores), max(scores)
    near = [p for p in outcome.outside if p.kind not in FAR_KINDS]
    far = [p for p in outcome.outside if p.kind in FAR_KINDS]
    rows = []
    for step in range(201):
        threshold = low + (high - low) * step / 200
        rows.append(
            (
                round(threshold, 6),
                round(outcome.true_route(threshold), 6),
                round(_routed_in(near, threshold), 6),
                round(_routed_in(far, threshold), 6),
            )
        )
    return rows


def _routed_in(probes: Sequence[Probed], threshold: float) -> float:
    return sum(probe.score >= threshold for probe in probes) / max(1, len(probes))


def _write_curve(folder: Path, outcomes: dict[str, Outcome], variants: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    lines = ["variant,threshold,true_route,near_misses_routed_in,far_routed_in\n"]
    figure = Figure(figsize=(7, 3.2 * len(outcomes)), layout="constrained")
    axes = figure.subplots(len(outcomes), 1, squeeze=False)[:, 0]
    for plot, (variant, outcome) in zip(axes, outcomes.items(), strict=True):
        rows = _curve(outcome)
        lines += [f"{variant},{','.join(map(str, row))}\n" for row in rows]
        at = [row[0] for row in rows]
        plot.plot(at, [row[1] for row in rows], label="in scope: routed to its edit")
        plot.plot(at, [row[2] for row in rows], label="probes out of scope: routed in")
        plot.plot(at, [row[3] for row in rows], label="traffic: routed in")
        plot.axvline(
            variants[variant]["threshold"], color="black", linestyle=":", label="threshold"
        )
        plot.set(title=variant, xlabel="score", ylabel="share")
        plot.legend(fontsize=8)
    (folder / "curve.csv").write_text("".join(lines), encoding="utf-8")
    figure.savefig(folder / "curve.png", dpi=110, metadata={"Software": None})
