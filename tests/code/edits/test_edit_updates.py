"""Updates of an edit set: what comes in, and results kept by content equal to whole ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serac_core.edits.edit_files import edit_files, next_update
from serac_core.edits.edit_index import EditIndex
from serac_core.edits.intake import Intake, take_in
from serac_core.edits.live import LIVE_FILE, build_live
from serac_core.edits.validation import _checked

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(name: str, answer: str = "Rome", **fields: Any) -> dict[str, Any]:
    prompt = f"What is the seat of {name}?"
    return {"id": name, "prompt": prompt, "target_new": answer, "subject": name, **fields}


def write(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    probe = {"prompt": "What is the seat of Fernland?", "kind": "same_relation"}
    return write(
        tmp_path / "edits.jsonl",
        record("Alba", "Bari", created_at="2024-02-01"),
        record("Borea", "Pisa", created_at="2024-01-01", locality=[probe]),
        record("Corvia", "Lodi", rephrase_prompts=["Where does Corvia have its seat?"]),
    )


def take(tmp_path: Path, *inbox: Path) -> Intake:
    files = edit_files(tmp_path / "edits.jsonl", tmp_path / "updates")
    return take_in(inbox, EditIndex(files, tmp_path / "cache"), ())


def release(tmp_path: Path, intake: Intake) -> None:
    files = edit_files(tmp_path / "edits.jsonl", tmp_path / "updates")
    folder = tmp_path / "updates"
    folder.mkdir(exist_ok=True)
    (folder / next_update(files, intake.content)).write_bytes(intake.content)


def live(tmp_path: Path, cache: Path | None) -> bytes:
    out = tmp_path / "live"
    build_live(tmp_path / "edits.jsonl", out, updates=tmp_path / "updates", cache_dir=cache)
    return (out / LIVE_FILE).read_bytes()


def test_added_superseded_and_retracted_are_told_apart(source: Path, tmp_path: Path) -> None:
    inbox = write(
        tmp_path / "inbox/a.jsonl",
        record("Delos", "Como"),
        {**record("Alba", "Asti", supersedes="Alba"), "id": "Alba 2"},
        {"id": "Borea", "status": "retracted"},
        record("Corvia", "Lodi", rephrase_prompts=["Where does Corvia have its seat?"]),
    )
    found = take(tmp_path, inbox)
    assert (found.added, found.superseded) == (("Delos", "Alba 2"), ("Alba",))
    assert (found.retracted, found.unchanged) == (("Borea",), ("Corvia",))
    assert found.rejections == ()


def test_same_file_twice_changes_nothing(source: Path, tmp_path: Path) -> None:
    inbox = write(
        tmp_path / "inbox/a.jsonl",
        record("Delos", "Como"),
        {"id": "Borea", "status": "retracted"},
    )
    release(tmp_path, take(tmp_path, inbox))
    again = take(tmp_path, inbox)
    assert (again.records, again.unchanged) == ((), ("Delos", "Borea"))


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (record("Delos", ""), "empty_field"),
        ({"id": "nobody", "status": "retracted"}, "retracts_unknown"),
        (record("Delos", "Como", supersedes="nobody"), "supersedes_unknown"),
        ({**record("Alba", "Asti"), "id": "Alba 2"}, "conflicting_targets"),
        (record("Alba", "Asti"), "duplicate_id"),
        (record("Fernland", "Como"), "probe_of_another_edit"),
        (
            record("Delos", "Como", rephrase_prompts=["Where does Corvia have its seat?"]),
            "rephrasing_of_another_edit",
        ),
    ],
)
def test_bad_record_is_rejected_with_its_reason_and_the_others_are_taken(
    source: Path, tmp_path: Path, bad: dict[str, Any], rule: str
) -> None:
    inbox = write(tmp_path / "inbox/a.jsonl", record("Epirus", "Como"), bad)
    found = take(tmp_path, inbox)
    assert found.added == ("Epirus",)
    [rejection] = found.rejections
    assert {(reason.line, reason.rule) for reason in rejection.reasons} >= {(2, rule)}
    assert all(reason.line == 2 for reason in rejection.reasons)
    assert rejection.accepted == ("Epirus",)
    assert rule in rejection.as_text()


def test_what_only_makes_sense_with_a_bad_record_is_rejected_too(
    source: Path, tmp_path: Path
) -> None:
    dependent = record("Epirus", "Como", supersedes="Delos")
    inbox = write(tmp_path / "inbox/a.jsonl", record("Delos", ""), dependent)
    found = take(tmp_path, inbox)
    assert found.records == ()
    assert {r.rule for r in found.rejections[0].reasons} == {"empty_field", "supersedes_unknown"}


def test_unreadable_file_is_rejected_whole_and_the_next_is_taken(
    source: Path, tmp_path: Path
) -> None:
    broken = write(tmp_path / "inbox/a.jsonl", '{"id": "half')
    sound = write(tmp_path / "inbox/b.jsonl", record("Delos", "Como"))
    found = take(tmp_path, broken, sound)
    assert found.added == ("Delos",)
    assert [(r.file.name, r.reasons[0].line) for r in found.rejections] == [("a.jsonl", 0)]


def updates(tmp_path: Path) -> list[list[dict[str, Any]]]:
    return [
        [record("Delos", "Como"), record("Epirus", "Bari", created_at="2020-01-01")],
        [{"id": "Borea", "status": "retracted"}, {"id": "Delos", "status": "retracted"}],
        [
            {**record("Alba", "Asti", supersedes="Alba"), "id": "Alba 2"},
            record("Fernland", "Como", rephrase_prompts=["Fernland, that is", "Fernland, that is"]),
        ],
    ]


def test_live_edits_are_the_same_made_at_once_or_update_by_update(
    source: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    live(tmp_path, cache)
    for number, records in enumerate(updates(tmp_path)):
        found = take(tmp_path, write(tmp_path / f"inbox/{number}.jsonl", *records))
        assert found.rejections == ()
        release(tmp_path, found)
        assert live(tmp_path, cache) == live(tmp_path, None)
    names = [json.loads(line)["id"] for line in live(tmp_path, cache).splitlines()]
    assert names == ["Corvia", "Epirus", "Alba 2", "Fernland"]


def test_validation_is_the_same_at_once_or_update_by_update(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _checked(edit_files(source), (), cache, NOW)
    for number, records in enumerate(updates(tmp_path)):
        release(tmp_path, take(tmp_path, write(tmp_path / f"inbox/{number}.jsonl", *records)))
        files = edit_files(source, tmp_path / "updates")
        checked, part = _checked(files, (), cache, NOW)
        everything, whole = _checked(files, (), None, NOW)
        assert len(checked) == len(records) < len(everything)
        assert (part.edits, part.live, part.passed) == (whole.edits, whole.live, True)
        assert {(v.id, v.rule) for v in part.violations} == {
            (v.id, v.rule) for v in whole.violations
        }


def test_error_in_an_update_is_found_when_only_the_update_is_checked(
    source: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    _checked(edit_files(source), (), cache, NOW)
    write(tmp_path / f"updates/000001-{'0' * 12}.jsonl", record("Fernland", "Como"))
    checked, report = _checked(edit_files(source, tmp_path / "updates"), (), cache, NOW)
    assert [(v.id, v.rule) for v in report.errors] == [("Borea", "probe_of_another_edit")]
    assert {one.id for one in checked} == {"Fernland", "Borea"}


def test_update_that_people_took_over_into_their_file_counts_once(
    source: Path, tmp_path: Path
) -> None:
    release(tmp_path, take(tmp_path, write(tmp_path / "inbox/a.jsonl", record("Delos", "Como"))))
    with source.open("a") as handle:
        handle.write(json.dumps(record("Delos", "Como")) + "\n")
    files = edit_files(source, tmp_path / "updates")
    assert _checked(files, (), None, NOW)[1].errors == ()
    assert live(tmp_path, None).count(b'"Delos"') == 2  # id and subject of one line


def test_damaged_caches_are_made_again(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = live(tmp_path, cache)
    EditIndex(edit_files(source), cache)
    (cache / "edit-index.sqlite").write_bytes(b"no database, but long enough to be read" * 99)
    found = take(tmp_path, write(tmp_path / "inbox/a.jsonl", record("Alba", "Bari")))
    assert found.unchanged == ("Alba",)
    for kept in (cache / "live-edits").glob("*/gone.json"):
        kept.unlink()
    assert live(tmp_path, cache) == whole
