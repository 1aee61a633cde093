"""The flow check-drift: decisions of the champion's routers, as a report and as an event."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_retrain import commit_all

pytestmark = pytest.mark.usefixtures("prefect_server")

# A process of its own, as a worker's would be: Prefect reads its settings when it is imported.
_RUN = """
import json, sys
from flows import check_drift as module

emitted, emit = [], module.emit_event
module.emit_event = lambda **event: (emitted.append(event), emit(**event))
state = module.check_drift(checkout=sys.argv[1], return_state=True)
said = {"state": state.name, "message": state.message}
print(json.dumps({**said, "events": [event["event"] for event in emitted]}))
"""


def check(project: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _RUN, str(project)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize(("score", "drifted"), [(0.52, True), (0.95, False)])
def test_decisions_near_the_threshold_emit_an_event(
    released: Path, score: float, drifted: bool
) -> None:
    params = yaml.safe_load((released / "params.yaml").read_text())
    params["drift"] = {"min_decisions": 20}
    (released / "params.yaml").write_text(yaml.safe_dump(params))
    commit_all(released, "few decisions are enough")
    folder = released / ".serac/decisions"
    folder.mkdir()
    line = {"release": "serac@v1.0.0", "variant": "fp32", "at": datetime.now(UTC).isoformat()}
    (folder / "decisions-a.jsonl").write_text((json.dumps({**line, "score": score}) + "\n") * 50)
    said = check(released)
    assert said["state"] == "Completed", said
    assert said["message"].startswith("drift: " if drifted else "no drift")
    assert said["events"] == ["serac.drift.detected"] * drifted
    [report] = released.glob(".serac/reports/*/drift")
    assert {path.name for path in report.iterdir()} == {"drift.json", "scores.png"}
    assert json.loads((report / "drift.json").read_text())["in_question"] == 50


def test_without_a_log_the_run_fails_and_says_who_writes_one(released: Path) -> None:
    said = check(released)
    assert said["state"] == "Failed"
    assert "decisions-*.jsonl" in said["message"] and "remedy" in said["message"]
