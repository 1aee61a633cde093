"""Answers of an edited model on edits that it has never seen, at growing memories.

What :mod:`serac_core.evaluation.benchmark` routes is answered here: by the counterfactual model
from the edit it met, by the base model out of scope. The metrics are those of
:mod:`serac_core.evaluation.metrics`; near misses that the benchmark sets aside, and implied
questions whose right answer was the edit's own, are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.edits.jsonl import read_edits
from serac_core.edits.record import Edit, normalize_text
from serac_core.edits.yes_no import YES, rephrasings_of, yes_no_questions
from serac_core.evaluation.items import Item, Question, questions_of
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.scoring import Models, score_questions
from serac_core.progress import Say

if TYPE_CHECKING:
    from serac_core.editing import Routing


def trained_targets(release: Path) -> set[str] | None:
    """The normalised targets that a release of `--train` was trained on; None where it doesn't
    say."""
    file = release / "training" / "train.jsonl"
    if not file.exists():
        return None
    return {normalize_text(edit.target_new) for edit in read_edits(file)}


def questions_to_answer(
    edits: Sequence[Edit],
    traffic: Sequence[str],
    targets: set[str] | None,
    aside: Collection[tuple[str, str]],
) -> list[Question]:
    """What is asked about edits: prompts, rephrasings, probes, implied and yes/no questions.

    Parameters
    ----------
    targets:
        Of :func:`trained_targets`.
    aside:
        Kind and query of what is left out.
    """
    asked = []
    for edit in edits:
        known = {} if targets is None else {"target_in_training": _says(edit) in targets}
        implied = [p for p in edit.portability if normalize_text(p.ground_truth) != _says(edit)]
        update = {"rephrase_prompts": tuple(rephrasings_of(edit)), "portability": tuple(implied)}
        asked.append(edit.model_copy(update={**update, **known}))
    questions = questions_of(asked, "model", traffic)
    yes_no = [
        Question(
            part="model",
            group="yes_no",
            form=found.form,
            query=found.query,
            target=found.answer,
            expected_edit_id=found.edit.id,
            about=found.edit.subject,
        )
        for found in yes_no_questions(edits)
    ]
    kinds = {"edit": "prompt"}
    return [
        question
        for question in (*questions, *yes_no)
        if (kinds.get(question.group, question.group), question.query) not in aside
    ]


def answer_questions(
    questions: Sequence[Question],
    stored: Sequence[Edit],
    router: Routing,
    models: Models,
    say: Say,
) -> tuple[dict[str, Any], list[Item]]:
    """The metrics of an edited model with these edits in memory, and the scored items.

    Beside :func:`serac_core.evaluation.metrics.compute_metrics`: `yes_no/rule/FORM`, how often the
    rule "the target stands in the question" would be right.
    """
    items = score_questions(questions, stored, router, models, say)
    metrics = compute_metrics(items)
    targets = {edit.id: edit.target_new for edit in stored}
    for form in dict.fromkeys(q.form for q in questions if q.form):
        right = [
            (_stands_in(targets[q.expected_edit_id or ""], q.query) == (q.target == YES))
            for q in questions
            if q.form == form
        ]
        metrics[f"yes_no/rule/{form}"] = round(sum(right) / len(right), 6)
    return metrics, items


def _stands_in(target: str, query: str) -> bool:
    return normalize_text(target) in normalize_text(query)


def _says(edit: Edit) -> str:
    return normalize_text(edit.target_new)
