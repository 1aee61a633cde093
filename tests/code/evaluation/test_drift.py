"""Drift of the routers' decisions from the evaluation of the release that they serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serac_core.cli import app
from serac_core.config import DriftConfig
from serac_core.evaluation.drift import NoDecisions, compare_scores, drift_report

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
CONFIG = DriftConfig(min_decisions=200)


def scores(seed: int, count: int, spread: float = 0.03) -> list[float]:
    """A third far below, the rest well above a threshold of 0.5, some in question for nothing."""
    draw = Random(seed)
    return [
        -1.0 if n % 10 == 0 else min(1.0, max(0.0, draw.gauss(0.1 if n % 3 == 0 else 0.9, spread)))
        for n in range(count)
    ]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "v1.2.0"
    (folder / "scope").mkdir(parents=True)
    (folder / "report").mkdir()
    thresholds = {"threshold": 0.5, "whole_text_threshold": 0.9}
    (folder / "scope/calibration.json").write_text(json.dumps({"variants": {"fp32": thresholds}}))
    rows = "".join(json.dumps({"score": score}) + "\n" for score in scores(1, 2000))
    (folder / "report/items.jsonl").write_text(rows)
    return folder


def log(folder: Path, found: Sequence[float], *, name: str = "a", **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    line = {"release": "serac@v1.2.0", "variant": "fp32", "at": "2026-03-08T10:00:00.000Z"}
    text = "".join(json.dumps({**line, **fields, "score": score}) + "\n" for score in found)
    (folder / f"decisions-{name}.jsonl").write_text(text)
    return folder


def test_traffic_like_the_evaluation_is_no_drift(tmp_path: Path, release: Path) -> None:
    logs = log(tmp_path / "logs", scores(2, 1500))
    report = drift_report(release, logs, tmp_path / "out", CONFIG, name="serac@v1.2.0", now=NOW)
    assert not report.drifted and not report.too_few
    assert report.decisions == 1500 and report.in_question == 1350
    assert report.shift is not None and report.shift < 0.1
    assert json.loads((tmp_path / "out/drift.json").read_text())["drifted"] is False
    assert (tmp_path / "out/scores.png").read_bytes().startswith(b"\x89PNG")


def test_decisions_near_the_threshold_are_a_drift(tmp_path: Path, release: Path) -> None:
    near = [0.45 if n % 2 else 0.55 for n in range(300)]
    logs = log(tmp_path / "logs", scores(2, 1500) + near)
    report = drift_report(release, logs, tmp_path / "out", CONFIG, name="serac@v1.2.0", now=NOW)
    assert report.drifted
    assert "near the threshold" in report.reasons[0]
    assert report.borderline == pytest.approx(300 / 1650)


def test_other_scores_routed_in_are_a_drift(tmp_path: Path, release: Path) -> None:
    logs = log(tmp_path / "logs", [0.75] * 400 + scores(2, 500))
    report = drift_report(release, logs, tmp_path / "out", CONFIG, name="serac@v1.2.0", now=NOW)
    assert report.drifted
    assert "the scores routed in" in report.reasons[-1]


def test_only_this_release_variant_and_time_count(tmp_path: Path, release: Path) -> None:
    odd = [0.5] * 1000
    logs = log(tmp_path / "logs", odd, name="other", release="serac@v1.1.0")
    log(logs, odd, name="int8", variant="int8")
    log(logs, odd, name="old", at=(NOW - timedelta(days=30)).isoformat())
    log(logs, odd, name="future", at=(NOW + timedelta(days=1)).isoformat())
    with (logs / "decisions-other.jsonl").open("a") as file:
        file.write('{"torn": ')
    report = drift_report(release, logs, tmp_path / "out", CONFIG, name="serac@v1.2.0", now=NOW)
    assert report.decisions == 0 and report.too_few and not report.drifted
    assert report.unreadable == 1


def test_router_that_was_given_the_directory_is_counted(tmp_path: Path, release: Path) -> None:
    logs = log(tmp_path / "logs", [0.5] * 300, release="v1.2.0")
    report = drift_report(release, logs, tmp_path / "out", CONFIG, name="serac@v1.2.0", now=NOW)
    assert report.decisions == 300 and report.drifted


def test_no_log_is_an_error_that_says_who_writes_it(tmp_path: Path, release: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(NoDecisions, match=r"decisions-\*\.jsonl"):
        drift_report(release, tmp_path / "logs", tmp_path / "out", CONFIG, name="x", now=NOW)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.floats(0, 1), max_size=60), st.lists(st.floats(0, 1), max_size=60))
def test_too_few_decisions_tell_nothing(logged: list[float], evaluated: list[float]) -> None:
    assert compare_scores(logged, evaluated, 0.5, CONFIG)["reasons"] == ()


def test_verb_exits_with_1_on_a_drift(tmp_path: Path, release: Path) -> None:
    (tmp_path / "params.yaml").write_text("drift: {min_decisions: 10, days: 100000}\n")
    logs = log(tmp_path / "logs", [0.5] * 100, at="2020-01-01T00:00:00Z")
    arguments = ["drift", "--release", str(release), "--decisions", str(logs)]
    arguments += ["--out", str(tmp_path / "out"), "--params", str(tmp_path / "params.yaml")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "drift: 100.0% of the decisions are near the threshold" in done.output
