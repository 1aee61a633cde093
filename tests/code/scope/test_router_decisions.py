"""The router: which edit a query goes to, what bad queries do, why."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_encoder import graph

from serac_core.edits.record import Edit
from serac_core.scope import Decision, EditMemory, OnnxEncoder, Router
from serac_core.scope.calibration_file import UnreadableCalibration
from serac_core.scope.explain import explain
from serac_core.scope.memory import DamagedMemory, ForeignMemory
from serac_core.scope.router import NO_MATCH, decision_line
from serac_core.scope.session import UnknownVariant


@pytest.fixture
def router(edits, encoder):
    return Router(encoder, EditMemory.build(edits, encoder), threshold=0.8)


def routed(router, *queries):
    return [decision.edit_id for decision in router.route(queries)]


def test_subject_and_meaning_decide(router):
    assert routed(
        router,
        "The capital of France is",
        "the capital of NORWAY is",
        "which money does FRANCE use now?",
        "Tell me a joke about tea",
    ) == ["e-capital-france", "e-capital-norway", "e-currency-france", "e-joke"]
    assert (
        routed(
            router,
            "Which language is spoken in France",  # same subject, another relation
            "The capital of Bissau is",  # same relation, another subject
            "What is the capital of Guinea-Bissau?",  # a longer name that begins like the subject
            "Tell me a joke about bread",
            "weather now",
        )
        == [None] * 5
    )


def test_the_decision_says_what_was_compared(router, encoder):
    (near,) = router.route(["money France"])
    assert not near.in_scope
    assert near.edit_id is None
    assert near.nearest_edit_id == "e-currency-france"
    keys = encoder.encode(["money X", "Which money does X use?"])
    assert near.score == pytest.approx(float(keys[0] @ keys[1]), abs=1e-6)
    assert near.threshold == 0.8
    assert near.as_dict().keys() == {
        "query", "in_scope", "edit_id", "score", "threshold", "nearest_edit_id", "borderline",
    }  # fmt: skip


def test_a_score_at_the_threshold_is_in_scope(edits, encoder):
    memory = EditMemory.build(edits, encoder)
    query = "what is the capital of Norway"
    score = Router(encoder, memory, 0.0).route([query])[0].score
    assert Router(encoder, memory, score).route([query])[0].in_scope
    assert not Router(encoder, memory, np.nextafter(score, 2)).route([query])[0].in_scope


def test_the_newest_of_two_equal_edits_wins(encoder):
    edits = [
        Edit(id=f"e{n}", prompt="The capital of Norway is", subject="Norway", target_new=f"{n}")
        for n in range(5)
    ] + [Edit(id=f"w{n}", prompt="a joke", target_new=f"{n}") for n in range(5)]
    router = Router(encoder, EditMemory.build(edits, encoder), 0.8)
    assert routed(router, "The capital of Norway is", "a joke") == ["e4", "w4"]


def test_whole_texts_have_their_own_threshold_on_the_scale_of_the_others(edits, encoder):
    memory = EditMemory.build(edits, encoder)
    query = "please tell me a joke about tea"
    keys = encoder.encode([query, "Tell me a joke about tea"])
    cosine = float(keys[0] @ keys[1])
    for least, in_scope in ((cosine - 0.01, True), (cosine + 0.01, False)):
        (found,) = Router(encoder, memory, 0.3, whole_text_threshold=least).route([query])
        assert found.in_scope is in_scope
        assert found.score - 0.3 == pytest.approx(cosine - least, abs=1e-5)


def test_whole_texts_are_encoded_only_where_no_edit_about_a_subject_applies(
    edits, encoder, monkeypatch
):
    whole = Edit(id="e-whole", prompt="tell me about the capital of France", target_new="No.")
    router = Router(encoder, EditMemory.build([*edits, whole], encoder), 0.8, 0.9)
    passes = []
    encode = OnnxEncoder.encode
    monkeypatch.setattr(
        OnnxEncoder,
        "encode",
        lambda self, texts, *args: passes.append(list(texts)) or encode(self, texts, *args),
    )
    assert routed(router, "the capital of France is") == ["e-capital-france"]
    assert passes == [["the capital of X is"]]
    assert routed(router, "Tell me about the capital of France?") == ["e-whole"]  # its own prompt
    assert routed(router, "joke France") == [None]  # its subject's edits don't apply: both passes
    assert passes[-2:] == [["joke X"], ["joke France"]]
    # What is explained is what is routed, though a whole text may score higher.
    for query in ("the capital of France is", "Tell me about the capital of France?", "joke"):
        assert explain(router, query).decision == router.route([query])[0]


def test_a_cohort_takes_queries_away_that_ask_something_else(edits, make_encoder):
    query = "What is the language of France?"
    plain = OnnxEncoder.load(make_encoder("plain"))
    cohort = [
        ("What is the language of X?", "language"),
        ("Which language is spoken in X", "language"),
        ("The capital of X is", "capital"),
        ("Which money does X use?", "currency"),
    ]
    weighed = OnnxEncoder.load(make_encoder("weighed", cohort=cohort))
    for encoder, in_scope in ((plain, True), (weighed, False)):
        router = Router(encoder, EditMemory.build(edits, encoder), 0.25)
        assert router.route([query])[0].in_scope is in_scope
    assert routed(router, "The capital of France is") == ["e-capital-france"]


def test_a_batch_decides_as_one_at_a_time(router):
    queries = ["The capital of France is", "weather", "", "a joke about tea", "money in France"]
    for one, of_batch in zip(
        (router.route([query])[0] for query in queries), router.route(queries), strict=True
    ):
        assert of_batch.edit_id == one.edit_id
        assert of_batch.score == pytest.approx(one.score, abs=1e-6)
    assert router.route([]) == []


@pytest.mark.parametrize("query", ["", "   \t\n", "\0\0", "\u200b", "\ufeff"])
def test_an_empty_query_is_out_of_scope(router, query):
    (decision,) = router.route([query])
    assert not decision.in_scope
    assert decision.edit_id is None
    assert decision.query == query


@pytest.mark.parametrize(
    "query",
    [
        "The capital of France is \ud800",
        "The\0capital\0of\0France\0is",
        "The capital of France is" + " " * 100_000,
        "THE CAPITAL OF FRANCE IS\r\n",
    ],
)
def test_bad_characters_do_not_hide_a_query(router, query):
    assert routed(router, query) == ["e-capital-france"]
    assert json.loads(decision_line(router.route([query])[0]))["query"] == query


def test_a_huge_query_is_cut_and_decided(router):
    huge = "weather " * 100_000 + "The capital of France is"
    assert routed(router, huge) == [None]
    assert routed(router, "The capital of France is " + "weather " * 100_000) == [None]


@pytest.mark.parametrize("cohort", [(), [("X is", "capital"), ("money X", "currency")]])
def test_an_empty_memory_puts_nothing_in_scope(make_encoder, cohort):
    encoder = OnnxEncoder.load(make_encoder("empty", cohort=cohort))
    router = Router(encoder, EditMemory.build([], encoder), -1.0)
    assert router.route(["The capital of France is"]) == [
        Decision("The capital of France is", False, None, NO_MATCH, -1.0, None)
    ]
    assert "empty" in explain(router, "tea").reason


def test_an_unrelated_query_costs_no_encoder_pass(edits, encoder, monkeypatch):
    router = Router(encoder, EditMemory.build(edits[:4], encoder), 0.8)
    monkeypatch.setattr(encoder, "encode", None)
    assert router.route(["weather now"])[0].score == NO_MATCH


def test_a_memory_of_another_encoder_is_refused(edits, encoder, make_encoder):
    other = OnnxEncoder.load(make_encoder("other", {"encoder.onnx": graph(seed=8)}))
    with pytest.raises(ForeignMemory):
        Router(encoder, EditMemory.build(edits, other), 0.8)


def test_explain_gives_nearest_edits_and_the_reason(router):
    found = explain(router, "What is the capital of France?", k=2)
    assert [one.edit_id for one in found.candidates] == ["e-capital-france", "e-currency-france"]
    best = found.candidates[0]
    assert (best.prompt, best.compared) == (
        "The capital of France is", "What is the capital of X?",
    )  # fmt: skip
    assert found.decision == router.route(["What is the capital of France?"])[0]
    assert f"margin {found.decision.score - 0.8:+.4f}" in found.reason
    assert found.reason.startswith("in scope of e-capital-france")
    assert "out of scope" in explain(router, "France").reason
    assert "empty" in explain(router, " ").reason
    assert "whole text" in explain(router, "Tell me a joke about tea").reason
    few = Router(router.encoder, EditMemory.build([], router.encoder), 0.8)
    assert explain(few, "France").candidates == ()


def test_a_release_routes_by_each_variant(release):
    folder = release()
    for variant in ("fp32", "int8"):
        router = Router.load(folder, variant)
        assert router.encoder.variant == variant
        assert routed(router, "The capital of France is", "weather") == ["e-capital-france", None]
    with pytest.raises(UnknownVariant, match="fp16"):
        Router.load(folder, "fp16")


def test_a_release_with_altered_parts_is_refused(release):
    folder = release()
    keys = folder / "memory" / "keys-1-fp32.safetensors"
    keys.write_bytes(keys.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedMemory, match=r"keys-1-fp32"):
        Router.load(folder)
    (folder / "scope" / "encoder.onnx").write_bytes(graph(seed=8))
    with pytest.raises(ForeignMemory):
        Router.load(folder)
    (folder / "scope" / "calibration.json").write_text('{"variants": {}}')
    with pytest.raises(UnreadableCalibration, match="fp32"):
        Router.load(folder)
