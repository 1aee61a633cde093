"""Outside commands (git, dvc) run for a workspace: captured, or streamed line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from serac_core.errors import SeracError
from serac_core.progress import Say

# What git exports to its hooks; inherited, it would redirect every command below.
_GIT_LOCAL = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
)
_QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "GIT_TERMINAL_PROMPT": "0",
    "PYTHONUNBUFFERED": "1",
}
_SECONDS_TO_END = 5.0


class GitFailed(SeracError):
    """A git command did not do what was asked."""


def command_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of git, dvc and stage commands: this process's, without what would
    redirect git, without telemetry, and with this Python's own scripts first on PATH."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCAL}
    scripts = str(Path(sys.executable).parent)
    path = environment.get("PATH", os.defpath)
    return {**environment, **_QUIET, "PATH": f"{scripts}{os.pathsep}{path}", **(extra or {})}


def git(
    folder: Path,
    *arguments: str,
    allow: Sequence[int] = (0,),
    remedy: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run git in a folder and return its standard output, stripped of the last newline.

    Raises
    ------
    GitFailed
        The exit code is not in `allow`; carries git's own words.
    """
    result = run_git(folder, *arguments, environment=environment)
    if result.returncode not in allow:
        words = (result.stderr or result.stdout).strip()
        raise GitFailed(
            f"git {' '.join(arguments[:2])} failed in {folder}: {words}",
            remedy=remedy or "see git's message above; `serac doctor` checks the set-up",
        )
    return result.stdout.rstrip("\n")


def run_git(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, in a session of its own, and return whatever came of it.

    Parameters
    ----------
    timeout:
        Seconds after which it is ended, with all that it started.

    Raises
    ------
    GitFailed
        There is no git, no such folder, or it took too long.
    """
    command = ["git", *arguments]
    try:
        with _process_group(
            command, folder, environment or command_environment(), stderr=subprocess.PIPE
        ) as process:
            stdout, stderr = process.communicate(timeout=timeout)
            return subprocess.CompletedProcess(
                command, process.returncode, _decoded(stdout), _decoded(stderr)
            )
    except subprocess.TimeoutExpired:
        raise GitFailed(
            f"git {arguments[0]} in {folder} took longer than {timeout:g} s",
            remedy="check the network and the remote",
        ) from None
    except FileNotFoundError:
        if not folder.is_dir():
            raise GitFailed(f"{folder}: no such folder", remedy="name an existing one") from None
        raise GitFailed("git is not on PATH", remedy="install git 2.30 or later") from None


def _decoded(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")


def stream(
    command: Sequence[str],
    *,
    cwd: Path,
    say: Say,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run a command, hand each line of its output to `say` and append it to `log`.

    Returns
    -------
    tuple
        Exit code and all lines (stdout and stderr interleaved).

    The command runs in a session of its own; whatever ends this call early (an
    interrupt, a cancelled flow) ends the command's whole process group first.
    """
    lines: list[str] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as log_file,
        _process_group(command, cwd, command_environment(environment)) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode("utf-8", errors="replace").rstrip("\n").rsplit("\r", 1)[-1]
            log_file.write(line + "\n")
            log_file.flush()
            lines.append(line)
            if line.strip():
                say(line)
        return process.wait(), lines


@contextmanager
def _process_group(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    *,
    stderr: int = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def dvc_command(*arguments: str) -> list[str]:
    """`dvc ...` by this Python, whatever is on PATH; the working folder stays off sys.path."""
    return [sys.executable, "-P", "-m", "dvc", *arguments]
