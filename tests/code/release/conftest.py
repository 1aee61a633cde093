"""Nothing of this machine's set-up, and a repository to register releases in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\nname = Ann\nemail = ann@example.org\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    commit(folder, "start")
    return folder


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A clone of it whose remote `publish` is the repository."""
    folder = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", "--origin=publish", str(repository), str(folder)], check=True
    )
    return folder


def commit(folder: Path, message: str) -> str:
    command = ["git", "commit", "--quiet", "--allow-empty", "-m", message]
    subprocess.run(command, cwd=folder, check=True)
    found = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True)
    return found.strip()


@pytest.fixture
def new_commit():
    """Makes an empty commit in a repository and returns its hash."""
    return commit
