"""Edits over HTTP, the log of decisions, and work done together."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from processes import ROOT, Router
from threads import serving

from serac_core.edits.jsonl import read_edits
from serac_core.serving.batching import Batcher
from serac_core.serving.decision_log import DecisionLog, UnwritableLog
from serac_core.serving.errors import Busy
from serac_core.serving.inbox import Inbox
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import load_settings

PERU = {"prompt": "The capital of Peru is", "target_new": "Cusco", "subject": "Peru", "note": 1}


def post(router: Router, edit: object) -> httpx.Response:
    return httpx.post(f"{router.url}/edits", json={"edit": edit}, headers=router.admin)


def test_an_edit_is_queued_and_can_be_followed(release, tmp_path) -> None:
    live = {edit.id: edit for edit in read_edits(release / "edits.jsonl")}
    inbox = Inbox(tmp_path, "data/inbox")
    queued = inbox.queue(dict(PERU), live)
    file = tmp_path / "data/inbox" / f"{queued.id}.jsonl"
    assert json.loads(file.read_text()) == PERU and queued.status == "queued"
    assert inbox.queue(dict(PERU), live).id == queued.id
    assert inbox.follow(queued.id, live).status == "queued"
    (edit,) = read_edits(file)
    file.unlink()  # an update takes it
    assert inbox.follow(queued.id, live).status == "taken"
    assert inbox.follow(queued.id, {**live, edit.id: edit}).status == "live"
    rejected = tmp_path / "data/rejected"
    rejected.mkdir()
    (rejected / file.name).write_text("{}")
    assert inbox.follow(queued.id, live).reasons == ("no reason is given",)
    (rejected / f"{file.name}.reasons.txt").write_text("too long\n")
    found = Inbox(tmp_path, "data/inbox").follow(queued.id, live)  # after a restart too
    assert (found.status, found.reasons) == ("rejected", ("too long",))


def test_a_retraction_is_in_force_when_the_edit_is_gone(release, tmp_path) -> None:
    live = {edit.id: edit for edit in read_edits(release / "edits.jsonl")}
    inbox = Inbox(tmp_path, "data/inbox")
    queued = inbox.queue({"id": "e-capital-france", "status": "retracted"}, live)
    (tmp_path / "data/inbox" / f"{queued.id}.jsonl").unlink()
    assert inbox.follow(queued.id, live).status == "taken"
    live.pop("e-capital-france")
    assert inbox.follow(queued.id, live).status == "live"


def test_over_http(router: Router) -> None:
    answer = post(router, PERU)
    assert answer.status_code == 202 and answer.json()["status"] == "queued"
    follow = httpx.get(router.url + answer.headers["location"], headers=router.admin)
    assert follow.json()["edit_id"] == answer.json()["edit_id"]
    queued = Path(router.log.parent / "data/inbox").glob("*.jsonl")
    assert answer.json()["id"] in {path.stem for path in queued}


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({}, "missing_field: prompt"),
        ({**PERU, "target_new": " "}, "empty_field: target_new"),
        ({**PERU, "prompt": "a\nb"}, "control_character"),
        (
            {**PERU, "prompt": "The capital of France is", "subject": "France"},
            "conflicting_targets",
        ),
        ({"id": "e-unknown", "status": "retracted"}, "retracts_unknown"),
        ({**PERU, "supersedes": "e-unknown"}, "supersedes_unknown"),
        ({**PERU, "id": "../../escape"}, None),
        ("text", "edit: "),
    ],
)
def test_a_bad_edit_is_told_and_not_queued(router: Router, edit: object, told: str | None) -> None:
    before = sorted(router.log.parent.rglob("q-*"))
    answer = post(router, edit)
    if told is None:
        assert answer.status_code == 202
        assert all(
            path.is_relative_to(router.log.parent) for path in router.log.parent.rglob("q-*")
        )
        return
    assert answer.status_code == 400 and told in answer.json()["error"]["message"]
    assert sorted(router.log.parent.rglob("q-*")) == before


def test_an_edit_may_supersede_one_that_is_live(router: Router) -> None:
    newer = {**PERU, "prompt": "The capital of France is", "subject": "France"}
    assert post(router, {**newer, "supersedes": "e-capital-france"}).status_code == 202


def lines_of(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("decisions-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_decisions_are_logged_without_their_text(release, upstream, tmp_path) -> None:
    asked = "What is the capital of France?"
    for with_text in (False, True):
        folder = tmp_path / str(with_text)
        options = {"decision_log": str(folder), "log_prompts": with_text}
        with serving(release, upstream, **options) as (url, _):
            body = {"model": "other", "messages": [{"role": "user", "content": asked}]}
            httpx.post(f"{url}/v1/chat/completions", json=body)
            httpx.post(f"{url}/route", json={"queries": ["tea", asked]})
        rows = lines_of(folder)
        assert [row["endpoint"] for row in rows] == ["chat", "route", "route"]
        assert [row["route"] for row in rows] == ["edit", "base", "edit"]
        assert rows[0]["edit_id"] == "e-capital-france" and rows[0]["release"] == "tiny-release"
        assert rows[1]["score"] == -1.0 and rows[1]["nearest_edit_id"] is None
        assert [row.get("query") for row in rows] == (
            [asked, "tea", asked] if with_text else [None] * 3
        )


def test_full_files_are_followed_by_others_and_the_oldest_go(tmp_path, release) -> None:
    from serac_core.scope.router import Decision

    held = load_settings(
        None, {"release": str(release), "decision_log": str(tmp_path), "decision_log_files": 3}
    )
    log = DecisionLog(held.model_copy(update={"decision_log_megabytes": 0}), Metrics())
    decision = Decision("x", False, None, -1.0, 0.5, None)
    for _ in range(8):
        log.add("route", "r", "fp32", [decision])
        while not log._lines.empty():
            pass
    log.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert all(row["in_scope"] is False for row in lines_of(tmp_path))


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path, release) -> None:
    (tmp_path / "file").write_text("")
    held = load_settings(None, {"release": "x", "decision_log": str(tmp_path / "file")})
    with pytest.raises(UnwritableLog, match="file"):
        DecisionLog(held, Metrics())


def test_a_full_disk_costs_lines_and_no_answers(tmp_path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from serac_core.scope.router import Decision\n"
        "from serac_core.serving.decision_log import DecisionLog\n"
        "from serac_core.serving.metrics import Metrics\n"
        "from serac_core.serving.settings import load_settings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "held = load_settings(None, {'release': 'x', 'decision_log': sys.argv[1]})\n"
        "metrics = Metrics(); log = DecisionLog(held, metrics)\n"
        "decision = Decision('x', False, None, -1.0, 0.5, None)\n"
        "for _ in range(200): log.add('route', 'r', 'fp32', [decision])\n"
        "log.close(); print(metrics.log_dropped._value.get())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 100 < float(done.stdout) <= 200
    assert len(lines_of(tmp_path)) == 200 - float(done.stdout)


def test_what_waits_is_done_together_and_each_fails_alone() -> None:
    sizes: list[int] = []
    may_go = threading.Event()

    def double(key: str, items: list[int]) -> list[int]:
        assert may_go.wait(10)
        sizes.append(len(items))
        if 13 in items:
            raise ValueError("13")
        return [item * 2 for item in items]

    async def run() -> None:
        batcher = Batcher(double, name="doubling", max_batch=4, max_waiting=8)
        first = asyncio.create_task(batcher.submit("a", [1]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first is under way
        left = asyncio.create_task(batcher.submit("a", [2]))
        others = [asyncio.create_task(batcher.submit("a", [n])) for n in (3, 13, 5)]
        other_key = asyncio.create_task(batcher.submit("b", [6, 7]))
        await asyncio.sleep(0)
        with pytest.raises(Busy) as busy:
            await batcher.submit("a", [8, 9, 10])
        assert busy.value.retry_after == 1
        left.cancel()
        may_go.set()
        assert await first == [2] and await other_key == [12, 14]
        assert [await others[0], await others[2]] == [[6], [10]]
        with pytest.raises(ValueError):
            await others[1]
        assert await batcher.submit("a", list(range(10))) == [n * 2 for n in range(10)]
        await batcher.close()

    asyncio.run(run())
    assert sizes == [1, 3, 1, 1, 1, 2, 4, 4, 2]
