"""The versioned inputs of the pipeline: which have uncommitted changes, and a snapshot of them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.errors import SeracError
from serac_core.workspace.commands import command_environment, dvc_command, git, run_git

if TYPE_CHECKING:
    from dvc.repo import Repo

SNAPSHOT_TRAILER = "Snapshot-Of"


class UncommittedInputs(SeracError):
    """Inputs of the pipeline differ from the last commit."""


class UnversionedInputs(SeracError):
    """Inputs of the pipeline that neither Git nor DVC tracks: no clone would have them."""


class UnreadablePipeline(SeracError):
    """DVC can't read dvc.yaml or a file that it names."""


@dataclass(frozen=True)
class Inputs:
    """What the pipeline reads, relative to the checkout's root.

    Attributes
    ----------
    uncommitted:
        Files that Git sees as changed, new or removed.
    changed_data:
        Data under DVC (`dvc add`) whose content differs from their `.dvc` file.
    """

    uncommitted: tuple[str, ...]
    changed_data: tuple[str, ...]

    @property
    def dirty(self) -> tuple[str, ...]:
        return tuple(sorted({*self.uncommitted, *self.changed_data}))


def inspect_inputs(checkout: Path) -> Inputs:
    """Compare the pipeline's inputs with the last commit.

    Inputs are dvc.yaml, the params files, DVC's settings and every path that a stage
    depends on and no stage makes (or makes outside the cache, as the demo model).

    Raises
    ------
    UnreadablePipeline
        dvc.yaml or a `.dvc` file breaks DVC's rules.
    UnversionedInputs
        A path in the checkout that a stage depends on is tracked by neither Git nor DVC.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(checkout)) as repo:
            paths, data = _input_paths(checkout, repo)
            changed = [path for path, differs in data.items() if differs]
    except DvcException as error:
        raise UnreadablePipeline(
            f"{checkout}: {error}", remedy="mend the file; `dvc status` shows the same message"
        ) from error
    _require_versioned(checkout, paths, set(data))
    status = git(
        checkout,
        "--literal-pathspecs",
        "status",
        "--porcelain=v1",
        "-z",
        "--no-renames",
        "--untracked-files=all",
        "--",
        *paths,
    )
    uncommitted = tuple(sorted(entry[3:] for entry in status.split("\0") if entry))
    return Inputs(uncommitted, tuple(sorted(changed)))


def _input_paths(checkout: Path, repo: Repo) -> tuple[list[str], dict[str, bool]]:
    """Paths that Git should know, and the DVC-tracked data with whether each has changed."""
    paths = {"dvc.yaml", ".dvc/config", ".dvcignore"}
    made: list[Path] = []
    read: set[Path] = set()
    data: dict[str, bool] = {}
    for stage in repo.index.stages:
        if stage.is_data_source:
            paths.add(Path(stage.path).relative_to(checkout).as_posix())
            for out in stage.outs:
                relative = Path(out.fs_path).relative_to(checkout).as_posix()
                data[relative] = bool(out.exists and out.changed_checksum())
                made.append(Path(out.fs_path))
            continue
        made += [Path(out.fs_path) for out in stage.outs if out.use_cache]
        if not stage.frozen:
            read |= {Path(dep.fs_path) for dep in stage.deps if dep.protocol == "local"}
    for path in read:
        inside = path.is_relative_to(checkout)
        if inside and not any(path.is_relative_to(out) for out in made):
            paths.add(path.relative_to(checkout).as_posix())
    return sorted(paths), data


def _require_versioned(checkout: Path, paths: list[str], data: set[str]) -> None:
    unversioned = [
        path
        for path in paths
        if (checkout / path).exists()
        and path not in data
        and run_git(checkout, "check-ignore", "--quiet", "--", path).returncode == 0
        and not git(checkout, "--literal-pathspecs", "ls-files", "--", path)
    ]
    if unversioned:
        raise UnversionedInputs(
            f"in neither Git nor DVC, though a stage reads them: {', '.join(unversioned)}",
            remedy="`dvc add` them and commit the .dvc file, or name them by an absolute path "
            "outside the repository",
        )


def require_committed(inputs: Inputs) -> None:
    """Refuse inputs with uncommitted changes, naming the files.

    Raises
    ------
    UncommittedInputs
    """
    if inputs.dirty:
        raise UncommittedInputs(
            f"uncommitted changes to inputs: {', '.join(inputs.dirty)}",
            remedy="commit them (data under DVC: `dvc add` first), or take them along as they "
            "are with --include-uncommitted",
        )


def snapshot(checkout: Path, workspace: Path, inputs: Inputs, previous: str) -> None:
    """Commit the checkout's uncommitted inputs in the clone, on top of the same commit.

    Parameters
    ----------
    previous:
        The branch that earlier snapshots were published on, or "". The newest snapshot
        there of a commit that HEAD contains becomes a parent too: the checkout went on
        from that state, and the merge must see it so.
    """
    head = git(workspace, "rev-parse", "HEAD")
    for name in inputs.uncommitted:
        _copy(checkout / name, workspace / name)
    git(workspace, "--literal-pathspecs", "add", "--all", "--", *inputs.uncommitted)
    if inputs.changed_data:
        _commit_data(checkout, workspace, inputs.changed_data)
    tree = git(workspace, "write-tree")
    parents = ["-p", head]
    if earlier := _earlier_snapshot(workspace, head, previous):
        parents += ["-p", earlier]
    message = (
        f"Snapshot of uncommitted inputs\n\n{chr(10).join(inputs.dirty)}\n\n"
        f"{SNAPSHOT_TRAILER}: {head}"
    )
    commit = git(workspace, "commit-tree", tree, *parents, "-m", message)
    git(workspace, "reset", "--quiet", "--hard", commit)


def _copy(source: Path, destination: Path) -> None:
    if source.is_symlink() or source.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, destination, follow_symlinks=False)
    else:
        destination.unlink(missing_ok=True)


def _commit_data(checkout: Path, workspace: Path, names: tuple[str, ...]) -> None:
    for name in names:
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, workspace / name)
        else:
            _copy(source, workspace / name)
    added = subprocess.run(
        dvc_command("add", "--quiet", *names),
        cwd=workspace,
        env=command_environment(),
        capture_output=True,
        text=True,
    )
    if added.returncode:
        raise UnreadablePipeline(
            f"dvc add {' '.join(names)}: {added.stderr.strip()}", remedy="try it in your checkout"
        )
    git(workspace, "--literal-pathspecs", "add", "--", *(f"{name}.dvc" for name in names))


def _earlier_snapshot(workspace: Path, head: str, branch: str) -> str:
    if not branch:
        return ""
    log = git(
        workspace,
        "log",
        f"--format=%H %(trailers:key={SNAPSHOT_TRAILER},valueonly,separator=%x20)",
        branch,
    )
    for line in log.splitlines():
        commit, _, base = line.partition(" ")
        if base and run_git(workspace, "merge-base", "--is-ancestor", base, head).returncode == 0:
            return commit
    return ""
