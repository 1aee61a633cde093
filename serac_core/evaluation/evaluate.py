"""The two evaluations of dvc.yaml: the models on edits never trained on, and the live edits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.config import Params
from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.agreement import (
    NEAR_THRESHOLD,
    Routed,
    compare_routing,
    near_threshold,
)
from serac_core.evaluation.item_columns import COLUMNS_FILE, ITEMS_FILE, ItemColumns
from serac_core.evaluation.items import Item, questions_of, read_traffic, write_items
from serac_core.evaluation.metrics import FoldScores, compute_metrics
from serac_core.evaluation.plots import write_plots
from serac_core.evaluation.scoring import load_models, score_fold, score_questions
from serac_core.progress import Say

if TYPE_CHECKING:
    from serac_core.scope import EditMemory, Router
    from serac_core.scope.calibration_file import Thresholds
    from serac_core.scope.encoder import Encoder

SERVED_VARIANT = "fp32"


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Where the stages of dvc.yaml leave what is evaluated."""

    training_set: Path = Path("data/training")
    live_edits: Path = Path("data/live/edits.jsonl")
    encoder: Path = Path("build/scope/onnx")
    scope_model: Path = Path("build/scope/model")
    calibration: Path = Path("build/scope/calibration")
    memory: Path = Path("build/memory")
    counterfactual: Path = Path("build/counterfactual")


def evaluate_model(
    inputs: EvaluationInputs, params: Params, out: Path, cache_dir: Path, say: Say
) -> dict[str, Any]:
    """Evaluate on the test fold: edits, phrasings and relations that no training data holds.

    The memory holds all test edits at once. Beside them: token accuracies of the train and val
    folds, each with a memory of its own edits; routing by the other exported variants and by
    the PyTorch encoder, compared with the served one's.

    Writes `metrics.json`, `items.jsonl`, `routing.json`, `plots/` and `figures/` to `out`,
    whole or not at all.

    Returns
    -------
    dict
        The metrics; see :mod:`serac_core.evaluation.metrics`.

    Raises
    ------
    UnreadableEdits, UnreadableItems, UnreadableCalibration, UnwritableOutput
        And what loading the encoder, the memory and the models raises.
    """
    from serac_core.scope import OnnxEncoder, TorchEncoder

    thresholds = read_thresholds(inputs.calibration)
    served_at = thresholds[SERVED_VARIANT]
    encoder = OnnxEncoder.load(inputs.encoder, SERVED_VARIANT)
    models = load_models(inputs.counterfactual, params, cache_dir, say)

    folds: dict[str, FoldScores] = {}
    for fold in ("train", "val"):
        edits = read_edits(inputs.training_set / f"{fold}.jsonl")
        say(f"{fold}: {len(edits)} edits and their probes through the router")
        folds[fold] = score_fold(edits, _remembering(encoder, edits, served_at), models)

    edits = read_edits(inputs.training_set / "test.jsonl")
    traffic = read_traffic(inputs.training_set / "traffic.jsonl")
    questions = questions_of(edits, "model", traffic)
    say(f"test: {len(edits)} edits in memory, {len(questions)} questions")
    router = _remembering(encoder, edits, served_at)
    items = score_questions(questions, edits, router, models, say)
    metrics = compute_metrics(items, folds)

    served = [Routed.of_item(item) for item in items]
    queries = [item.question.query for item in items]
    routing: dict[str, Any] = {
        "near_threshold": near_threshold(queries, served, served_at.threshold)
    }
    for variant in sorted(thresholds.keys() - {SERVED_VARIANT}):
        say(f"{variant}: decisions compared with {SERVED_VARIANT}")
        other = OnnxEncoder.load(inputs.encoder, variant)
        decisions = _remembering(other, edits, thresholds[variant]).route(queries)
        theirs = [Routed.of_decision(decision) for decision in decisions]
        share, differing = compare_routing(queries, served, theirs)
        metrics[f"routing/{variant}_agreement"] = share
        routing[f"{variant}_differs"] = differing
    say("PyTorch: decisions compared with the exported graph's")
    original = TorchEncoder.load(inputs.scope_model, encoder.scorer)
    pytorch = _remembering(original, edits, served_at)
    theirs = [Routed.of_decision(decision) for decision in pytorch.route(queries)]
    share, differing = compare_routing(
        queries, served, theirs, away_from=served_at.threshold, margin=NEAR_THRESHOLD
    )
    metrics["parity/decisions"] = share
    routing["pytorch_differs"] = differing
    _write(out, metrics, items, routing, served_at.threshold)
    return metrics


def evaluate_live(
    inputs: EvaluationInputs, params: Params, out: Path, cache_dir: Path, say: Say
) -> dict[str, Any]:
    """Evaluate the live edits and their probes, with the memory that is served; where an evaluation
    by the same models is kept in the cache, only what a change of the edits can touch.

    Writes the same files as :func:`evaluate_model`. No live edits give no items and metrics
    without values, which is not an error: a release may serve none.

    Raises
    ------
    UnreadableEdits, UnreadableItems, UnreadableCalibration, UnwritableOutput
        And what loading the encoder, the memory and the models raises.
    """
    from serac_core.evaluation.live import evaluate_live_edits

    return evaluate_live_edits(inputs, params, out, cache_dir, say)


def read_thresholds(calibration: Path) -> dict[str, Thresholds]:
    """The thresholds of every calibrated variant.

    Raises
    ------
    UnreadableCalibration
        Also when there are none for the served variant.
    """
    from serac_core.scope.calibration_file import read_calibration

    path = calibration / "calibration.json"
    served = read_calibration(path, SERVED_VARIANT)
    names = json.loads(path.read_text(encoding="utf-8"))["variants"]
    return {SERVED_VARIANT: served, **{name: read_calibration(path, name) for name in names}}


def _router(encoder: Encoder, memory: EditMemory, found: Thresholds) -> Router:
    from serac_core.scope import Router

    return Router.calibrated(encoder, memory, found)


def _remembering(encoder: Encoder, edits: Sequence[Edit], found: Thresholds) -> Router:
    """A router whose memory is made of these edits now."""
    from serac_core.scope import EditMemory
    from serac_core.scope.encoder import RememberingEncoder

    encoder = RememberingEncoder(encoder)
    return _router(encoder, EditMemory.build(edits, encoder, batch_size=64), found)


def _write(
    out: Path,
    metrics: dict[str, Any],
    items: Sequence[Item],
    routing: dict[str, Any],
    threshold: float,
) -> None:
    with folder_aside(out) as folder:
        columns = ItemColumns.of_rows(item.row() for item in items)
        write_items(folder / ITEMS_FILE, items)
        write_evaluation(folder, metrics, columns, routing, threshold)


def write_evaluation(
    folder: Path,
    metrics: dict[str, Any],
    columns: ItemColumns,
    routing: dict[str, Any],
    threshold: float,
) -> None:
    """Write what an evaluation found beside its `items.jsonl`."""
    for name, content in (
        ("metrics.json", metrics),
        ("routing.json", {"threshold": threshold, **routing}),
    ):
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    columns.write(folder / COLUMNS_FILE)
    write_plots(folder, columns, metrics, threshold)
