"""Runs a verb with the light project's gate, and kills it at a named point.

    python launcher.py VERB POINT [options of the verb]

A point is `before:NAME` or `after:NAME`, NAME a function that the flow calls
(`after:reproduce:STAGE` when it reproduced that stage); the process then ends itself
with SIGKILL, as the out-of-memory killer would end it. `race:NAME` lets another run
publish first instead, once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import flows.cli
import flows.release_steps
import flows.retrain
import flows.update_edits
from serac_core.config import GateConfig
from serac_core.errors import SeracError
from serac_core.release.gate import Check, GateResult

_MODULES = (flows.release_steps, flows.retrain, flows.update_edits)


def light_gate(
    release: Path, champion: Path | None, config: GateConfig, *, sample: bool = False
) -> GateResult:
    """Judges the light metrics; the real gate wants real models, and has tests of its own."""
    checks = []
    for name, value, least in (
        ("edit/acc", flows.retrain.read_metrics(release)["edit/acc"], config.edit_acc),
        (
            "live/edit/exact_match",
            flows.retrain.read_live_metrics(release / "report/live")["edit/exact_match"],
            config.live_exact_match,
        ),
    ):
        checks.append(Check(name, value, f">= {least:g}", value >= least, ""))
    return GateResult(tuple(checks))


def light_update_gate(release: Path, champion: Path, config: GateConfig) -> GateResult:
    """Only takes edits away: open."""
    lines = (
        set((folder / "edits.jsonl").read_text().splitlines()) for folder in (release, champion)
    )
    after, before = lines
    return light_gate(release, champion, config) if after - before else GateResult(())


def kill_at(point: str) -> None:
    moment, name, *targets = point.split(":")
    places = [module for module in _MODULES if hasattr(module, name)]
    function: Callable[..., Any] = getattr(places[0], name)
    raced = False

    def killed(*arguments: Any, **options: Any) -> Any:
        if targets and targets[0] not in arguments[1]:
            return function(*arguments, **options)
        nonlocal raced
        if moment == "race":
            if not raced:
                move_releases_of(arguments[0])
            raced = True
            return function(*arguments, **options)
        if moment == "after":
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    for module in places:
        setattr(module, name, killed)


def move_releases_of(workspace: Path) -> None:
    """Publish something else first, as another run would."""
    made = [
        "git",
        "commit-tree",
        "publish/releases^{tree}",
        "-p",
        "publish/releases",
        "-m",
        "other",
    ]
    other = subprocess.check_output(made, cwd=workspace, text=True).strip()
    subprocess.run(
        ["git", "push", "--quiet", "publish", f"{other}:refs/heads/other"],
        cwd=workspace,
        check=True,
    )
    target = subprocess.check_output(
        ["git", "remote", "get-url", "publish"], cwd=workspace, text=True
    ).strip()
    subprocess.run(["git", "branch", "--force", "releases", "other"], cwd=target, check=True)


if __name__ == "__main__":
    flows.retrain.gate_release = light_gate
    flows.update_edits.gate_update = light_update_gate
    verb = sys.argv.pop(1)
    if point := sys.argv.pop(1):
        kill_at(point)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    flows.cli.register(app)
    try:
        app([verb, *sys.argv[1:]])
    except SeracError as error:
        print(f"serac: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
