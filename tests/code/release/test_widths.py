"""The widths of a ramp: recorded, packaged into the release's report, told when one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serac_core.config import GateConfig
from serac_core.evaluation.items import Item, Question, write_items
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.report import write_report
from serac_core.ramp import parse_ramp
from serac_core.release.gate import Check, GateResult, run_gate
from serac_core.release.manifest import InvalidRelease
from serac_core.release.verdict import write_verdict
from serac_core.release.widths import (
    RampStopped,
    WidthResult,
    describe_live_edits,
    record_widths,
    recorded_widths,
    render_widths,
    report_widths,
    require_width_open,
    width_row,
    write_widths,
)

OPEN = GateResult((Check("edit/acc", 0.99, ">= 0.95", True, "n=500"),))
CLOSED = GateResult(
    (
        Check("edit/acc", 0.99, ">= 0.95", True),
        Check("live/edit/exact_match", 0.86, ">= 0.9", False),
        Check("live/locality/unrelated", None, ">= 0.95", False),
    )
)


def live_items(edits: int, wrong: int) -> list[Item]:
    """Prompts, the first few answered wrong, and an unrelated question a prompt."""
    scored = []
    for number in range(edits):
        right = number >= wrong
        scored.append(
            Item(
                question=Question(
                    part="live",
                    group="edit",
                    query=f"prompt {number}",
                    target="new",
                    expected_edit_id=f"e-{number}",
                ),
                answer="new" if right else "old",
                base_answer=None,
                correct=right,
                in_scope=right,
                edit_id=f"e-{number}" if right else None,
                nearest_edit_id=f"e-{number}",
                score=0.9,
            )
        )
        scored.append(
            Item(
                question=Question(part="live", group="unrelated", query=f"other {number}"),
                answer="old",
                base_answer="old",
                correct=True,
                in_scope=False,
                edit_id=None,
                nearest_edit_id="e-0",
                score=0.1,
            )
        )
    return scored


def result(width: int, edits: int, wrong: int, gate: GateResult) -> WidthResult:
    return WidthResult(width, edits, compute_metrics(live_items(edits, wrong)), gate)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "data/live/edits.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "e-1"}\n{"id": "e-2"}\n')
    return tmp_path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report folder of an evaluation without items."""
    folder = tmp_path / "report"
    for part in (folder, folder / "live"):
        part.mkdir(parents=True)
        (part / "metrics.json").write_text(json.dumps(compute_metrics([])))
        (part / "routing.json").write_text('{"threshold": 0.5}')
        write_items(part / "items.jsonl", [])
    return folder


def test_the_record_stands_for_its_live_edits_alone(workspace: Path) -> None:
    live = describe_live_edits(workspace)
    assert live.count == 2
    path = workspace / "data/live/edits.jsonl"
    assert recorded_widths(workspace, path) == []
    record_widths(workspace, live, [result(50, 50, 1, OPEN)])
    [row] = recorded_widths(workspace, path)
    assert (row["width"], row["edits"], row["passed"], row["failed"]) == ("50", 50, True, [])
    assert row["metrics"] == {
        "edit/exact_match": 0.98,
        "locality/unrelated": 1.0,
        "routing/false_route/unrelated": 0.0,
    }
    assert row["intervals"]["edit/exact_match"]["n"] == 50
    path.write_text('{"id": "e-1"}\n{"id": "e-3"}\n')
    assert recorded_widths(workspace, path) == []


def test_the_shipped_record_is_the_empty_one(workspace: Path) -> None:
    record_widths(workspace, describe_live_edits(workspace), [])
    shipped = Path(__file__).parents[3] / "widths.json"
    assert (workspace / "widths.json").read_bytes() == shipped.read_bytes()


def test_a_damaged_record_is_named(workspace: Path) -> None:
    (workspace / "widths.json").write_text('{"widths": []}')
    with pytest.raises(InvalidRelease, match=r"widths\.json: KeyError: 'live_edits'"):
        recorded_widths(workspace, workspace / "data/live/edits.jsonl")


def test_the_report_shows_all_widths(report: Path) -> None:
    passed = [result(50, 50, 1, OPEN).row(), result(200, 200, 8, OPEN).row()]
    own = width_row(0, 458, compute_metrics(live_items(458, 20)))
    write_widths(report, [*passed, own])
    write_report(report / "report.html", report)
    page = (report / "report.html").read_text()
    section = page[page.index('<h2 id="widths">') :]
    rows = [line for line in section.splitlines() if line.startswith("<tr><td>")]
    assert [line.split("</td>")[0].removeprefix("<tr><td>") for line in rows] == [
        "50",
        "200",
        "all",
    ]
    assert "0.9800" in rows[0] and "0.9600" in rows[1] and "0.9563" in rows[2]
    assert section.count("<td>passed</td>") == 2 and section.count("<td>this release</td>") == 1
    assert section.count("<picture>") == 1
    before = page
    write_report(report / "report.html", report)
    assert (report / "report.html").read_text() == before


def test_a_report_without_a_ramp_has_no_widths(report: Path) -> None:
    write_report(report / "report.html", report)
    assert "widths" not in (report / "report.html").read_text()


def test_a_kept_report_shows_what_failed(report: Path) -> None:
    report_widths(report, [result(50, 50, 1, OPEN), result(200, 200, 28, CLOSED)])
    page = (report / "report.html").read_text()
    assert "<code>live/edit/exact_match</code> 0.8600, must be &gt;= 0.9" in page
    assert "<code>live/locality/unrelated</code> -, must be &gt;= 0.95" in page


def test_a_closed_width_is_told_with_checks_and_bounds() -> None:
    ramp, reports = parse_ramp("50,200,all"), Path("kept/here")
    results = [result(50, 50, 1, OPEN), result(200, 200, 28, CLOSED)]
    require_width_open(ramp, results[:1], 458, reports)
    with pytest.raises(RampStopped) as stopped:
        require_width_open(ramp, results, 458, reports)
    assert stopped.value.what.startswith(
        "the ramp 50,200,all stopped at width 200 (the oldest 200 of 458 live edits): the gate "
        "is closed; the champion stays, nothing is published\n"
        "  live/edit/exact_match is 0.86, must be >= 0.9\n"
        "  live/locality/unrelated was not measured, must be >= 0.95\n"
        "widths that passed: 50\n"
        "check "
    )
    assert "kept/here" in stopped.value.remedy
    assert stopped.value.exit_code == 1
    with pytest.raises(RampStopped, match=r"at width all \(all 458\).*\n(.*\n)+.*passed: none"):
        require_width_open(ramp, [result(0, 458, 60, CLOSED)], 458, reports)


def test_the_table_has_a_column_a_width() -> None:
    rows = [result(50, 50, 1, OPEN).row(), result(0, 458, 60, CLOSED).row()]
    lines = render_widths(rows).splitlines()
    assert lines[0].split() == ["width", "50", "all"]
    assert lines[2].split() == ["edit/exact_match", "0.98", "0.869"]
    assert lines[-1].split()[:3] == ["verdict", "passed", "FAILED:"]


def test_the_verdict_keeps_the_narrower_widths(tmp_path: Path) -> None:
    write_verdict(tmp_path, OPEN, champion=None, narrower={"50": OPEN})
    assert json.loads((tmp_path / "gate.json").read_text())["widths"] == {"50": OPEN.as_dict()}
    write_verdict(tmp_path, OPEN, champion=None)
    assert "widths" not in json.loads((tmp_path / "gate.json").read_text())


def test_a_narrower_width_is_compared_with_the_champion_on_shared_questions() -> None:
    """The champion answered all live questions; at a width only those of its edits count."""
    champion = [item.row() for item in live_items(458, 0)]

    def regression(wrong: int) -> Check:
        items = [item.row() for item in live_items(50, wrong)]
        found = run_gate({}, items, champion, {}, None, GateConfig())
        return next(check for check in found.checks if check.name == "regression/live/edit")

    worse, chance = regression(6), regression(1)
    assert (worse.value, worse.passed) == (0.12, False)
    assert "on the same 50 items: 6 lost, 0 gained" in worse.note
    assert (chance.value, chance.passed) == (0.02, True)
