"""A repository that publishes releases as the flows do: DVC data, GTO tags, branch `releases`."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import chdir
from pathlib import Path

from dvc.repo import Repo

from serac_core.release.registry import RELEASE, assign, read_registry, register


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Registry:
    """A person's repository with a DVC remote beside it."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.remote = folder / "remote"
        self.checkout.mkdir(parents=True)
        self.remote.mkdir()
        run(self.checkout, "git", "init", "--quiet", "--initial-branch", "main")
        run(self.checkout, "git", "config", "user.name", "Ann")
        run(self.checkout, "git", "config", "user.email", "ann@example.org")
        Repo.init(str(self.checkout)).close()
        config = self.checkout / ".dvc/config"
        config.write_text(
            "[core]\n    analytics = false\n    remote = serac\n"
            f"['remote \"serac\"']\n    url = {self.remote}\n    verify = true\n"
        )
        run(self.checkout, "git", "add", "--all")
        run(self.checkout, "git", "commit", "--quiet", "-m", "start")

    def publish(self, release: Path, *, promoted: bool = True) -> str:
        """Commit a release directory, push its data and promote it; its tag."""
        target = self.checkout / "release"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(release, target)
        with chdir(self.checkout), Repo() as repo:
            repo.add("release")
            repo.push()
        run(self.checkout, "git", "add", "release.dvc", ".gitignore")
        run(self.checkout, "git", "commit", "--quiet", "-m", "release")
        commit = run(self.checkout, "git", "rev-parse", "HEAD")
        version = read_registry(self.checkout).next_version(RELEASE)
        register(self.checkout, RELEASE, version, commit)
        if promoted:
            self.promote(version)
        return f"{RELEASE}@{version}"

    def promote(self, version: str) -> None:
        registry = read_registry(self.checkout)
        assign(self.checkout, registry.find(version), registry.next_counter)


def corrupt(release: Path) -> None:
    graph = release / "scope/encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")


def truncate(release: Path) -> None:
    graph = release / "scope/encoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


def make_newer(release: Path) -> None:
    """Of a version that this code can't read."""
    manifest = release / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2'))
