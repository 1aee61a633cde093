"""The gate of an update on release directories: real router, items of the live edits."""

import json

import pytest
from test_gate import METRICS, rows
from test_gate_release import EDITS, write_release

from serac_core.config import GateConfig
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.carried import write_asked
from serac_core.evaluation.items import Item, questions_of
from serac_core.release.manifest import InvalidRelease, write_manifest
from serac_core.release.update_gate import Change, gate_update, live_change
from serac_core.scope.memory import EditMemory
from serac_core.scope.session import OnnxEncoder

CONFIG = GateConfig(max_latency_ratio=1000)
NEW = Edit(
    id="new",
    prompt="The capital of Peru is",
    subject="Peru",
    target_new="Lyon",
    rephrase_prompts=("Peru has the capital",),
    locality=({"prompt": "Which money does Peru use?", "kind": "same_subject"},),
)


def item(question, correct):
    return Item(
        question=question,
        answer="Lyon" if correct else "no idea",
        base_answer=None,
        correct=correct,
        in_scope=not question.out_of_scope,
        edit_id=question.expected_edit_id,
        nearest_edit_id=None,
        score=0.9,
    )


def release(folder, edits, wrong=(), asked=None, memory=None):
    """A release of these edits, in which some groups of questions are answered wrong."""
    live = [item(q, q.query not in wrong) for q in questions_of(edits, "live")]
    write_release(folder, METRICS, rows("edit", [True] * 30), live={"edit/exact_match": 1.0})
    report = folder / "report/live"
    text = "".join(json.dumps(one.row()) + "\n" for one in live)
    (report / "items.jsonl").write_text(text)
    write_asked(report, "context", asked)
    write_edits(folder / "edits.jsonl", edits)
    encoder = OnnxEncoder.load(folder / "scope")
    EditMemory.build(memory or edits, encoder).save(folder / "memory")
    write_manifest(folder, base_model="base", edits=len(edits), params={})
    return folder


def checks(result):
    return {check.name: check for check in result.checks}


@pytest.fixture
def champion(tmp_path):
    return release(tmp_path / "champion", EDITS)


def test_new_edits_are_judged_and_the_release_as_a_whole(tmp_path, champion):
    found = release(tmp_path / "new", [*EDITS, NEW])
    assert live_change(found, champion) == Change(("new",), ())
    result = gate_update(found, champion, CONFIG)
    named = checks(result)
    for name in ("edit", "rephrasings", "near_misses"):
        assert named[f"changed/{name}"].value == 1.0
    assert named["changed/neighbours"].passed
    assert {"parity/fp32", "latency/ratio", "regression/live/edit"} <= named.keys()


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (NEW.prompt, "changed/edit"),
        (NEW.rephrase_prompts[0], "changed/rephrasings"),
        (NEW.locality[0].prompt, "changed/near_misses"),
    ],
)
def test_what_is_answered_wrong_closes_the_gate(tmp_path, champion, wrong, check):
    found = release(tmp_path / "new", [*EDITS, NEW], wrong=[wrong])
    named = checks(gate_update(found, champion, CONFIG))
    assert [name for name in named if name.startswith("changed/") and not named[name].passed] == [
        check
    ]


def test_one_rephrasing_of_three_may_be_chance_and_three_of_three_may_not(tmp_path, champion):
    asked = tuple(f"Peru has the capital {n}" for n in range(3))
    new = NEW.model_copy(update={"rephrase_prompts": asked})
    for wrong, passed in ((1, True), (3, False)):
        found = release(tmp_path / f"{wrong}", [*EDITS, new], wrong=asked[:wrong])
        check = checks(gate_update(found, champion, CONFIG))["changed/rephrasings"]
        assert check.passed is passed


def test_neighbours_that_were_right_and_are_not_close_the_gate(tmp_path):
    many = [
        Edit(id=f"e-{n}", prompt=f"The capital of Land {n} is", subject=f"Land {n}", target_new="L")
        for n in range(8)
    ]
    champion = release(tmp_path / "champion", many)
    lost = [edit.prompt for edit in many[:6]]
    keys = [question.key for question in questions_of(many, "live")]
    found = release(tmp_path / "new", [*many, NEW], wrong=lost, asked=keys)
    check = checks(gate_update(found, champion, CONFIG))["changed/neighbours"]
    assert (check.passed, check.value) == (False, 0.75)
    assert "6 lost, 0 gained" in check.note


def test_retraction_asks_only_whether_anything_is_routed_to_what_goes(tmp_path, champion):
    found = release(tmp_path / "new", EDITS[:1], wrong=[EDITS[0].prompt])
    result = gate_update(found, champion, CONFIG)
    assert [check.name for check in result.checks] == ["changed/gone_routed"]
    assert result.passed
    stale = release(tmp_path / "stale", EDITS[:1], memory=EDITS)
    result = gate_update(stale, champion, CONFIG)
    assert (result.passed, result.checks[0].value) == (False, 1)


def test_damaged_release_of_a_retraction_is_an_error(tmp_path, champion):
    found = release(tmp_path / "new", EDITS[:1])
    (found / "scope/tokenizer.json").write_text("{}")
    (found / "extra").write_text("")
    with pytest.raises(InvalidRelease):
        gate_update(found, release(tmp_path / "same", EDITS[:1]), CONFIG)
