"""A DVC remote in an S3-compatible store, named by one setting: a real HTTP server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from small_repository import sh

from serac_core.workspace.candidate import take_candidate
from serac_core.workspace.pipeline import (
    RemoteUnreachable,
    check_remote,
    push_data,
    reproduce,
    set_default_remote,
)
from serac_core.workspace.runs import start_run


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """URL of a store with bucket `edits`, and a client of it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket="edits")
    yield url, client
    server.stop()


def test_data_go_to_the_store_and_come_back(
    checkout: Path, tmp_path: Path, store: tuple[str, Any]
) -> None:
    url, client = store
    check_remote(checkout, "s3://edits/serac", endpoint=url)
    assert client.list_objects_v2(Bucket="edits")["KeyCount"] == 0, "the probe is removed"
    with start_run(checkout, "retrain") as run:
        take_candidate(run)
        named = set_default_remote(checkout, run.workspace, "s3://edits/serac", url)
        assert named == "s3://edits/serac"
        reproduce(run.workspace, ["count"], say=print, log=run.log)
        push_data(run.workspace, say=print, log=run.log)
        clone = tmp_path / "clone"
        shutil.copytree(run.workspace, clone, ignore=shutil.ignore_patterns("out", "count.txt"))
    committed = (clone / ".dvc/config").read_text()
    assert url in committed and "secret" not in committed
    (clone / ".dvc/config.local").unlink()
    sh(clone, "dvc", "pull")
    assert (clone / "out/edits.jsonl").read_text() == '{"id": 1}\n'


def test_store_that_refuses_is_named(checkout: Path, store: tuple[str, Any]) -> None:
    url, client = store
    with pytest.raises(RemoteUnreachable, match=r"'s3://elsewhere/serac'.*does not exist"):
        check_remote(checkout, "s3://elsewhere/serac", endpoint=url)
    client.put_object(Bucket="edits", Key="kept", Body=b"kept")
    with pytest.raises(RemoteUnreachable, match=r"127\.0\.0\.1:9") as refused:
        check_remote(checkout, "s3://edits/serac", endpoint="http://127.0.0.1:9")
    assert "registry.dvc_remote" in refused.value.remedy


def test_folder_that_may_not_be_written_is_named(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(RemoteUnreachable, match="no such folder"):
        check_remote(checkout, str(tmp_path / "no/where"))
