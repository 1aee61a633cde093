"""Routing quality on others' edits, at growing memories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import save_tiny
from typer.testing import CliRunner

from serac_core.cli import app
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.benchmark import TooFewEdits, benchmark_quality
from serac_core.scope.same_fact import SameFact


def edit(id_: str, prompt: str, subject: str | None, **more: object) -> Edit:
    return Edit.model_validate(
        {"id": id_, "prompt": prompt, "subject": subject, "target_new": "tea", **more}
    )


FRANCE = edit(
    "france",
    "The capital of France is",
    "France",
    rephrase_prompts=["What is the capital city of France?"],
    locality=[
        {"prompt": "Which money does France use?", "kind": "same_subject"},
        {"prompt": "The capital of Guinea is", "kind": "same_relation"},
        {"prompt": "What is the capital city of Norway?", "kind": "same_relation"},
    ],
)
NORWAY = edit("norway", "The capital of Norway is", "Norway")
MONEY = edit("money", "The money of Norway is", "Norway")
JOKE = edit("joke", "Tell me a joke about tea", None)


@pytest.mark.parametrize(
    ("text", "under"),
    [
        ("The capital of Norway is", ["norway"]),
        ("What is the capital city of Norway?", ["norway"]),  # as France's edit words it
        ("Tea is hot. What is the capital city of Norway?", ["norway"]),
        ("The money of Norway is. What is the capital city of Guinea?", ["money"]),
        ("What is the weather in Norway?", []),
        ("The capital of Guinea is", []),
        ("Tell me a joke about tea", []),
        ("", []),
    ],
)
def test_a_text_falls_under_edits_of_its_subject_and_wording(text: str, under: list[str]) -> None:
    facts = SameFact([FRANCE, NORWAY, MONEY, JOKE])
    assert sorted(found.id for found in facts.edits_of(text)) == sorted(under)


def test_edits_of_one_relation_say_the_same() -> None:
    one = edit("one", "The capital of France is", "France", relation="capital")
    other = edit("other", "Norway has the capital", "Norway", relation="capital")
    assert [e.id for e in SameFact([one, other]).edits_of("The capital of Norway is")] == ["other"]


def test_classes_of_wordings_do_not_depend_on_the_process() -> None:
    program = """
import hashlib, random
from serac_core.edits.record import Edit
from serac_core.scope.same_fact import wording_classes
draw = random.Random(1)
ways = [f"{a} {b} X {c}" for a in "abcdefgh" for b in "klmnop" for c in "rstuvw"]
edits = [
    Edit(
        prompt=first.replace("X", "Norway"),
        target_new="t",
        subject="Norway",
        rephrase_prompts=[other.replace("X", "Norway"), f"Norway {n}", f"{n} Norway"],
    )
    for n, (first, other) in enumerate(draw.choices(ways, k=2) for _ in range(900))
]
print(hashlib.sha256(repr(sorted(wording_classes(edits).items())).encode()).hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@pytest.fixture
def edit_set(tmp_path: Path) -> Path:
    write_edits(tmp_path / "edits.jsonl", [FRANCE, NORWAY])
    return tmp_path / "edits.jsonl"


def test_each_size_is_scored_and_what_falls_under_another_edit_is_set_aside(
    release: Callable[..., Path], edit_set: Path, tmp_path: Path
) -> None:
    write_edits(tmp_path / "more.jsonl", [MONEY, JOKE, NORWAY])
    out = tmp_path / "out"
    metrics = benchmark_quality(
        release(),
        [edit_set],
        [1, 2, 4],
        out,
        beside=[tmp_path / "more.jsonl"],
        traffic=["what is the weather ?"],
    )
    assert list(metrics["sizes"]) == ["1", "2", "4"]
    assert metrics["beside"] == 2  # NORWAY stands in both
    both = metrics["sizes"]["2"]
    assert both["prompt"]["n"] == 2 and both["prompt"]["right"] == 1.0
    assert both["same_relation"]["n"] == 1 and both["same_relation"]["n_all"] == 2
    assert both["traffic"]["right"] == 1.0 and both["traffic"]["wrong_upper95"] == pytest.approx(
        0.95
    )
    rows = [json.loads(line) for line in (out / "decisions.jsonl").open()]
    norways = [row for row in rows if row["query"] == "What is the capital city of Norway?"]
    assert [row["also_under"] for row in norways if row["size"] >= 2] == [["norway"], ["norway"]]
    assert {"size", "probe", "kind", "query", "expected_edit_id", "edit_id", "in_scope"} < set(
        rows[0]
    )
    assert (out / "quality.png").stat().st_size > 1000
    assert json.loads((out / "metrics.json").read_text()) == metrics


def test_a_memory_larger_than_the_edits_is_refused(
    release: Callable[..., Path], edit_set: Path, tmp_path: Path
) -> None:
    with pytest.raises(TooFewEdits, match=r"5 edits .* 2 to ask about and 0 beside"):
        benchmark_quality(release(), [edit_set], [1, 5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_prints_a_row_for_each_size_and_kind(
    release: Callable[..., Path], edit_set: Path, tmp_path: Path
) -> None:
    verb = ["benchmark", "quality", "--release", str(release()), "--edits", str(edit_set)]
    ran = CliRunner().invoke(app, [*verb, "-o", str(tmp_path / "out"), "--sizes", "1,2"])
    assert ran.exit_code == 0, ran.output
    shown = [line.split()[:2] for line in ran.stdout.splitlines()]
    assert ["1", "prompt"] in shown and ["2", "same_relation"] in shown
    refused = CliRunner().invoke(app, [*verb, "-o", str(tmp_path / "o"), "--sizes", "1,x"])
    assert refused.exit_code == 2 and "whole numbers above 0" in refused.output


def test_what_is_answered_is_scored_beside_the_routes(
    release: Callable[..., Path], tmp_path: Path
) -> None:
    folder = release()
    for name in ("base", "counterfactual"):
        save_tiny("lfm2", folder / name)
    asking = FRANCE.model_copy(
        update={
            "yes_question": "Is the capital of France tea?",
            "no_question": "Is the capital of France milk?",
        }
    )
    write_edits(tmp_path / "edits.jsonl", [asking, NORWAY])
    (folder / "training").mkdir()
    write_edits(folder / "training" / "train.jsonl", [MONEY])
    metrics = benchmark_quality(
        folder,
        [tmp_path / "edits.jsonl"],
        [1, 2],
        tmp_path / "out",
        traffic=["what is the weather ?", "hello"],
        answers=2,
        base=str(folder / "base"),
        cache_dir=tmp_path / "cache",
    )
    both = metrics["answers"]["2"]
    assert both["routed_out/answers_changed"] == 0  # the base's own, token for token
    assert both["intervals"]["edit/exact_match"]["n"] == 2
    assert "generalization/targets_absent_from_training" not in both  # tea was trained on
    assert both["yes_no/rule/own"] == 1.0 and both["yes_no/rule/negated"] == 0.0
    rows = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").open()]
    asked = {row["query"] for row in rows if row["group"] == "yes_no" and row["size"] == 2}
    assert "Is the capital of France milk?" in asked and len(asked) > 6
    kept = [row["query"] for row in rows if row["group"] == "same_relation" and row["size"] == 2]
    assert kept == ["The capital of Guinea is"]  # Norway's is an edit of its own then
    assert (tmp_path / "out" / "answers.png").stat().st_size > 1000


def test_answers_need_a_counterfactual_model(
    release: Callable[..., Path], edit_set: Path, tmp_path: Path
) -> None:
    verb = ["benchmark", "quality", "--release", str(release()), "--edits", str(edit_set)]
    wanted = ["-o", str(tmp_path / "out"), "--sizes", "1", "--answers", "1"]
    ran = CliRunner().invoke(app, [*verb, *wanted])
    assert ran.exit_code != 0 and not (tmp_path / "out").exists()
    assert "counterfactual" in str(ran.exception or ran.output)
