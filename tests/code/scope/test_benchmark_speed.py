"""The speed benchmark: what it asks of how many edits and what it writes; no times."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from serac_core.cli import app
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation import speed
from serac_core.evaluation.speed import BadSizes, ReencodingMemory, benchmark_speed
from serac_core.evaluation.speed_table import speed_table
from serac_core.evaluation.speed_workload import NotEnoughToAsk, Workload, renamed
from serac_core.scope.session import UnknownVariant
from serac_core.scope.subject import SubjectIndex, subject_key

FRANCE = Edit.model_validate(
    {
        "id": "france",
        "prompt": "The capital of France is",
        "subject": "France",
        "target_new": "Lyon",
        "rephrase_prompts": ["What is the capital city of France?"],
        "locality": [
            {"prompt": "Which money does France use?", "kind": "same_subject"},
            {"prompt": "The capital of Guinea is", "kind": "same_relation"},
            {"prompt": "Is Norway cold?", "kind": "unrelated"},
        ],
    }
)
NORWAY = Edit(id="norway", prompt="The capital of Norway is", subject="Norway", target_new="tea")
JOKE = Edit(id="joke", prompt="Tell me a joke about tea", target_new="No.")
GIVEN = [FRANCE, NORWAY, JOKE]


def test_edits_beyond_the_given_are_made_of_them() -> None:
    workload = Workload(GIVEN)
    edits = list(workload.edits(1000))
    assert sorted(edit.id for edit in edits[:3]) == ["france", "joke", "norway"]
    assert len({edit.id for edit in edits}) == len({edit.prompt for edit in edits}) == 1000
    subjects = Counter(subject_key(edit.subject) for edit in edits if edit.subject)
    assert len(subjects) == 999 and set(subjects.values()) == {1}
    assert all(renamed(e.prompt, e.subject, "") is not None for e in edits if e.subject)
    own = [edit.prompt for edit in edits if edit.prompt.startswith("As of ")]
    assert len(own) == 100 and own[1].startswith("As of 2 January 1800, The capital of ")
    assert edits == list(Workload(GIVEN).edits(1000)) == workload.edits(2000)[:1000]


@pytest.mark.parametrize("size", [3, 500])
def test_the_mix_is_of_far_queries_near_misses_and_rephrasings(size: int) -> None:
    workload = Workload(GIVEN)
    asked = workload.queries(size, 200)
    assert Counter(query.part for query in asked) == {"far": 180, "near": 10, "in_scope": 10}
    stored = {subject_key(edit.subject): edit for edit in workload.edits(size) if edit.subject}
    index = SubjectIndex(stored)
    for query in asked:
        named = index.find(query.text)
        assert len(named) == (query.part != "far"), query
        if named and query.part == "in_scope":
            prompt = stored[named[0].subject].prompt
            assert "capital" in query.text
            assert query.text.startswith("As of ") == prompt.startswith("As of ")
        elif named:
            assert "capital" not in query.text
    assert asked == workload.queries(size, 200)
    texts = {query.text for query in asked if query.part == "far"}
    assert "The capital of Guinea is" in texts and "hello" in texts
    assert "Is Norway cold?" not in texts


def test_far_queries_of_ones_own_and_edits_that_give_none() -> None:
    workload = Workload(GIVEN, far=["tea", "France", "tea", " "])
    assert workload.far == ("tea",)
    with pytest.raises(NotEnoughToAsk, match="names the subject"):
        Workload(GIVEN, far=["where is France"])
    with pytest.raises(NotEnoughToAsk, match="none of the 1 edits"):
        Workload([JOKE])
    with pytest.raises(NotEnoughToAsk, match="19 queries"):
        workload.queries(3, 19)
    joke_first = next(w for w in (Workload(GIVEN, seed=n) for n in range(99)) if w.given[0] == JOKE)
    with pytest.raises(NotEnoughToAsk, match="the first 1 edits"):
        joke_first.queries(1, 20)


class Counting:
    """Encodes a text by its letters; counts what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Any:
        self.calls.append((list(texts), batch_size))
        counts = np.array([[text.count(x) for x in "abcdefgh "] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_the_baseline_encodes_all_prompts_at_each_query() -> None:
    prompts = [edit.prompt for edit in Workload(GIVEN).edits(50)]
    encoder = Counting()
    memory = ReencodingMemory(encoder, prompts, batch_size=16)  # type: ignore[arg-type]
    for place in (7, 30):
        found, cosine = memory.nearest(prompts[place])
        assert prompts[found] == prompts[place] and cosine == pytest.approx(1.0)
    assert encoder.calls == [([*prompts, prompts[place]], 16) for place in (7, 30)]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    write_edits(tmp_path / "given.jsonl", GIVEN)
    return tmp_path / "given.jsonl"


def test_each_size_has_latencies_throughput_memory_and_baseline(
    release: Any, given: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", list[str]()
    options = {"edit_sets": [given], "count": 40, "threads": 1, "say": said.append}
    found = benchmark_speed(release(), [30, 3, 3], out, baseline_at=[30], **options)
    assert found == json.loads((out / "speed.json").read_text())
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["speed.json", "speed.png"]
    assert list(found["sizes"]) == ["3", "30"]
    assert found["machine"].keys() >= {"cpu", "cores", "onnxruntime", "threads", "load_average"}
    assert found["machine"]["threads"] == 1
    for row in found["sizes"].values():
        for figures in (row, *row["parts"].values()):
            for name in ("router", "encoder"):
                times = figures[name]
                assert 0 < times["p50"] <= times["p90"] <= times["p99"]
            assert figures["ratio"]["p50"] == pytest.approx(
                figures["router"]["p50"] / figures["encoder"]["p50"]
            )
        assert {name: part["n"] for name, part in row["parts"].items()} == {
            "far": 36, "near": 2, "in_scope": 2,
        }  # fmt: skip
        assert row["parts"]["far"]["routed"] == 0
        assert row["batches"]["router"] > 0 and row["batches"]["encoder"] > 0
        assert row["memory"]["resident_mb"] > row["memory"]["of_memory_mb"]
        assert 0 < row["memory"]["load_seconds"] < row["memory"]["ready_seconds"]
    assert "baseline" not in found["sizes"]["3"]
    assert found["sizes"]["30"]["baseline"]["calls"] == 5
    assert found["variants"]["edits"] == 30
    assert found["variants"].keys() >= {"fp32", "int8", "ratio"}
    assert any(line.startswith("30 edits: ") for line in said)
    table = "\n".join(speed_table(found))
    assert "all prompts encoded at each query" in table and "int8/fp32 at 30 edits" in table


def test_a_variant_alone_is_compared_with_none_and_the_clock_bounds_the_baseline(
    release: Any, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_BASELINE_SECONDS", 0.0)
    monkeypatch.setattr(speed, "BASELINE_AT", (3, 10))
    folder = release()
    (folder / "scope" / "encoder_int8.onnx").unlink()
    found = benchmark_speed(folder, [3], tmp_path / "out", edit_sets=[given], count=20)
    assert found["variants"] is None
    assert found["sizes"]["3"]["baseline"]["calls"] == 1


def test_wrong_sizes_and_variants_are_refused(release: Any, given: Path, tmp_path: Path) -> None:
    folder, out = release(), tmp_path / "out"
    with pytest.raises(BadSizes, match="sizes are 0, 3"):
        benchmark_speed(folder, [3, 0], out)
    with pytest.raises(BadSizes, match="sizes are none"):
        benchmark_speed(folder, [], out)
    with pytest.raises(BadSizes, match="at 10, measured are 3"):
        benchmark_speed(folder, [3], out, baseline_at=[10])
    with pytest.raises(UnknownVariant, match="int4"):
        benchmark_speed(folder, [3], out, variant="int4")
    assert not out.exists()
    words = ["benchmark", "speed", "--release", str(folder), "-o", str(out), "--sizes"]
    bad = CliRunner().invoke(app, [*words, "ten"])
    assert bad.exit_code == 2 and "whole numbers" in bad.output


def test_the_verb_prints_a_table_or_json(release: Any, given: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('"tea"\n{"query": "weather"}\n')
    words = ["benchmark", "speed", "--release", str(release()), "-o", str(tmp_path / "out")]
    words += ["--edits", str(given), "--queries", str(queries), "--sizes", "3", "--count", "20"]
    table = CliRunner().invoke(app, words)
    assert table.exit_code == 0, table.output
    assert "router/encoder" in table.stdout and "In batches of 64" in table.stdout
    printed = CliRunner().invoke(app, [*words, "--json", "--variant", "int8"])
    found = json.loads(printed.stdout)
    assert found["variant"] == "int8" and found["far_queries"] == 2
