"""Evaluation: metrics, the two evaluations of a release, plots, report.

`metrics` and `statistics` are functions of items; `scoring` makes items; `evaluate` runs the
stages of dvc.yaml; `report` writes the page for people.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serac_core.evaluation.evaluate import EvaluationInputs, evaluate_live, evaluate_model
    from serac_core.evaluation.items import Item, Question, questions_of, read_items
    from serac_core.evaluation.metrics import compute_metrics
    from serac_core.evaluation.report import write_report

_HOMES = {
    "EvaluationInputs": "evaluate",
    "Item": "items",
    "Question": "items",
    "compute_metrics": "metrics",
    "evaluate_live": "evaluate",
    "evaluate_model": "evaluate",
    "questions_of": "items",
    "read_items": "items",
    "write_report": "report",
}

__all__ = [
    "EvaluationInputs",
    "Item",
    "Question",
    "compute_metrics",
    "evaluate_live",
    "evaluate_model",
    "questions_of",
    "read_items",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
