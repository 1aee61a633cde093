"""The counterfactual model: answers an in-scope query, conditioned on the matched edit.

The names are imported when first used, so that importing the package stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serac_core.counterfactual.description import UnreadableCounterfactual
    from serac_core.counterfactual.lora import NothingToAdapt
    from serac_core.counterfactual.model import (
        CounterfactualModel,
        MissingBaseModel,
        format_in_context,
        format_input,
    )
    from serac_core.counterfactual.processes import UnevenBatch
    from serac_core.counterfactual.reader import UnusableReader, YesNoReader
    from serac_core.counterfactual.trainer import NonFiniteTraining, OutOfMemory
    from serac_core.counterfactual.training import EmptyTrainingSet, train

_HOMES = {
    "CounterfactualModel": "model",
    "EmptyTrainingSet": "training",
    "MissingBaseModel": "model",
    "NonFiniteTraining": "trainer",
    "NothingToAdapt": "lora",
    "UnreadableCounterfactual": "description",
    "UnusableReader": "reader",
    "YesNoReader": "reader",
    "format_in_context": "model",
    "OutOfMemory": "trainer",
    "UnevenBatch": "processes",
    "format_input": "model",
    "train": "training",
}

__all__ = [
    "CounterfactualModel",
    "EmptyTrainingSet",
    "MissingBaseModel",
    "NonFiniteTraining",
    "NothingToAdapt",
    "OutOfMemory",
    "UnevenBatch",
    "UnreadableCounterfactual",
    "UnusableReader",
    "YesNoReader",
    "format_in_context",
    "format_input",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
