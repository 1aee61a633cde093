"""The stages of dvc.yaml, reproduced in a clone, and the data they make."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.workspace.commands import command_environment, dvc_command, stream

REMOTE = "serac"

_RUNNING = re.compile(r"^Running stage '([^']+)'")
_FAILED = re.compile(r"^ERROR: failed to reproduce '([^']+)'")
_EXIT_CODE = re.compile(r"exited with (\d+)")
_LINES_SHOWN = 20
# DVC's advice to people who work by hand, and its word on the stages before those asked for.
_ADVICE = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core.autostage"
    r"|Use `dvc push`|(Updating|Generating) lock file|Verifying outputs in frozen"
    r"|WARNING: stage: '[^']+' is frozen"
)
_SKIPPED = re.compile(r"^Stage '([^']+)' didn't change, skipping")


class StageFailed(SeracError):
    """A stage's command ended with an error, or DVC could not run it.

    Attributes
    ----------
    stage:
        The stage that failed; "" when DVC failed before one.
    stage_exit_code:
        Exit code of the stage's command; None when it was not the command that failed.
    stage_output:
        The last lines that the stage's command printed.
    """

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        stage: str,
        stage_exit_code: int | None,
        stage_output: tuple[str, ...],
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.stage = stage
        self.stage_exit_code = stage_exit_code
        self.stage_output = stage_output


class RemoteUnreachable(SeracError):
    """The DVC remote can't be read or written."""


def reproduce(
    workspace: Path,
    stages: Sequence[str],
    *,
    say: Say,
    log: Path,
    environment: Mapping[str, str] | None = None,
    single: bool = False,
) -> list[str]:
    """Bring stages (and what they need) up to date: `dvc repro --pull STAGE...`.

    Parameters
    ----------
    say:
        Takes each line that DVC and the stage commands print, as it appears.
    log:
        File that all output is appended to.
    single:
        These stages alone, not those before them.

    Returns
    -------
    list[str]
        Stages whose command ran; the others were up to date or restored from the run-cache.

    Raises
    ------
    StageFailed
    """

    def say_what_matters(line: str) -> None:
        skipped = _SKIPPED.match(line)
        if not _ADVICE.match(line) and (skipped is None or skipped[1] in stages):
            say(line)

    exit_code, lines = stream(
        dvc_command("repro", "--pull", *(["--single-item"] if single else []), *stages),
        cwd=workspace,
        say=say_what_matters,
        log=log,
        environment=environment,
    )
    if exit_code:
        raise _stage_failed(stages, lines, log)
    return [match[1] for line in lines if (match := _RUNNING.match(line))]


def is_up_to_date(workspace: Path, stage: str) -> bool:
    """Whether a stage and all that it needs are as dvc.lock says, whatever data is at hand."""
    found = subprocess.run(
        dvc_command("repro", "--dry", "--allow-missing", stage),
        cwd=workspace,
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    return found.returncode == 0 and not any(map(_RUNNING.match, found.stdout.splitlines()))


def changed_stages(workspace: Path, but_for: Collection[str]) -> list[str]:
    """The stages, but for some, of which dvc.lock does not hold the result: their command, a
    setting or an input is another. What other stages make is taken to be as dvc.lock says, and
    need not be at hand.
    """
    from dvc.repo import Repo

    lock = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    made = {out["path"]: _hash(out) for found in lock.values() for out in found.get("outs", ())}
    changed = []
    with Repo(str(workspace)) as repo, repo.lock:
        for stage in repo.index.stages:
            name = getattr(stage, "name", "")
            if not name or stage.frozen or name in but_for:
                continue
            needed = lock.get(name, {}).get("deps", ())
            stale = [d for d in needed if d["path"] in made and made[d["path"]] != _hash(d)]
            given = [d for d in stage.deps if d.def_path not in made]
            if stage.changed_stage() or stale or any(d.workspace_status() for d in given):
                changed.append(str(name))
    return changed


def _hash(entry: Mapping[str, Any]) -> str:
    return str(entry.get("md5") or entry.get("hash") or "")


def _stage_failed(stages: Sequence[str], lines: list[str], log: Path) -> StageFailed:
    stage = next((match[1] for line in lines if (match := _FAILED.match(line))), "")
    code = next((match[1] for line in reversed(lines) if (match := _EXIT_CODE.search(line))), None)
    started = max((n for n, line in enumerate(lines) if _RUNNING.match(line)), default=-2)
    output = [line for line in lines[started + 2 :] if line.strip()]
    return StageFailed(
        f"stage {stage or ' '.join(stages)} failed:\n" + "\n".join(output[-_LINES_SHOWN:]),
        remedy=f"all that it printed is in {log}; mend the cause and run again: what is done "
        "stays done",
        stage=stage,
        stage_exit_code=int(code) if code else None,
        stage_output=tuple(line for line in output if not line.startswith("ERROR: failed to")),
    )


def set_default_remote(checkout: Path, workspace: Path, url: str, endpoint: str = "") -> str:
    """Make sure that the clone's committed DVC settings name a default remote; returns its URL.

    A default remote that is committed stays as it is, unless it is ours (called
    `serac`) and params.yaml names another URL. Without either it is a folder in the
    checkout. Checksums are verified on download. Credentials are DVC's affair: the
    environment, or `.dvc/config.local`.

    Parameters
    ----------
    url, endpoint:
        `registry.dvc_remote` and `registry.dvc_endpoint` of params.yaml.

    Raises
    ------
    RemoteUnreachable
        It can't be reached, or its folder can't be made.
    """
    from dvc.config import Config

    with Config(str(workspace / ".dvc")).edit("repo") as settings:
        name = settings["core"].get("remote")
        if not name or (name == REMOTE and url):
            settings["core"]["remote"] = REMOTE
            settings["remote"][REMOTE] = _our_remote(checkout, url, endpoint)
    found = default_remote_url(workspace, "")
    check_remote(workspace, found, made_here=checkout)
    return found


def default_remote_url(repository: Path, url: str) -> str:
    """The URL of a repository's default DVC remote; without one, what a run would make of `url`."""
    from dvc.config import Config

    settings = Config(str(repository / ".dvc"))
    name = settings["core"].get("remote")
    if not name or (name == REMOTE and url):
        return _absolute(repository, url)
    return str(settings["remote"].get(name, {}).get("url", ""))


def _our_remote(checkout: Path, url: str, endpoint: str) -> dict[str, object]:
    remote: dict[str, object] = {"url": _absolute(checkout, url), "verify": True}
    if endpoint:
        remote["endpointurl"] = endpoint
    return remote


def _absolute(checkout: Path, url: str) -> str:
    # A relative path would mean another place in every clone.
    url = url or ".serac/remote"
    if "://" in url or Path(url).is_absolute():
        return url
    return str((checkout / url).resolve())


def check_remote(
    workspace: Path, url: str, *, made_here: Path | None = None, endpoint: str = ""
) -> None:
    """See that the default DVC remote can be read and written, before hours depend on it.

    Parameters
    ----------
    made_here:
        A checkout in whose folder a local remote may be created.
    endpoint:
        Of the store, where the repository's DVC settings don't name a remote yet.

    Raises
    ------
    RemoteUnreachable
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    remedy = "check the URL and your access, or set registry.dvc_remote in params.yaml"
    try:
        if "://" not in url:
            folder = Path(url)
            if made_here and folder.is_relative_to(made_here):
                folder.mkdir(parents=True, exist_ok=True)
            if not folder.parent.is_dir():
                raise FileNotFoundError(f"{folder.parent}: no such folder")
            if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
                raise PermissionError(f"{folder}: may not be written")
            return
        settings = {}
        if Config(str(workspace / ".dvc"))["core"].get("remote") in (None, REMOTE):
            settings = {
                "core": {"remote": REMOTE},
                "remote": {REMOTE: _our_remote(workspace, url, endpoint)},
            }
        with Repo(str(workspace), config=settings) as repo:
            remote = repo.cloud.get_remote_odb()
            probe = remote.fs.join(remote.path, f".probe-{uuid.uuid4().hex}")
            remote.fs.pipe_file(probe, b"serac")
            remote.fs.rm_file(probe)
    except (DvcException, OSError, ImportError) as error:
        raise RemoteUnreachable(f"DVC remote {url!r}: {error}", remedy=remedy) from error
    except Exception as error:  # each storage library raises its own classes
        raise RemoteUnreachable(
            f"DVC remote {url!r}: {type(error).__name__}: {error}", remedy=remedy
        ) from error


def push_data(
    workspace: Path,
    *targets: str,
    say: Say,
    log: Path,
    environment: Mapping[str, str] | None = None,
    run_cache: bool = False,
    remedy: str = "check the remote's URL, space and your access; nothing was published",
) -> None:
    """Upload what the clone's dvc.lock names, or of it some stages' outputs: `dvc push`.

    Parameters
    ----------
    run_cache:
        What stages were run with and came to as well.

    Raises
    ------
    RemoteUnreachable
    """
    exit_code, lines = stream(
        dvc_command("push", *(["--run-cache"] if run_cache else []), *targets),
        cwd=workspace,
        say=say,
        log=log,
        environment=environment,
    )
    if exit_code:
        words = "\n".join(line for line in lines if line.startswith("ERROR:")) or lines[-1:]
        raise RemoteUnreachable(
            f"{' '.join(['dvc push', *targets])} failed: {words}", remedy=remedy
        )


def out_hash(lock_text: str, out: str) -> str:
    """The hash that a dvc.lock records for an output; "" when it names none."""
    lock: dict[str, Any] = yaml.safe_load(lock_text) or {}
    for stage in lock.get("stages", {}).values():
        for entry in stage.get("outs", ()):
            if entry["path"] == out:
                return _hash(entry)
    return ""
