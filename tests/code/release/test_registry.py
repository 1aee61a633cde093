"""Versions and assignments as GTO tags; publishing them all or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gto.api
import pytest

from serac_core.release.registry import (
    NoChampion,
    NothingToRollBackTo,
    PublishFailed,
    PublishRaceLost,
    Registry,
    UnknownVersion,
    Version,
    assign,
    publish,
    read_registry,
    register,
    version_order,
)
from serac_core.workspace.commands import git

Commit = Callable[[Path, str], str]


def release(folder: Path, new_commit: Commit) -> Version:
    registry = read_registry(folder)
    version = registry.next_version("serac")
    made = register(folder, "serac", version, new_commit(folder, version))
    assign(folder, made, registry.next_counter)
    return made


def test_versions_rise_and_the_last_assignment_is_the_champion(
    repository: Path, new_commit: Commit
) -> None:
    assert read_registry(repository) == Registry((), ())
    made = [release(repository, new_commit) for _ in range(12)]
    registry = read_registry(repository)
    assert [version.version for version in made[:3]] == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert registry.champion == made[-1]
    assert registry.latest("serac") == made[-1]  # v1.11.0, not v1.9.0
    assert registry.next_counter == 13
    assert registry.next_version("edits") == "v1.0.0"
    assert gto.api.show(str(repository), "serac@latest")[0]["version"] == "v1.11.0"


def test_assignments_within_one_second_are_told_apart_by_number(
    repository: Path, new_commit: Commit
) -> None:
    first, second = release(repository, new_commit), release(repository, new_commit)
    assign(repository, first, 3)
    assert read_registry(repository).champion == first
    assign(repository, second, 4)
    assert read_registry(repository).champion == second


def test_rollback_goes_down_one_promoted_version_at_a_time(
    repository: Path, new_commit: Commit
) -> None:
    made = [release(repository, new_commit) for _ in range(3)]
    register(repository, "serac", "v1.5.0", new_commit(repository, "never promoted"))
    assert read_registry(repository).rollback_target() == made[1]
    assign(repository, made[1], 4)
    assert read_registry(repository).rollback_target() == made[0]
    assign(repository, made[0], 5)
    with pytest.raises(NothingToRollBackTo):
        read_registry(repository).rollback_target()


def test_versions_are_found_by_any_of_their_names(repository: Path, new_commit: Commit) -> None:
    made = release(repository, new_commit)
    registry = read_registry(repository)
    for name in ("v1.0.0", "1.0.0", "serac@v1.0.0"):
        assert registry.find(name) == made
    with pytest.raises(UnknownVersion, match=r"v9\.0\.0") as unknown:
        registry.find("v9.0.0")
    assert "v1.0.0" in unknown.value.remedy
    with pytest.raises(UnknownVersion):
        version_order("latest")


def test_no_champion_is_said(repository: Path) -> None:
    with pytest.raises(NoChampion):
        read_registry(repository).require_champion()


def test_foreign_tags_are_ignored(repository: Path, new_commit: Commit) -> None:
    for tag in ("v3.0", "other@v2.0.0", "serac@latest", "serac#prod#x", "serac#prod#9"):
        git(repository, "tag", tag)
    assert read_registry(repository) == Registry((), (), last_counter=9)
    assert release(repository, new_commit).version == "v1.0.0"
    assert read_registry(repository).assignments[-1].counter == 10


def test_branch_and_tags_are_published_together(
    repository: Path, clone: Path, new_commit: Commit
) -> None:
    release(clone, new_commit)
    publish(clone, ["serac@v1.0.0", "serac#prod#1"], releases="")
    assert git(repository, "rev-parse", "releases") == git(clone, "rev-parse", "HEAD")
    assert read_registry(repository) == read_registry(clone)


def test_moved_releases_branch_loses_the_race(
    repository: Path, clone: Path, new_commit: Commit
) -> None:
    release(clone, new_commit)
    git(repository, "branch", "releases")
    with pytest.raises(PublishRaceLost, match="another run"):
        publish(clone, ["serac@v1.0.0", "serac#prod#1"], releases="")
    assert read_registry(repository) == Registry((), ())


def test_taken_assignment_loses_the_race(repository: Path, clone: Path, new_commit: Commit) -> None:
    release(clone, new_commit)
    new_commit(repository, "something else")
    release(repository, new_commit)
    before = read_registry(repository)
    with pytest.raises(PublishRaceLost):
        publish(clone, ["serac@v1.0.0", "serac#prod#1"], releases="")
    assert read_registry(repository) == before
    assert git(repository, "branch", "--list", "releases") == ""
    with pytest.raises(PublishRaceLost):
        assign(clone, read_registry(clone).require_champion(), 5)


def test_checked_out_releases_branch_is_refused_clearly(
    repository: Path, clone: Path, new_commit: Commit
) -> None:
    old = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "-b", "releases")
    release(clone, new_commit)
    with pytest.raises(PublishFailed, match="nothing is published") as refused:
        publish(clone, ["serac@v1.0.0", "serac#prod#1"], releases=old)
    assert "checked out" in refused.value.remedy
    assert read_registry(repository) == Registry((), ())


def test_gto_leaves_the_logging_of_the_process_alone(repository: Path, new_commit: Commit) -> None:
    """Else a run would wait for ever for a Prefect server that is away."""
    script = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from serac_core.release.registry import register\n"
        "class Kept(logging.Handler):\n"
        "    def flush(self):\n"
        "        print('flushed', file=sys.stderr)\n"
        "logging.getLogger('run').addHandler(kept := Kept())\n"
        "register(Path(sys.argv[1]), 'serac', 'v1.0.0', sys.argv[2])\n"
        "import os; sys.stderr.flush(); os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(repository), new_commit(repository, "one")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
