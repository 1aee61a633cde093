"""In processes of the light project's workers: the light gates, and kills at named points.

Python imports this module by itself when its folder is on PYTHONPATH. `SERAC_LIGHT_KILL` names a
file; when it holds `POINT PID`, that process is killed once the next run comes to the point.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FLOWS = ("flows.retrain", "flows.update_edits")


class LightFlows(importlib.abc.MetaPathFinder):
    """Loads a flow that has a gate, then puts the light ones into all."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in FLOWS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec and spec.loader
        load = spec.loader.exec_module

        def load_light(module: ModuleType) -> None:
            load(module)
            # Python does so after loading; the launcher, imported now, asks for it before.
            setattr(sys.modules["flows"], name.removeprefix("flows."), module)
            make_light()

        spec.loader.exec_module = load_light  # type: ignore[method-assign]
        return spec


def make_light() -> None:
    import launcher

    retrain, update_edits = (sys.modules[name] for name in FLOWS)
    retrain.gate_release = launcher.light_gate  # type: ignore[attr-defined]
    update_edits.gate_update = launcher.light_update_gate  # type: ignore[attr-defined]
    order = Path(os.environ.get("SERAC_LIGHT_KILL", ""))
    if order.is_file():
        point, victim = order.read_text(encoding="utf-8").split()
        order.unlink()
        kill_at(point, int(victim))


def kill_at(point: str, victim: int) -> None:
    """Let another process be killed when the flow calls a function, `before:NAME` or
    `after:NAME`; the flow goes on."""
    moment, name = point.split(":")
    places = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("flows.") and hasattr(module, name)
    ]
    function: Callable[..., Any] = getattr(places[0], name)

    def killing(*arguments: Any, **options: Any) -> Any:
        for module in places:
            setattr(module, name, function)
        if moment == "before":
            os.kill(victim, signal.SIGKILL)
        result = function(*arguments, **options)
        if moment == "after":
            os.kill(victim, signal.SIGKILL)
        return result

    for module in places:
        setattr(module, name, killing)


sys.meta_path.insert(0, LightFlows())
