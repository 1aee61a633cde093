"""Each metric on items made by hand, where its value can be counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serac_core.edits import Edit
from serac_core.evaluation.items import (
    Item,
    Question,
    UnreadableItems,
    questions_of,
    read_items,
    read_traffic,
    same_answer,
    write_items,
)
from serac_core.evaluation.metrics import (
    FoldScores,
    compute_metrics,
    relation_table,
    token_accuracy,
)


def item(group, correct, **changes):
    outside = group not in ("edit", "rephrase", "portability")
    question = {
        "part": "model",
        "group": group,
        "query": changes.pop("query", f"{group} {item.count}"),
        "target": None if outside else "new",
        "expected_edit_id": "e-1" if group in ("edit", "rephrase") else None,
        "relation": changes.pop("relation", "capital"),
        "held_out_relation": changes.pop("held_out_relation", False),
        "several_words": changes.pop("several_words", False),
        "target_in_training": changes.pop("target_in_training", True),
    }
    item.count += 1
    values = {
        "answer": "new" if correct else "other",
        "base_answer": "old" if outside else None,
        "correct": correct,
        "in_scope": not outside,
        "edit_id": None if outside else "e-1",
        "nearest_edit_id": "e-1",
        "score": 0.9,
    }
    return Item(question=Question(**question), **{**values, **changes})


item.count = 0


def test_success_and_generalization():
    metrics = compute_metrics(
        [
            item("edit", True, token_accuracy=1.0),
            item("edit", False, token_accuracy=0.5),
            item("rephrase", True, token_accuracy=1.0, held_out_relation=True),
            item("rephrase", False, token_accuracy=0.0, held_out_relation=True),
            item("rephrase", True, token_accuracy=1.0, several_words=True),
            item("rephrase", False, token_accuracy=0.0, target_in_training=False),
        ]
    )
    assert metrics["edit/acc"] == 0.75
    assert metrics["edit/exact_match"] == 0.5
    assert metrics["generalization"] == 0.5
    assert metrics["ES"] == 0.5
    assert metrics["generalization/held_out_relations"] == 0.5
    assert metrics["generalization/multi_word_targets"] == 1.0
    assert metrics["generalization/targets_absent_from_training"] == 0.0
    assert metrics["intervals"]["edit/exact_match"]["n"] == 2
    assert "locality/unrelated" not in metrics
    assert "acc/pre" not in metrics


def test_stability():
    probe = {"pre_accuracy": 1.0, "pre_exact": True, "post_accuracy": 1.0, "post_exact": True}
    metrics = compute_metrics(
        [
            *(item("unrelated", True, argmax_changed=False, **probe) for _ in range(8)),
            item(
                "same_subject",
                False,
                in_scope=True,
                argmax_changed=True,
                **{**probe, "post_accuracy": 0.0, "post_exact": False},
            ),
            item("traffic", False),  # routed out and yet answered otherwise
        ]
    )
    assert metrics["locality/unrelated"] == 1.0
    assert metrics["locality/same_subject"] == 0.0
    assert metrics["answers_changed"] == 0.2
    assert metrics["answers_changed/upper95"] == pytest.approx(0.506901, abs=1e-5)
    assert metrics["routed_out/answers_changed"] == pytest.approx(1 / 9, abs=1e-6)
    assert metrics["DD"] == pytest.approx(1 / 9, abs=1e-6)  # traffic has no true answer
    assert metrics["acc/pre"] == 1.0
    assert metrics["acc/post"] == pytest.approx(8 / 9, abs=1e-6)
    assert (metrics["mcnemar/lost"], metrics["mcnemar/gained"], metrics["mcnemar/n"]) == (1, 0, 9)
    assert metrics["routing/false_route/same_subject"] == 1.0


def test_routed_to_another_edit_is_no_true_route():
    metrics = compute_metrics([item("edit", False, edit_id="e-2"), item("edit", True)])
    assert metrics["routing/true_route"] == 0.5
    assert (metrics["ES"], metrics["ES/routed_right"]) == (0.5, 1.0)


def test_folds_have_easyedits_names():
    metrics = compute_metrics([], {"train": FoldScores((1.0, 0.5), (0.8,), (0.6,))})
    assert metrics["edit/acc_train"] == 0.75
    assert metrics["acc/pre_train"] == 0.8
    assert metrics["acc/post_train"] == 0.6


@given(st.lists(st.booleans(), max_size=60), st.lists(st.booleans(), max_size=60))
def test_shares_stay_between_their_bounds(edits, probes):
    metrics = compute_metrics(
        [item("edit", hit) for hit in edits] + [item("unrelated", hit) for hit in probes]
    )
    for name, interval in metrics["intervals"].items():
        assert 0 <= interval["low"] <= metrics[name] <= interval["high"] <= 1
    if probes:
        assert metrics["answers_changed"] <= metrics["answers_changed/upper95"]
        assert metrics["answers_changed"] == pytest.approx(1 - metrics["locality/unrelated"])


def test_token_accuracy_refuses_what_is_not_aligned():
    assert token_accuracy([1, 2, 3], [1, 9, 3]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="2 predictions for 3"):
        token_accuracy([1, 2], [1, 2, 3])


def test_relations_apart():
    rows = [
        item("edit", True, relation="capital").row(),
        item("rephrase", False, relation="currency", held_out_relation=True).row(),
        item("unrelated", True, relation="currency").row(),
        item("traffic", True, relation=None).row(),
    ]
    capital, currency = relation_table(rows)
    assert (capital["relation"], capital["exact_match"], capital["locality"]) == (
        "capital",
        1.0,
        None,
    )
    assert currency["held_out"]
    assert (currency["generalization"], currency["locality"]) == (0.0, 1.0)


EDIT = Edit.model_validate(
    {
        "prompt": "The capital of Peru is",
        "target_new": "Puerto Nuevo",
        "subject": "Peru",
        "rephrase_prompts": ["Peru's capital?"],
        "locality": [
            {
                "prompt": "The capital of Chile is",
                "ground_truth": "Santiago",
                "kind": "same_relation",
            },
            {
                "prompt": "The capital of Chile is",
                "ground_truth": "Santiago",
                "kind": "same_relation",
            },
        ],
        "portability": [{"prompt": "Who runs Peru's capital?", "ground_truth": "Ana"}],
        "relation": "capital",
    }
)


def test_questions_of_an_edit():
    questions = questions_of([EDIT], "live", traffic=["Hello"])
    assert [question.group for question in questions] == [
        "edit",
        "rephrase",
        "same_relation",
        "portability",
        "traffic",
    ]
    assert questions[0].several_words
    assert questions[1].expected_edit_id == EDIT.id
    assert questions[2].expected_edit_id is None
    assert questions[2].ground_truth == "Santiago"
    assert len({question.key for question in questions}) == 5


def test_keys_pair_the_same_question_of_two_evaluations():
    again = questions_of([EDIT.model_copy(update={"source": "elsewhere"})], "live")
    assert [q.key for q in again] == [q.key for q in questions_of([EDIT], "live")]
    other = questions_of([EDIT.model_copy(update={"target_new": "Cusco"})], "live")
    assert other[0].key != again[0].key
    assert questions_of([EDIT], "model")[0].key != again[0].key


def test_same_answer_forgives_white_space_and_composition_only():
    assert same_answer(" São  Paulo", "Sa\u0303o Paulo")
    assert not same_answer("paris", "Paris")
    assert not same_answer("Paris.", "Paris")


def test_items_come_back_from_their_file(tmp_path):
    items = [item("edit", True, query="lone \ud800 surrogate"), item("unrelated", False)]
    write_items(tmp_path / "items.jsonl", items)
    rows = read_items(tmp_path / "items.jsonl")
    assert rows == [one.row() for one in items]
    assert rows[1]["expected"] == "old"


def test_an_unreadable_line_is_named(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"key": "a"}\n{"key"\n')
    with pytest.raises(UnreadableItems, match="line 2"):
        read_items(tmp_path / "items.jsonl")
    with pytest.raises(UnreadableItems, match="missing"):
        read_items(tmp_path / "missing.jsonl")


def test_traffic_of_a_fold(tmp_path):
    (tmp_path / "traffic.jsonl").write_text(
        '{"query": "Hi!", "fold": "test"}\n{"query": "hi", "fold": "test"}\n'
        '{"query": "Bye", "fold": "train"}\n'
    )
    assert read_traffic(tmp_path / "traffic.jsonl") == ["Hi!"]
