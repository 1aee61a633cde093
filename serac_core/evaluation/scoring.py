"""From questions to scored items: routed through the exported graph, answered, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.config import Params
from serac_core.edits.record import Edit
from serac_core.evaluation.base_answers import BaseAnswers, model_identity
from serac_core.evaluation.items import Item, Question, same_answer
from serac_core.evaluation.metrics import FoldScores
from serac_core.progress import Say, in_chunks

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel, TokenScore
    from serac_core.counterfactual.model import CounterfactualModel
    from serac_core.editing import Answer, Routing
    from serac_core.scope.router import Decision


@dataclass(frozen=True)
class Models:
    """The parts that answer: the base model, what it said before, the counterfactual model.

    `max_new_tokens` is the longest answer of both.
    """

    base: LanguageModel
    base_answers: BaseAnswers
    counterfactual: CounterfactualModel
    max_new_tokens: int = 24


def load_models(
    counterfactual: Path, params: Params, cache_dir: Path, say: Say, *, base: str | None = None
) -> Models:
    """The models of an evaluation.

    Parameters
    ----------
    counterfactual:
        The counterfactual model's folder.
    base:
        Instead of `models.base`.

    Raises
    ------
    SeracError
        As :func:`serac_core.base.loading.load_pretrained`.
    """
    from serac_core.base import LanguageModel
    from serac_core.counterfactual import CounterfactualModel

    name = base or params.models.base
    chat = params.models.chat_template
    model = LanguageModel.load(name, chat=chat)
    identity = model_identity(name, model.model.device.type)
    if identity is not None and model.chat is not None:
        identity += " chat"
    longest = params.counterfactual.max_new_tokens
    answers = BaseAnswers(
        model, max_new_tokens=longest, cache_dir=cache_dir, identity=identity, say=say
    )
    answering = CounterfactualModel.load(counterfactual, chat=chat, base=model)
    return Models(model, answers, answering, longest)


def score_questions(
    questions: Sequence[Question], edits: Sequence[Edit], router: Routing, models: Models, say: Say
) -> list[Item]:
    """Ask the edited model all questions and score what it says.

    The edited model generates every answer itself, out of scope too: an answer that is said
    to be the base model's is compared with the one that the base gave alone.

    Parameters
    ----------
    router:
        Its memory holds `edits`.

    Returns
    -------
    list of Item
        In the order of the questions.
    """
    from serac_core.editing import EditedModel

    edited = EditedModel(models.base, models.counterfactual, router, edits)
    answers: dict[str, Answer] = {}
    queries = list(dict.fromkeys(question.query for question in questions))
    for part in in_chunks(queries, "edited answers", say):
        answers.update(
            zip(part, edited.answer(part, max_new_tokens=models.max_new_tokens), strict=True)
        )
    outside = [question.query for question in questions if question.out_of_scope]
    base_said = dict(zip(outside, models.base_answers.answers(outside), strict=True))

    by_id = {edit.id: edit for edit in edits}
    scored = [q for q in questions if (q.ground_truth if q.out_of_scope else q.target)]
    truths = [(q.ground_truth if q.out_of_scope else q.target) or "" for q in scored]
    decisions = [answers[question.query].decision for question in scored]
    after = _routed_scores([q.query for q in scored], truths, decisions, by_id, models)
    probes = [(q, t) for q, t in zip(scored, truths, strict=True) if q.out_of_scope]
    before = models.base_answers.scores([q.query for q, _ in probes], [t for _, t in probes])
    edited_score = {q.key: score for q, score in zip(scored, after, strict=True)}
    base_score = {q.key: score for (q, _), score in zip(probes, before, strict=True)}

    items = []
    for question in questions:
        answer = answers[question.query]
        base_answer = base_said.get(question.query) if question.out_of_scope else None
        pre, post = base_score.get(question.key), edited_score.get(question.key)
        compared = question.out_of_scope and pre is not None and post is not None
        items.append(
            Item(
                question=question,
                answer=answer.edited_answer,
                base_answer=base_answer,
                correct=(
                    answer.edited_answer == base_answer
                    if question.out_of_scope
                    else same_answer(answer.edited_answer, question.target or "")
                ),
                in_scope=answer.decision.in_scope,
                edit_id=answer.decision.edit_id,
                nearest_edit_id=answer.decision.nearest_edit_id,
                score=answer.decision.score,
                token_accuracy=post.accuracy if post and not question.out_of_scope else None,
                pre_accuracy=pre.accuracy if compared and pre else None,
                post_accuracy=post.accuracy if compared and post else None,
                pre_exact=pre.exact if compared and pre else None,
                post_exact=post.exact if compared and post else None,
                argmax_changed=_argmax_changed(pre, post) if compared and pre and post else None,
            )
        )
    return items


def score_fold(edits: Sequence[Edit], router: Routing, models: Models) -> FoldScores:
    """Token accuracies on another fold's edit prompts and probes, through the router.

    The router's memory holds `edits`; no answer is generated.
    """
    by_id = {edit.id: edit for edit in edits}
    prompts, targets = [edit.prompt for edit in edits], [edit.target_new for edit in edits]
    edit_scores = _routed_scores(prompts, targets, router.route(prompts), by_id, models)
    probes = dict.fromkeys(
        (probe.prompt, probe.ground_truth)
        for edit in edits
        for probe in edit.locality
        if probe.ground_truth
    )
    queries, truths = [query for query, _ in probes], [truth for _, truth in probes]
    pre = models.base_answers.scores(queries, truths)
    post = _routed_scores(queries, truths, router.route(queries), by_id, models)
    return FoldScores(
        edit=tuple(score.accuracy for score in edit_scores),
        pre=tuple(score.accuracy for score in pre),
        post=tuple(score.accuracy for score in post),
    )


def _routed_scores(
    queries: Sequence[str],
    truths: Sequence[str],
    decisions: Sequence[Decision],
    edits: dict[str, Edit],
    models: Models,
) -> list[TokenScore]:
    """Teacher-forced scores by the model that the router sends each query to."""
    routed_in = [n for n, decision in enumerate(decisions) if decision.in_scope]
    routed_out = [n for n, decision in enumerate(decisions) if not decision.in_scope]
    scores: dict[int, TokenScore] = {}
    if routed_in:
        found = models.counterfactual.score(
            [edits[decisions[n].edit_id or ""] for n in routed_in],
            [queries[n] for n in routed_in],
            [truths[n] for n in routed_in],
        )
        scores.update(zip(routed_in, found, strict=True))
    if routed_out:
        found = models.base_answers.scores(
            [queries[n] for n in routed_out], [truths[n] for n in routed_out]
        )
        scores.update(zip(routed_out, found, strict=True))
    return [scores[n] for n in range(len(queries))]


def _argmax_changed(base: TokenScore, edited: TokenScore) -> bool:
    """Any answer token predicted otherwise; models of two vocabularies count as differing."""
    return list(base.predicted_ids) != list(edited.predicted_ids)
