"""The evaluation of the live edits: all that a change can touch is asked, the rest carried over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serac_core.config import Params
from serac_core.edits.atomic import folder_aside
from serac_core.edits.live import line_id
from serac_core.edits.record import Edit
from serac_core.evaluation.agreement import NEAR_THRESHOLD
from serac_core.evaluation.base_answers import model_identity
from serac_core.evaluation.carried import (
    AskedIndex,
    Carried,
    Plan,
    compared_by,
    evaluation_context,
    keep_carried,
    merged_columns,
    merged_lines,
    plan_asking,
    read_carried,
    write_asked,
)
from serac_core.evaluation.evaluate import (
    SERVED_VARIANT,
    EvaluationInputs,
    read_thresholds,
    write_evaluation,
)
from serac_core.evaluation.item_columns import ITEMS_FILE, ItemColumns
from serac_core.evaluation.items import Item, Question, questions_of, rows_at
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.scoring import load_models, score_questions
from serac_core.progress import Say, in_chunks

if TYPE_CHECKING:
    from serac_core.scope import Router
    from serac_core.scope.router import Decision


@dataclass(frozen=True)
class _Known:
    """A router's decisions on some queries."""

    decisions: dict[str, Decision]

    def route(self, queries: Sequence[str]) -> list[Decision]:
        return [self.decisions[query] for query in queries]


def evaluate_live_edits(
    inputs: EvaluationInputs, params: Params, out: Path, cache_dir: Path, say: Say
) -> dict[str, Any]:
    """See :func:`serac_core.evaluation.evaluate.evaluate_live`."""
    from serac_core.scope import EditMemory, OnnxEncoder, Router

    served_at = read_thresholds(inputs.calibration)[SERVED_VARIANT]
    encoder = OnnxEncoder.load(inputs.encoder, SERVED_VARIANT)
    memory = EditMemory.load(inputs.memory, encoder.digest)
    router = Router.calibrated(encoder, memory, served_at)
    lines = inputs.live_edits.read_bytes().splitlines(keepends=True)
    context = evaluation_context(
        encoder.digest,
        (inputs.calibration / "calibration.json").read_bytes(),
        [model_identity(params.models.base), model_identity(str(inputs.counterfactual))],
        params.models.chat_template,
        params.counterfactual.max_new_tokens,
    )

    def ask(questions: Sequence[Question]) -> list[Item]:
        if not questions:
            return []
        known = _routed(router, [question.query for question in questions], say)
        met = {decision.edit_id for decision in known.decisions.values()}
        models = load_models(inputs.counterfactual, params, cache_dir, say)
        edits = [_edit(line) for line in lines if line_id(line) in met]
        return score_questions(questions, edits, known, models, say)

    carried = read_carried(cache_dir, context)
    with folder_aside(out) as folder:
        if carried is None:
            edits = [_edit(line) for line in lines]
            questions = questions_of(edits, "live")
            say(f"live: {len(edits)} edits in memory, {len(questions)} questions")
            rows = [item.row() for item in ask(questions)]
            columns, index = ItemColumns.of_rows(rows), AskedIndex.of(edits)
            _write_lines(folder, map(_line, rows))
            write_asked(folder, context, None)
        else:
            columns, index = _update(carried, lines, router, folder, ask, say)
        metrics = compute_metrics(columns)
        near_I = np.abs(columns.score_I - served_at.threshold) <= NEAR_THRESHOLD
        near = rows_at(folder / ITEMS_FILE, np.flatnonzero(near_I).tolist())
        names = ("query", "score", "in_scope")
        routing = {"near_threshold": [{name: row[name] for name in names} for row in near]}
        write_evaluation(folder, metrics, columns, routing, served_at.threshold)
    if context is not None:
        keep_carried(cache_dir, context, inputs.live_edits, out, index)
    return metrics


def _update(
    carried: Carried,
    lines: Sequence[bytes],
    router: Router,
    folder: Path,
    ask: Callable[[Sequence[Question]], list[Item]],
    say: Say,
) -> tuple[ItemColumns, AskedIndex]:
    """Write the items of the live edits, most of them carried over; their columns and index."""
    before, now = set(carried.edits), set(lines)
    added = [_edit(line) for line in lines if line not in before]
    removed = [_edit(line) for line in carried.edits if line not in now]
    plan = plan_asking(carried, added, removed)
    if any(not compared_by(edit) for edit in (*added, *removed)):
        plan = _with_changed_decisions(carried, plan, router, say)
    kept = len(carried.columns) - len(plan.dropped) - len(plan.again)
    say(
        f"live: {len(added)} edits new, {len(removed)} gone; {len(plan.questions)} questions "
        f"asked, {kept} carried over"
    )
    rows = [item.row() for item in ask(plan.questions)]
    _write_lines(folder, merged_lines(carried, plan, [_line(row) for row in rows]))
    write_asked(folder, carried.context, [row["key"] for row in rows])
    columns = merged_columns(carried, plan, ItemColumns.of_rows(rows))
    index = carried.index.without([edit.id for edit in removed]) + AskedIndex.of(added)
    return columns, index


def _with_changed_decisions(carried: Carried, plan: Plan, router: Router, say: Say) -> Plan:
    """The plan with every kept question whose decision is another by now."""
    say("an edit without a subject came or went: every question is routed again")
    decisions = _routed(router, carried.queries(), say).decisions
    differing = []
    settled = {*plan.dropped.tolist(), *plan.again.tolist()}
    for place, line in enumerate(carried.lines):
        if place in settled:
            continue
        row = json.loads(line)
        found = decisions[row["query"]]
        was = (row["in_scope"], row["edit_id"], row["nearest_edit_id"], row["score"])
        score = round(found.score, 6)
        if was != (found.in_scope, found.edit_id, found.nearest_edit_id, score):
            differing.append(place)
    again = np.union1d(plan.again, np.array(differing, dtype=np.int64))
    new = plan.questions[len(plan.again) :]
    return Plan((*carried.questions_at(again), *new), plan.dropped, again)


def _routed(router: Router, queries: Sequence[str], say: Say) -> _Known:
    distinct = list(dict.fromkeys(queries))
    decisions: dict[str, Decision] = {}
    for part in in_chunks(distinct, "routed", say):
        decisions.update(zip(part, router.route(part), strict=True))
    return _Known(decisions)


def _edit(line: bytes) -> Edit:
    return Edit.model_validate(json.loads(line))


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=True) + "\n").encode()


def _write_lines(folder: Path, lines: Iterable[bytes]) -> None:
    with (folder / ITEMS_FILE).open("wb") as handle:
        handle.writelines(lines)
