"""Files of edits on their way: taken as copies, put away when a run has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serac_core.edits.intake import Reason, Rejection
from serac_core.workspace.inbox import (
    NoSuchUpdate,
    collect,
    drop_retractions,
    inbox_files,
    put_away,
)

REASON = Reason(1, "e-1", "empty_field", "prompt", "", "holds nothing that shows", "fill it in")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / "done").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", ".half.jsonl", "notes.txt", "c.jsonl.gz"):
        (folder / name).write_text(name)
    return folder


def test_files_are_found_by_name_and_hidden_ones_are_still_written(inbox: Path) -> None:
    assert [path.name for path in inbox_files(inbox)] == ["a.jsonl", "b.jsonl", "c.jsonl.gz"]
    assert inbox_files(inbox / "nowhere") == []


def test_each_file_goes_where_it_belongs_and_none_over_another(inbox: Path, tmp_path: Path) -> None:
    rejected = tmp_path / "rejected"
    (inbox / "done/a.jsonl").write_text("an earlier file of this name")
    outside = tmp_path / "outside.jsonl"
    outside.write_text("named, not dropped")
    taken = collect([*inbox_files(inbox), outside], inbox, tmp_path / "run")
    (inbox / "c.jsonl.gz").write_text("replaced while the run was at work")
    bad = [Rejection(taken[1].taken, (REASON,), ("e-2",)), Rejection(taken[3].taken, (REASON,))]
    places = put_away(taken, bad, inbox, rejected)
    assert places == {taken[1].taken: rejected / "b.jsonl", taken[3].taken: rejected / outside.name}
    assert json.loads((rejected / "b.jsonl.reasons.json").read_text())["accepted"] == ["e-2"]
    assert "line 1, e-1: empty_field" in (rejected / "b.jsonl.reasons.txt").read_text()
    assert [path.name for path in inbox_files(inbox)] == ["c.jsonl.gz"]
    assert outside.exists()
    assert len(list((inbox / "done").glob("*a.jsonl"))) == 2
    assert put_away(taken, bad, inbox, rejected) == places  # a killed run's next one


def test_missing_file_is_named(inbox: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchUpdate, match=r"nowhere\.jsonl"):
        collect([tmp_path / "nowhere.jsonl"], inbox, tmp_path / "run")


def test_retractions_of_the_same_ids_are_one_file(tmp_path: Path) -> None:
    first = drop_retractions(tmp_path / "inbox", ["e-1", "e-2"])
    assert drop_retractions(tmp_path / "inbox", ["e-1", "e-2"]) == first
    assert [json.loads(line)["status"] for line in first.read_text().splitlines()] == [
        "retracted",
        "retracted",
    ]
