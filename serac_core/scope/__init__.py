"""Scope: which edit, if any, a query falls under.

Encoder and training, ONNX export, calibration, edit memory, router. Public names are imported
when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serac_core.scope.batch_routing import route_file
    from serac_core.scope.calibration import calibrate
    from serac_core.scope.encoder import TorchEncoder
    from serac_core.scope.export import export_encoder
    from serac_core.scope.memory import EditMemory
    from serac_core.scope.router import Decision, Router
    from serac_core.scope.session import OnnxEncoder
    from serac_core.scope.training import train

__all__ = [
    "Decision",
    "EditMemory",
    "OnnxEncoder",
    "Router",
    "TorchEncoder",
    "calibrate",
    "export_encoder",
    "route_file",
    "train",
]

_HOMES = {
    "Decision": "router",
    "EditMemory": "memory",
    "OnnxEncoder": "session",
    "Router": "router",
    "TorchEncoder": "encoder",
    "calibrate": "calibration",
    "export_encoder": "export",
    "route_file": "batch_routing",
    "train": "training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
