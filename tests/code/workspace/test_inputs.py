"""Which inputs of the pipeline are uncommitted, and the snapshot of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_repository import sh

from serac_core.workspace.inputs import (
    UncommittedInputs,
    UnreadablePipeline,
    UnversionedInputs,
    inspect_inputs,
    require_committed,
    snapshot,
)


def test_clean_checkout_has_no_dirty_inputs(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("not an input\n")
    (checkout / "new.txt").write_text("not an input\n")
    require_committed(inspect_inputs(checkout))


@pytest.mark.parametrize("stage_it", [False, True])
def test_changed_inputs_are_named(checkout: Path, stage_it: bool) -> None:
    (checkout / "data/edits.jsonl").write_text('{"id": 2}\n')
    (checkout / "dvc.yaml").unlink()
    sh(checkout, "git", "checkout", "--", "dvc.yaml")
    with (checkout / "dvc.yaml").open("a") as file:
        file.write("# more\n")
    if stage_it:
        sh(checkout, "git", "add", "--all")
    with pytest.raises(UncommittedInputs, match=r"data/edits\.jsonl, dvc\.yaml") as refused:
        require_committed(inspect_inputs(checkout))
    assert "--include-uncommitted" in refused.value.remedy
    assert refused.value.exit_code == 2


def test_removed_and_untracked_inputs_are_named(checkout: Path) -> None:
    sh(checkout, "git", "rm", "--quiet", "--cached", "data/edits.jsonl")
    sh(checkout, "git", "commit", "--quiet", "-m", "forget it")
    assert inspect_inputs(checkout).dirty == ("data/edits.jsonl",)
    sh(checkout, "git", "reset", "--quiet", "--hard", "HEAD^")
    (checkout / "data/edits.jsonl").unlink()
    assert inspect_inputs(checkout).dirty == ("data/edits.jsonl",)


def test_ignored_input_is_refused(checkout: Path) -> None:
    (checkout / "big").mkdir()
    (checkout / "big/model").write_text("weights")
    pipeline = (checkout / "dvc.yaml").read_text().replace("deps: [out]", "deps: [out, big]")
    (checkout / "dvc.yaml").write_text(pipeline)
    with pytest.raises(UnversionedInputs, match="big"):
        inspect_inputs(checkout)


def test_data_under_dvc_is_compared_with_its_dvc_file(checkout: Path) -> None:
    put_edits_under_dvc(checkout)
    assert inspect_inputs(checkout).dirty == ()
    (checkout / "data/edits.jsonl").write_text('{"id": 3}\n')
    assert inspect_inputs(checkout).changed_data == ("data/edits.jsonl",)
    (checkout / "data/edits.jsonl").unlink()  # a clone that never pulled it
    assert inspect_inputs(checkout).dirty == ()


def test_broken_pipeline_is_named(checkout: Path) -> None:
    (checkout / "dvc.yaml").write_text("stages: [1, 2\n")
    with pytest.raises(UnreadablePipeline, match=r"dvc\.yaml"):
        inspect_inputs(checkout)


def test_snapshot_holds_changed_new_and_removed_inputs(checkout: Path, tmp_path: Path) -> None:
    (checkout / "data/more").mkdir()
    (checkout / "data/more/a b\u00e9.json").write_text("{}")
    (checkout / "data/gone.txt").write_text("x")
    pipeline = (checkout / "dvc.yaml").read_text()
    (checkout / "dvc.yaml").write_text(pipeline.replace("[data/edits.jsonl]", "[data]"))
    sh(checkout, "git", "add", "data/gone.txt", "dvc.yaml")
    sh(checkout, "git", "commit", "--quiet", "-m", "more")
    (checkout / "data/gone.txt").unlink()
    (checkout / "data/edits.jsonl").write_text("changed\n")
    workspace = tmp_path / "clone"
    sh(tmp_path, "git", "clone", "--quiet", str(checkout), str(workspace))

    status = sh(checkout, "git", "status", "--porcelain")
    snapshot(checkout, workspace, inspect_inputs(checkout), previous="")

    assert (workspace / "data/edits.jsonl").read_text() == "changed\n"
    assert (workspace / "data/more/a b\u00e9.json").exists()
    assert not (workspace / "data/gone.txt").exists()
    assert sh(workspace, "git", "status", "--porcelain") == ""
    assert sh(workspace, "git", "rev-parse", "HEAD^") == sh(checkout, "git", "rev-parse", "HEAD")
    assert sh(checkout, "git", "status", "--porcelain") == status


def test_snapshot_of_data_under_dvc(checkout: Path, tmp_path: Path) -> None:
    put_edits_under_dvc(checkout)
    (checkout / "data/edits.jsonl").write_text('{"id": 3}\n')
    pointer = (checkout / "data/edits.jsonl.dvc").read_text()
    workspace = tmp_path / "clone"
    sh(tmp_path, "git", "clone", "--quiet", str(checkout), str(workspace))
    snapshot(checkout, workspace, inspect_inputs(checkout), previous="")
    assert (workspace / "data/edits.jsonl.dvc").read_text() != pointer
    assert (checkout / "data/edits.jsonl.dvc").read_text() == pointer
    assert sh(workspace, "git", "status", "--porcelain") == ""


def put_edits_under_dvc(checkout: Path) -> None:
    sh(checkout, "git", "rm", "--quiet", "--cached", "data/edits.jsonl")
    sh(checkout, "dvc", "add", "--quiet", "data/edits.jsonl")
    sh(checkout, "git", "add", "--all")
    sh(checkout, "git", "commit", "--quiet", "-m", "under DVC")
