"""Reading and writing edits: errors that name the place, bytes that don't change."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serac_core.edits import (
    Edit,
    UnreadableEdits,
    UnwritableOutput,
    read_edits,
    read_records,
    write_edits,
)
from serac_core.edits.atomic import folder_aside, write_atomically
from serac_core.edits.jsonl import edit_record, record_line

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
EDIT = st.builds(
    Edit,
    id=st.uuids().map(str),
    prompt=TEXT,
    target_new=TEXT,
    subject=st.none() | TEXT,
    rephrase_prompts=st.lists(TEXT, max_size=3).map(tuple),
    locality=st.lists(
        st.fixed_dictionaries(
            {"prompt": TEXT, "kind": st.sampled_from(["same_subject", "unrelated"])},
            optional={"ground_truth": TEXT, "note": TEXT},
        ),
        max_size=2,
    ),
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    changed_on=TEXT,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(EDIT, max_size=5))
def test_edits_survive_a_round_trip_and_write_the_same_bytes(edits: list[Edit]) -> None:
    lines = [record_line(edit_record(edit)) for edit in edits]
    again = [Edit.model_validate(json.loads(line)) for line in lines]
    assert again == edits
    assert [record_line(edit_record(edit)) for edit in again] == lines


def test_a_file_round_trips_whatever_its_line_separators_hold(tmp_path: Path) -> None:
    edit = Edit(prompt="one\u2028line?", target_new="naïve ☃", extra={"b": 1, "a": [2]})
    write_edits(tmp_path / "e.jsonl", [edit])
    assert read_edits(tmp_path / "e.jsonl") == [edit]
    assert (tmp_path / "e.jsonl").read_bytes().count(b"\n") == 1


def test_gzip_bom_crlf_and_blank_lines_are_read(tmp_path: Path) -> None:
    line = (
        b'\xef\xbb\xbf{"prompt": "p", "target_new": "t"}\r\n\r\n{"prompt": "q", "target_new": "t"}'
    )
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(line))
    assert [r.line for r in read_records(tmp_path / "e.jsonl.gz")] == [1, 3]


GOOD = b'{"prompt": "p", "target_new": "t"}\n'


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (b'{"prompt": "p", }', "line 17, column"),
        (b'{"prompt": "p\xff"}', "line 17, byte 14: not UTF-8"),
        (b'{"prompt": "p", "prompt": "q"}', "line 17: not JSON: key 'prompt' stands twice"),
        (b'{"score": NaN}', "line 17: not JSON: NaN"),
        (b"[" * 100_000, "line 17"),
        (
            b'{"prompt": "p", "target_new": 3}',
            "line 17: target_new: Input should be a valid string",
        ),
        (b'["prompt"]', "line 17: the whole line"),
    ],
)
def test_a_bad_line_is_named_with_its_rule(tmp_path: Path, bad: bytes, place: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(GOOD * 16 + bad + b"\n")
    with pytest.raises(UnreadableEdits) as error:
        read_edits(path)
    assert str(path) in error.value.what
    assert place in error.value.what
    assert error.value.remedy
    assert error.value.exit_code == 2


def test_a_missing_a_cut_and_a_false_gzip_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(GOOD * 500)[:-20])
    (tmp_path / "false.gz").write_bytes(GOOD)
    for name in ("missing.jsonl", "cut.gz", "false.gz", ""):
        with pytest.raises(UnreadableEdits, match=re.escape(str(tmp_path / name))):
            read_records(tmp_path / name)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"before\n")

    def chunks():  # type: ignore[no-untyped-def]
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(UnwritableOutput, match="No space left"):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"before\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.jsonl"]


def test_writing_replaces_a_link_instead_of_writing_through_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"cached")
    link = tmp_path / "e.jsonl"
    link.symlink_to(cache)
    write_atomically(link, [b"new"])
    assert cache.read_bytes() == b"cached"
    assert link.read_bytes() == b"new"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder_aside(out) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(KeyError), folder_aside(out) as folder:
        (folder / "half").write_text("half")
        raise KeyError
    assert [entry.name for entry in out.iterdir()] == ["old"]
    with folder_aside(out) as folder:
        (folder / "new").write_text("new")
    assert [entry.name for entry in out.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
