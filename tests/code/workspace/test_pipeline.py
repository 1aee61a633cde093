"""Stages reproduced in a clone, commands streamed, the DVC remote."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import yaml
from small_repository import sh

from serac_core.workspace.candidate import share_cache, take_candidate
from serac_core.workspace.commands import GitFailed, command_environment, git, stream
from serac_core.workspace.pipeline import (
    RemoteUnreachable,
    StageFailed,
    is_up_to_date,
    out_hash,
    push_data,
    reproduce,
    set_default_remote,
)
from serac_core.workspace.runs import start_run
from serac_core.workspace.width import narrow, widen


def test_stages_run_once_and_are_restored_in_the_next_clone(checkout: Path) -> None:
    said: list[str] = []
    ran = []
    for _ in range(2):
        with start_run(checkout, "retrain") as run:
            take_candidate(run)
            set_default_remote(checkout, run.workspace, "")
            ran.append(reproduce(run.workspace, ["count"], say=said.append, log=run.log))
            assert (run.workspace / "count.txt").read_text().strip() == "1"
            lock = (run.workspace / "dvc.lock").read_text()
            log = run.log.read_text()
    assert ran == [["copy", "count"], []]
    assert out_hash(lock, "out").endswith(".dir")
    assert out_hash(lock, "elsewhere") == ""
    assert "copied" in said
    assert not any("git add" in line for line in said)
    assert "Use `dvc push`" in log


def test_a_clone_without_data_knows_by_its_lock_whether_anything_changed(checkout: Path) -> None:
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        set_default_remote(checkout, run.workspace, "")
        assert not is_up_to_date(run.workspace, "count")
        reproduce(run.workspace, ["count"], say=lambda line: None, log=run.log)
        lock = (run.workspace / "dvc.lock").read_bytes()
    (checkout / "dvc.lock").write_bytes(lock)
    sh(checkout, "git", "add", "dvc.lock")
    sh(checkout, "git", "commit", "--quiet", "-m", "lock")
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        assert is_up_to_date(run.workspace, "count")
        assert not (run.workspace / "count.txt").exists()
        (run.workspace / "data/edits.jsonl").write_text('{"id": 2}\n')
        assert not is_up_to_date(run.workspace, "count")


def test_a_width_is_the_clones_alone_and_goes_without_a_trace(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_text()
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        narrow(run.workspace, 50)
        assert yaml.safe_load((run.workspace / "params.yaml").read_text()) == {
            "seed": 1,
            "retrain": {"width": 50},
        }
        widen(run.workspace)
        assert git(run.workspace, "status", "--porcelain") == ""
    assert (checkout / "params.yaml").read_text() == before


def test_failed_stage_is_named_with_its_exit_code_and_words(checkout: Path) -> None:
    broken = (checkout / "dvc.yaml").read_text().replace("echo copied", "echo three words; exit 3")
    (checkout / "dvc.yaml").write_text(broken)
    sh(checkout, "git", "commit", "--quiet", "--all", "-m", "broken")
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        set_default_remote(checkout, run.workspace, "")
        with pytest.raises(StageFailed, match="three words") as failed:
            reproduce(run.workspace, ["count"], say=lambda line: None, log=run.log)
    assert (failed.value.stage, failed.value.stage_exit_code) == ("copy", 3)
    assert str(run.log) in failed.value.remedy
    assert failed.value.stage_output[0] == "three words"


def test_remote_is_a_verified_folder_of_the_checkout_unless_told(
    checkout: Path, tmp_path: Path
) -> None:
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        local = set_default_remote(checkout, run.workspace, "")
        assert local == str(checkout / ".serac/remote")
        settings = (run.workspace / ".dvc/config").read_text()
        assert "verify = true" in settings.lower()
        named = set_default_remote(checkout, run.workspace, str(tmp_path / "store"))
        assert named == str(tmp_path / "store")
        reproduce(run.workspace, ["copy"], say=lambda line: None, log=run.log)
        push_data(run.workspace, say=lambda line: None, log=run.log)
    assert list((tmp_path / "store").rglob("*.dir"))


def test_committed_default_remote_is_kept(checkout: Path, tmp_path: Path) -> None:
    sh(checkout, "dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    sh(checkout, "git", "commit", "--quiet", "--all", "-m", "remote")
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        url = set_default_remote(checkout, run.workspace, str(tmp_path / "other"))
        assert url == str(tmp_path / "team")
        assert git(run.workspace, "status", "--porcelain") == ""


def test_unreachable_remote_is_named(checkout: Path) -> None:
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        for url in ("/nowhere/at/all", "s3://bucket/folder"):
            with pytest.raises(RemoteUnreachable, match=url):
                set_default_remote(checkout, run.workspace, url)


def test_output_is_streamed_line_by_line(tmp_path: Path) -> None:
    said: list[str] = []
    script = (
        "import sys; sys.stdout.buffer.write(b'10%\\r100%\\n\\nbad \\xff byte\\n'); sys.exit(4)"
    )
    code, lines = stream(
        [sys.executable, "-c", script], cwd=tmp_path, say=said.append, log=tmp_path / "logs/log"
    )
    assert code == 4
    assert lines == ["100%", "", "bad \ufffd byte"]
    assert said == ["100%", "bad \ufffd byte"]
    assert (tmp_path / "logs/log").read_text().splitlines() == lines


def test_interrupted_command_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = f"sh -c 'while :; do date +%N > {alive}; echo beat; done'; true"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(["sh", "-c", script], cwd=tmp_path, say=interrupt, log=tmp_path / "log")
    last = alive.read_text()
    threading.Event().wait(0.2)
    assert alive.read_text() == last


def test_git_failure_carries_gits_words(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(GitFailed, match="not a git repository"):
        git(tmp_path, "status")
    with pytest.raises(GitFailed, match="no such folder"):
        git(tmp_path / "nowhere", "status")


def test_clone_shares_cache_and_local_settings(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".dvc/config.local").write_text(
        f"[cache]\n    dir = {tmp_path / 'big-disk'}\n    type = hardlink\n"
        "['remote \"team\"']\n    url = https://example.org\n    password = secret\n"
    )
    sh(tmp_path, "git", "clone", "--quiet", str(checkout), "clone")
    share_cache(checkout, tmp_path / "clone")
    settings = (tmp_path / "clone/.dvc/config.local").read_text()
    assert str(tmp_path / "big-disk") in settings
    assert "password = secret" in settings
    assert "type = copy" in settings


def test_environment_of_a_git_hook_is_left_behind(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    assert "GIT_DIR" not in command_environment()
    assert git(checkout, "status", "--porcelain") == ""
