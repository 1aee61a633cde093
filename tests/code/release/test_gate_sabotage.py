"""Sabotaged models close the gate, and for the right reason."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from small_world import (
    ConstantEncoder,
    KeywordEncoder,
    WordModel,
    make_edits,
    random_language_model,
    reading_model,
)

from serac_core.config import GateConfig
from serac_core.counterfactual import CounterfactualModel
from serac_core.evaluation.base_answers import BaseAnswers
from serac_core.evaluation.items import questions_of
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.scoring import Models, score_questions
from serac_core.release.gate import Latency, run_gate
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import Router

PARITY = {"parity": {"fp32": {"max_abs_diff": 0.0}}}
FAST = Latency(1.0, 1.0, 1)


def evaluated(encoder, counterfactual, edits, base=None):
    base = base or WordModel()
    models = Models(base, BaseAnswers(base, max_new_tokens=8), counterfactual, max_new_tokens=8)
    router = Router(encoder, EditMemory.build(edits, encoder), 0.7)
    questions = questions_of(edits, "model", traffic=["hello you"])
    items = score_questions(questions, edits, router, models, lambda line: None)
    return compute_metrics(items), [item.row() for item in items]


def failed(metrics, rows, champion=None):
    result = run_gate(metrics, rows, champion, PARITY, FAST, GateConfig())
    return {check.name for check in result.failed}


@pytest.fixture(scope="module")
def random_model():
    """A real network that was never trained."""
    return random_language_model()


def test_a_classifier_for_which_everything_is_in_scope_closes_the_gate():
    edits = make_edits(with_subjects=False)
    good_metrics, good_rows = evaluated(KeywordEncoder(), reading_model(), edits)
    assert failed(good_metrics, good_rows) == set()
    metrics, rows = evaluated(ConstantEncoder(), reading_model(), edits)
    assert {name for name in metrics if name.startswith("routing/false")} == {
        "routing/false_route/same_subject",
        "routing/false_route/same_relation",
        "routing/false_route/unrelated",
        "routing/false_route/traffic",
    }
    assert all(metrics[name] == 1.0 for name in metrics if name.startswith("routing/false"))
    assert failed(metrics, rows) >= {
        "locality/same_subject",
        "locality/same_relation",
        "locality/unrelated",
        "locality/traffic",
        "answers_changed/upper95",
        "stability/pre_post",
        "stability/mcnemar_p",
    }
    assert "regression/model/unrelated" in failed(metrics, rows, champion=good_rows)


def test_an_encoder_without_meaning_fails_on_near_misses_of_the_same_subject():
    metrics, rows = evaluated(ConstantEncoder(), reading_model(), make_edits())
    assert failed(metrics, rows) == {
        "locality/same_subject",
        "answers_changed/upper95",
        "stability/pre_post",
        "stability/mcnemar_p",
    }


def test_a_counterfactual_model_of_random_weights_closes_the_gate(random_model):
    edits = make_edits()
    metrics, rows = evaluated(KeywordEncoder(), CounterfactualModel(random_model), edits)
    assert failed(metrics, rows) == {
        "edit/acc",
        "edit/exact_match",
        "generalization",
        "generalization/held_out_relations",
    }
    assert metrics["routing/true_route"] == 1.0
    _, good_rows = evaluated(KeywordEncoder(), reading_model(), edits)
    assert failed(metrics, rows, champion=good_rows) >= {
        "regression/model/edit",
        "regression/model/rephrase",
    }


def test_a_random_base_is_called_uninformative_and_still_judged(random_model):
    edits = make_edits()[:20]
    metrics, rows = evaluated(KeywordEncoder(), reading_model(), edits, base=random_model)
    assert metrics["acc/pre"] < 0.2
    assert metrics["routed_out/answers_changed"] == 0.0
    result = run_gate(metrics, rows, None, PARITY, FAST, GateConfig())
    notes = {check.name: check.note for check in result.checks}
    assert notes["stability/pre_post"].startswith("uninformative")
