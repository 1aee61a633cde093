"""An evaluation that carries over what a change can't touch, against one that asks everything."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import test_evaluation_stages

sys.path.insert(0, str(Path(__file__).parents[1] / "scope"))

from serac_core.config import load_params
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation import evaluate, live
from serac_core.evaluation.carried import (
    AskedIndex,
    keep_released,
    read_asked,
    words_in,
)
from serac_core.evaluation.evaluate import EvaluationInputs, evaluate_live
from serac_core.evaluation.items import read_items
from serac_core.scope.memory_update import build_live_memories

make_edits, workspace = test_evaluation_stages.make_edits, test_evaluation_stages.workspace
PLACES = test_evaluation_stages.PLACES


def other(prompt, subject=None, **fields):
    return Edit.model_validate(
        {"prompt": prompt, "target_new": "Old Town", "subject": subject, **fields}
    )


CHANGES = {
    "added": lambda edits: [*edits, *make_edits(["Chile"])],
    "retracted": lambda edits: edits[1:],
    "all gone": lambda edits: [],
    "superseded": lambda edits: [
        *edits[1:],
        other("The capital of France is", "France", id="new", supersedes=edits[0].id),
    ],
    "a second edit about a subject": lambda edits: [*edits, other("Who runs Peru?", "Peru")],
    "a whole text": lambda edits: [*edits, other("tell me about tea, please")],
}


@pytest.fixture(scope="module")
def before(workspace, tmp_path_factory):
    """The cache and the evaluation of all edits."""
    root = tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        evaluate_in(root, make_edits(PLACES), "before", "cache")
    return root


def evaluate_in(root, edits, name, cache):
    file, memory = root / f"{name}.jsonl", root / f"{name}-memory"
    write_edits(file, edits)
    build_live_memories(file, "build/scope/onnx", memory, root / cache)
    inputs = EvaluationInputs(live_edits=file, memory=memory)
    params, out = load_params("params.yaml"), root / name
    metrics = evaluate_live(inputs, params, out, root / cache, lambda line: None)
    return metrics, read_items(out / "items.jsonl")


@pytest.fixture
def evaluated(workspace, before, tmp_path, monkeypatch):
    """Evaluates edits after those of `before`; counts what is asked."""
    shutil.copytree(before / "cache", tmp_path / "cache")
    # The pictures are drawn by the tests of the stages.
    monkeypatch.setattr(evaluate, "write_plots", lambda *_: None)
    monkeypatch.chdir(workspace)
    asked = []
    score = live.score_questions

    def scoring(questions, *more):
        asked.append(len(questions))
        return score(questions, *more)

    monkeypatch.setattr(live, "score_questions", scoring)

    def run(edits, name, cache):
        asked.clear()
        return *evaluate_in(tmp_path, edits, name, cache), sum(asked)

    return run


@pytest.mark.parametrize("change", CHANGES)
def test_carried_over_is_what_asking_everything_finds(evaluated, tmp_path, change):
    after = CHANGES[change](make_edits(PLACES))
    metrics, items, asked = evaluated(after, "part", "cache")
    whole_metrics, whole, all_asked = evaluated(after, "whole", "another cache")
    for row in (*items, *whole):
        del row["about"]  # a shared probe stays noted as of the edit that first had it
    assert sorted(map(json.dumps, items)) == sorted(map(json.dumps, whole))
    assert metrics == whole_metrics
    assert asked < all_asked or not all_asked
    assert len(read_asked(tmp_path / "part")) == asked
    assert read_asked(tmp_path / "whole") is None


def test_nothing_is_asked_where_nothing_changed_and_all_where_a_model_did(
    evaluated, workspace, before
):
    edits, items = make_edits(PLACES), read_items(before / "before/items.jsonl")
    assert evaluated(edits, "again", "cache")[1:] == (items, 0)
    config = workspace / "build/counterfactual/generation_config.json"
    content = config.read_text()
    try:
        config.write_text(content + "\n")
        assert evaluated(edits, "other", "cache")[2] == len(items)
    finally:
        config.write_text(content)


def test_a_release_gives_another_machine_what_its_evaluation_found(evaluated, before, tmp_path):
    edits, items = make_edits(PLACES), read_items(before / "before/items.jsonl")
    release = tmp_path / "release"
    (release / "report").mkdir(parents=True)
    shutil.copytree(before / "before", release / "report/live")
    write_edits(release / "edits.jsonl", edits)
    assert keep_released(release, tmp_path / "other machine")
    assert not keep_released(release, tmp_path / "other machine")
    assert evaluated(edits, "again", "other machine")[1:] == (items, 0)


def test_damaged_cache_is_not_used(evaluated, before, tmp_path):
    edits, items = make_edits(PLACES), read_items(before / "before/items.jsonl")
    for index in (tmp_path / "cache").rglob("index.npz"):
        index.write_bytes(b"no index")
    assert evaluated(edits, "again", "cache")[1:] == (items, len(items))


def test_questions_are_found_by_the_words_of_a_subject():
    index = AskedIndex.of(make_edits(["New Peru", "Peru"]))
    assert len(index.with_words_of([("peru",)])) == 8
    assert len(index.with_words_of([("peru", "new"), ("chile",)])) == 4
    assert len(index.with_words_of([("chile",)])) == 0
    assert "boat" in words_in("Do boats sink?")
