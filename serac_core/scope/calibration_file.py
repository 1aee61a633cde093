"""Reading `calibration.json`: the thresholds of an exported variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serac_core.errors import SeracError
from serac_core.scope.scale import Scale, Verification


class UnreadableCalibration(SeracError):
    """`calibration.json` is missing, breaks its format or lacks the variant."""


@dataclass(frozen=True, slots=True)
class Abstention:
    """What becomes of scores near the threshold.

    Attributes
    ----------
    margin:
        How near is borderline.
    policy:
        `base`: borderline queries are out of scope; `edit`: they are in scope.
    """

    margin: float
    policy: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Least score in scope; least cosine in scope where whole texts are compared; what scores
    are made with, when the verifier is asked, and what is borderline."""

    threshold: float
    whole_text_threshold: float
    scale: Scale | None = None
    verification: Verification | None = None
    abstention: Abstention | None = None


def read_calibration(path: str | Path, variant: str) -> Thresholds:
    """The thresholds of one variant.

    Raises
    ------
    UnreadableCalibration
    """
    path = Path(path)
    try:
        calibration = json.loads(path.read_text(encoding="utf-8"))
        variants = calibration["variants"]
        if variant not in variants:
            raise UnreadableCalibration(
                f"{path}: no threshold for variant {variant!r}, only for {', '.join(variants)}",
                remedy="export the variant and run `serac calibrate`",
            )
        found = variants[variant]
        weights = found.get("scale")
        return Thresholds(
            float(found["threshold"]),
            float(found["whole_text_threshold"]),
            Scale(tuple(map(float, weights))) if weights else None,
            _verification(found.get("verification")),
            _abstention(calibration.get("abstention")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableCalibration(
            f"{path}: no thresholds: {error!r}", remedy="`serac calibrate` writes it"
        ) from error


def _verification(found: Any) -> Verification | None:
    if found is None:
        return None
    constant, of_logit, of_score, of_longer = map(float, found["weights"])
    weights = (constant, of_logit, of_score, of_longer)
    return Verification(float(found["low"]), float(found["high"]), weights)


def _abstention(found: Any) -> Abstention | None:
    if found is None:
        return None
    policy = str(found["policy"])
    if policy not in ("base", "edit"):
        raise ValueError(f"abstention policy {policy!r} is neither base nor edit")
    return Abstention(float(found["margin"]), policy)
