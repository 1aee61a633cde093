"""Merging edit sets: what is live, which conflicts are named, and that order doesn't count."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serac_core.edits import (
    ConflictingEdits,
    Edit,
    EditSet,
    Retraction,
    diff_edits,
    live_edits,
    merge,
)
from serac_core.edits.jsonl import record_line
from serac_core.edits.live import build_live
from serac_core.edits.merge import union


def edit(name: str, prompt: str | None = None, target: str = "new", **fields: object) -> Edit:
    return Edit.model_validate(
        {"id": name, "prompt": prompt or f"prompt of {name}", "target_new": target, **fields}
    )


def of(*records: Edit | Retraction) -> EditSet:
    return EditSet(
        tuple(r for r in records if isinstance(r, Edit)),
        frozenset(r for r in records if isinstance(r, Retraction)),
    )


def rules(*parts: EditSet) -> list[tuple[str, tuple[str, ...]]]:
    with pytest.raises(ConflictingEdits) as error:
        merge(*parts)
    return [(c.rule, c.ids) for c in error.value.conflicts]


def test_superseded_and_retracted_edits_are_not_live() -> None:
    edits = of(
        edit("a", "p", "1"),
        edit("b", "p", "2", supersedes="a"),
        edit("c"),
        Retraction("c"),
        edit("d"),
    )
    assert [e.id for e in live_edits(edits)] == ["b", "d"]


def test_a_retraction_does_not_bring_back_what_was_superseded() -> None:
    edits = of(edit("a", "p", "1"), edit("b", "p", "2", supersedes="a"), Retraction("b"))
    assert live_edits(edits) == []


def test_the_newest_edit_stands_last() -> None:
    edits = of(
        edit("new", created_at="2024-05-01T12:00:00Z"),
        edit("undated"),
        edit("old", created_at="2024-05-01T12:30:00+02:00"),
        edit("naive", created_at="2024-05-01T11:00:00"),
    )
    assert [e.id for e in live_edits(edits)] == ["undated", "old", "naive", "new"]


def test_conflicts_are_named_with_their_ids() -> None:
    assert rules(of(edit("a")), of(edit("a", target="other"))) == [("id_reused", ("a",))]
    assert rules(of(edit("a"), Retraction("x"))) == [("unknown_retraction", ("x",))]
    assert rules(of(edit("a", supersedes="x"))) == [("unknown_supersedes", ("a",))]
    assert rules(of(edit("a", supersedes="a"))) == [("supersedes_cycle", ("a",))]
    circle = of(edit("b", supersedes="c"), edit("c", supersedes="a"), edit("a", supersedes="b"))
    assert rules(circle, of(edit("tail", supersedes="a"))) == [
        ("supersedes_cycle", ("a", "b", "c"))
    ]
    assert rules(of(edit("a", "One? ", "1")), of(edit("b", "one", "2"))) == [
        ("conflicting_targets", ("a", "b"))
    ]
    assert rules(of(edit("a", "One?", "x")), of(edit("b", "one", "X."))) == [
        ("duplicate_prompt", ("a", "b"))
    ]


def test_a_conflict_says_what_to_do_and_exits_with_1() -> None:
    with pytest.raises(ConflictingEdits, match=r"a, b: one prompt.*'1' and '2'") as error:
        merge(of(edit("a", "p", "1"), edit("b", "p", "2")))
    assert error.value.exit_code == 1
    assert "supersede" in error.value.remedy


NAMES = st.sampled_from("abcde")
RECORD = st.one_of(
    st.builds(
        edit,
        NAMES,
        st.sampled_from(["p", "q", "r", None]),
        st.sampled_from(["1", "2"]),
        supersedes=st.none() | NAMES,
        status=st.sampled_from(["active", "active", "retracted"]),
    ),
    st.builds(Retraction, NAMES),
)


def outcome(*parts: EditSet) -> object:
    try:
        return [e.model_dump() for e in merge(*parts)]
    except ConflictingEdits as error:
        return error.conflicts


@settings(max_examples=100, deadline=None)
@given(st.lists(RECORD, max_size=7), st.randoms())
def test_merging_does_not_depend_on_order_or_grouping(
    records: list[Edit | Retraction], random
) -> None:  # type: ignore[no-untyped-def]
    whole = outcome(of(*records))
    shuffled = list(records)
    random.shuffle(shuffled)
    cut = random.randint(0, len(records))
    assert outcome(of(*shuffled)) == whole
    assert outcome(of(*shuffled[:cut]), of(*shuffled[cut:])) == whole
    assert outcome(of(*records), of(*records)) == whole  # nothing is counted twice


@settings(max_examples=50, deadline=None)
@given(st.lists(RECORD, max_size=7))
def test_merging_loses_no_record_and_can_be_merged_again(records: list[Edit | Retraction]) -> None:
    by_id, _ = union(of(*records))
    assert set(by_id) == {r.id for r in records if isinstance(r, Edit)}
    try:
        merged = merge(of(*records))
    except ConflictingEdits:
        return
    assert merge(EditSet(tuple(merged))) == merged
    live = live_edits(EditSet(tuple(merged)))
    gone = {e.supersedes for e in merged} | {e.id for e in merged if e.status == "retracted"}
    assert {e.id for e in live} == {e.id for e in merged} - gone


def test_build_live_writes_the_same_bytes_whatever_the_order_of_lines(tmp_path: Path) -> None:
    records = [
        b'{"prompt": "p", "target_new": "1", "id": "a", "created_at": "2024-01-01"}\n',
        b'{"prompt": "p", "target_new": "2", "id": "b", "supersedes": "a", "note": "kept"}\n',
        b'{"prompt": "q", "target_new": "3", "id": "c"}\n',
        b'{"prompt": "r", "target_new": "4"}\n',
        b'{"id": "c", "status": "retracted"}\n',
    ]
    written = set()
    for order in itertools.permutations(records):
        (tmp_path / "edits.jsonl").write_bytes(b"".join(order))
        assert build_live(tmp_path / "edits.jsonl", tmp_path / "live") == 2
        written.add((tmp_path / "live" / "edits.jsonl").read_bytes())
    (lines,) = written
    assert b'"note": "kept"' in lines
    assert b'"a"' not in lines.replace(b'"supersedes": "a"', b"")


def test_a_narrower_width_is_the_beginning_of_a_wider_one(tmp_path: Path) -> None:
    """What a newer edit supersedes is left out at every width: nobody asks for it to be served."""
    source = tmp_path / "edits.jsonl"
    made = [
        {"id": f"e-{n}", "prompt": f"p{n}", "target_new": "x", "created_at": f"2024-01-0{9 - n}"}
        for n in range(1, 7)
    ]
    made.append({"id": "z", "prompt": "p6", "target_new": "y", "supersedes": "e-6"})
    made[-1]["created_at"] = "2024-02-01"
    source.write_bytes(b"".join(map(record_line, made)))
    written = []
    for width in (2, 4, 6, 9, 0):
        build_live(source, tmp_path / "live", width)
        written.append((tmp_path / "live" / "edits.jsonl").read_text().splitlines())
    ids = [[json.loads(line)["id"] for line in lines] for lines in written]
    assert ids[-1] == ["e-5", "e-4", "e-3", "e-2", "e-1", "z"]
    assert ids[:-1] == [ids[-1][:2], ids[-1][:4], ids[-1], ids[-1]]


def test_a_conflict_leaves_the_live_edits_as_they_were(tmp_path: Path) -> None:
    source = tmp_path / "edits.jsonl"
    source.write_bytes(record_line({"id": "a", "prompt": "p", "target_new": "1"}))
    build_live(source, tmp_path / "live")
    before = (tmp_path / "live" / "edits.jsonl").read_bytes()
    with source.open("ab") as handle:
        handle.write(record_line({"id": "b", "prompt": "p", "target_new": "2"}))
    with pytest.raises(ConflictingEdits):
        build_live(source, tmp_path / "live")
    assert (tmp_path / "live" / "edits.jsonl").read_bytes() == before


def test_diff_names_what_happened_to_each_edit() -> None:
    old = of(edit("a", "p", "1"), edit("b"), edit("c"), edit("d", target="x"), Retraction("c"))
    new = of(
        edit("c"),
        edit("d", target="y"),
        edit("a", "p", "1"),
        edit("e", "p", "2", supersedes="a"),
    )
    found = diff_edits(old, new)
    assert (found.added, found.removed, found.superseded) == (("e",), ("b",), ("a",))
    assert (found.retracted, found.restored) == ((), ("c",))
    (change,) = found.changed
    assert (change.id, change.field, change.before, change.after) == ("d", "target_new", "x", "y")
    assert diff_edits(new, old).retracted == ("c",)


@settings(max_examples=50, deadline=None)
@given(st.lists(RECORD, max_size=6), st.randoms())
def test_a_set_does_not_differ_from_itself_in_another_order(records, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(records)
    random.shuffle(shuffled)
    assert diff_edits(of(*records), of(*shuffled)).empty
