"""In processes of the light project's workers: the light gate, and kills at named points.

Python imports this module by itself when its folder is on PYTHONPATH. `SERAC_LIGHT_KILL` names a
file; when it holds `POINT PID`, that process is killed once a run comes to the point.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class LightRetrain(importlib.abc.MetaPathFinder):
    """Loads flows.retrain, then puts the light gate into it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "flows.retrain":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec and spec.loader
        load = spec.loader.exec_module

        def load_light(module: ModuleType) -> None:
            load(module)
            make_light(module)

        spec.loader.exec_module = load_light  # type: ignore[method-assign]
        return spec


def make_light(module: ModuleType) -> None:
    import launcher

    module.gate_release = launcher.light_gate  # type: ignore[attr-defined]
    order = Path(os.environ.get("SERAC_LIGHT_KILL", ""))
    if order.is_file():
        point, pid = order.read_text(encoding="utf-8").split()
        order.unlink()
        launcher.kill_at(point, int(pid))


sys.meta_path.insert(0, LightRetrain())
