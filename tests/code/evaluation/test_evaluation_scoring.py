"""Scoring through the real router and edited model, in a world small enough to know by heart."""

import pytest
from small_world import KeywordEncoder, WordModel, make_edits, reading_model

from serac_core.config import GateConfig
from serac_core.evaluation.agreement import Routed, compare_routing, near_threshold
from serac_core.evaluation.base_answers import BaseAnswers, model_identity
from serac_core.evaluation.items import questions_of
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.scoring import Models, score_fold, score_questions
from serac_core.release.gate import Latency, render_table, run_gate
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import Router

PARITY = {"parity": {"fp32": {"max_abs_diff": 0.0}}}


class CountingModel(WordModel):
    def __init__(self):
        self.asked = []

    def generate(self, prompts, max_new_tokens=24, batch_size=64):
        self.asked += prompts
        return super().generate(prompts)


class MoodyModel(WordModel):
    """Answers otherwise in another batch, as EasyEdit's left padding makes it."""

    def generate(self, prompts, max_new_tokens=24, batch_size=64):
        said = super().generate(prompts)
        return said if len(said) > 200 else [answer + " perhaps" for answer in said]


def scored(base=None, counterfactual=None, encoder=None, edits=None, threshold=0.7):
    base = base or WordModel()
    edits = make_edits() if edits is None else edits
    models = Models(
        base, BaseAnswers(WordModel(), max_new_tokens=24), counterfactual or reading_model()
    )
    encoder = encoder or KeywordEncoder()
    router = Router(encoder, EditMemory.build(edits, encoder), threshold)
    questions = questions_of(edits, "model", traffic=["hello you"])
    return score_questions(questions, edits, router, models, lambda line: None), router, models


def test_good_parts_score_full_marks_and_open_the_gate():
    items, router, models = scored()
    metrics = compute_metrics(items, {"train": score_fold(make_edits(), router, models)})
    for name in (
        "edit/acc",
        "ES",
        "generalization",
        "locality/same_subject",
        "acc/pre",
        "acc/post",
    ):
        assert metrics[name] == 1.0, name
    assert metrics["DD"] == metrics["answers_changed"] == metrics["routed_out/answers_changed"] == 0
    assert (metrics["edit/acc_train"], metrics["acc/pre_train"]) == (1.0, 1.0)
    rows = [item.row() for item in items]
    result = run_gate(metrics, rows, rows, PARITY, Latency(1.0, 1.0, 1), GateConfig())
    assert result.passed, render_table(result)


def test_an_answer_routed_out_that_is_not_the_bases_is_seen():
    items, _, _ = scored(base=MoodyModel(), edits=make_edits()[:20])
    metrics = compute_metrics(items)
    assert metrics["routed_out/answers_changed"] == 1.0
    assert metrics["answers_changed"] == 1.0


def test_a_query_missed_by_the_router_counts_as_answered_by_the_base():
    items, _, _ = scored(threshold=2.0)
    metrics = compute_metrics(items)
    assert metrics["edit/acc"] == metrics["ES"] == metrics["routing/true_route"] == 0.0
    assert metrics["answers_changed"] == 0.0
    assert {item.answer for item in items if item.question.group == "edit"} <= {
        WordModel.say(item.question.query) for item in items
    }


def test_no_edits_is_no_error():
    items, _, _ = scored(edits=[])
    assert [item.question.group for item in items] == ["traffic"]
    assert compute_metrics(items)["answers_changed"] == 0.0


def test_the_base_is_asked_once_whatever_asks_again(tmp_path):
    for turn, model in enumerate((CountingModel(), CountingModel())):
        answers = BaseAnswers(model, max_new_tokens=4, cache_dir=tmp_path, identity="one")
        assert answers.answers(["coin", "river", "coin"])[0] == "true coin"
        answers.scores(["coin"], ["true coin"])
        assert answers.scores(["coin"], ["true coin"])[0].exact
        assert model.asked == ([] if turn else ["coin", "river"])
    for other in ({"identity": "two"}, {"max_new_tokens": 5}, {"identity": None}):
        model = CountingModel()
        settings = {"max_new_tokens": 4, "identity": "one", **other}
        BaseAnswers(model, cache_dir=tmp_path, **settings).answers(["coin"])
        assert model.asked == ["coin"], other


def test_a_damaged_cache_is_asked_anew(tmp_path):
    BaseAnswers(WordModel(), max_new_tokens=4, cache_dir=tmp_path, identity="one").answers(["coin"])
    file = next(tmp_path.rglob("*.sqlite"))
    file.write_text('{"answers": {"coin"')
    said = []
    answers = BaseAnswers(
        WordModel(), max_new_tokens=4, cache_dir=tmp_path, identity="one", say=said.append
    )
    assert answers.answers(["coin"]) == ["true coin"]
    assert "not readable" in said[0]


def test_another_file_is_another_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = model_identity(str(tmp_path))
    assert one == model_identity(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert model_identity(str(tmp_path)) != one
    assert model_identity("nobody/no-such-model-here") is None


def test_agreement_leaves_out_what_rounding_decides():
    served = [Routed(True, "e-1", 0.70005), Routed(True, "e-1", 0.9), Routed(False, None, 0.1)]
    others = [Routed(False, None, 0.69995), Routed(True, "e-2", 0.9), Routed(False, None, 0.2)]
    queries = ["near", "other edit", "same"]
    share, differing = compare_routing(queries, served, others)
    assert share == pytest.approx(1 / 3, abs=1e-6)
    assert [row["query"] for row in differing] == ["near", "other edit"]
    assert compare_routing(queries, served, others, away_from=0.7)[0] == 0.5
    assert [row["query"] for row in near_threshold(queries, served, 0.7)] == ["near"]
    assert compare_routing([], [], []) == (1.0, [])
