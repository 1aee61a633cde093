"""The committed split of public benchmarks: nothing that is scored was trained on."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

import pytest

from serac_core.edits.jsonl import read_active_edits
from serac_core.edits.record import normalize_text
from serac_core.edits.training_set import fold_of

ROOT = Path(__file__).parents[2]
BENCHMARKS = Path(os.environ.get("SERAC_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (BENCHMARKS / "counterfact-train.json.gz").is_file():
        pytest.skip(f"no benchmark files in {BENCHMARKS}")
    folder = tmp_path_factory.mktemp("split")
    runpy.run_path(str(ROOT / "benchmarks" / "public_splits.py"))["split"](BENCHMARKS, folder)
    return folder


def subjects(*files: Path) -> set[str]:
    return {normalize_text(edit.subject or edit.prompt) for edit in read_active_edits(list(files))}


def test_no_subject_is_trained_on_and_scored(out: Path) -> None:
    trained = subjects(*(p for p in (out / "train").glob("*.jsonl") if p.stem != "traffic"))
    scored = subjects(*(p for p in (out / "score").glob("[!tc]*.jsonl")))
    scored |= subjects(out / "score" / "counterfact.jsonl")
    assert len(scored) > 5000 and not trained & scored
    assert not {name for name in trained if fold_of(name) == "test"}


def test_scored_and_trained_edits_fill_a_memory_of_ten_thousand(out: Path) -> None:
    counts = json.loads((out / "splits.json").read_text(encoding="utf-8"))
    assert counts["score/counterfact.jsonl"] + counts["beside/counterfact.jsonl"] >= 10_000
    beside = subjects(out / "beside" / "counterfact.jsonl")
    assert beside <= subjects(out / "train" / "counterfact.jsonl")


def test_claims_that_are_set_aside_say_why(out: Path) -> None:
    lines = (out / "score" / "creak-set-aside.jsonl").read_text(encoding="utf-8").splitlines()
    kept = (out / "score" / "traffic-creak.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0 < len(lines) < len(kept) / 10
    assert all(row["because"] for row in map(json.loads, lines))
    train = (out / "train" / "traffic.jsonl").read_text(encoding="utf-8").splitlines()
    assert not set(train) & set(kept)


def test_the_split_is_the_same_every_time(out: Path, tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "public_splits.py"))["split"](BENCHMARKS, tmp_path)
    files = sorted(path.relative_to(out) for path in out.rglob("*.json*"))
    assert all((out / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)
