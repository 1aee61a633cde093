"""Checkpoints of the scope training: weights and optimizer state as safetensors, no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import folder_aside

_STATE = "state.json"


def save_checkpoint(folder: Path, step: int, model: Any, optimizer: Any) -> None:
    """Write `step-<n>` under `folder` and drop older ones."""
    from safetensors.torch import save_file

    state = optimizer.state_dict()
    tensors = {
        f"{number}.{name}": value
        for number, values in state["state"].items()
        for name, value in values.items()
    }
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    with folder_aside(folder / f"step-{step:06d}") as aside:
        save_file(weights, aside / "model.safetensors")
        save_file(tensors, aside / "optimizer.safetensors")
        (aside / _STATE).write_text(
            json.dumps({"step": step, "groups": state["param_groups"]}), encoding="utf-8"
        )
    for older in _checkpoints(folder)[:-1]:
        shutil.rmtree(older)


def load_checkpoint(folder: Path, model: Any, optimizer: Any) -> int:
    """Restore the newest checkpoint into model and optimizer.

    Returns
    -------
    int
        Steps done; 0 without a checkpoint.
    """
    from safetensors.torch import load_file

    found = _checkpoints(folder)
    if not found:
        return 0
    state = json.loads((found[-1] / _STATE).read_text(encoding="utf-8"))
    model.load_state_dict(load_file(found[-1] / "model.safetensors"))
    values: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(found[-1] / "optimizer.safetensors").items():
        number, _, field = name.partition(".")
        values.setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": state["groups"]})
    return int(state["step"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).is_file())
