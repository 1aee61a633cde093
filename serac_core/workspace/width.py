"""How many of the live edits a run's clone serves, for as long as a ramp is at a narrower width."""

from __future__ import annotations

from pathlib import Path

import yaml

from serac_core.workspace.commands import git

_PARAMS = "params.yaml"


def narrow(workspace: Path, width: int) -> None:
    """Let the clone's stages serve only the oldest live edits: `retrain.width` in its params.yaml.

    :func:`widen` must follow before anything is committed.
    """
    path = workspace / _PARAMS
    params = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    params["retrain"] = {**(params.get("retrain") or {}), "width": width}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def widen(workspace: Path) -> None:
    """Serve what the commit says again."""
    git(workspace, "checkout", "--quiet", "--", _PARAMS)
