"""Whether the queries that routers decide on are still those that the release was judged on.

Routers log their decisions (`serac_core/serving/decision_log.py`): scores and routes, no text. Two
things tell that the classifier meets what it doesn't know: more decisions near the threshold, and
other scores among the queries routed in, than among the release's own evaluation (`items.jsonl`).
What share of the traffic is in scope tells nothing: it is the users' to choose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from serac_core.config import DriftConfig
from serac_core.edits.atomic import folder_aside
from serac_core.errors import SeracError
from serac_core.evaluation.items import read_items
from serac_core.evaluation.plots import draw_drift
from serac_core.scope.calibration_file import read_calibration
from serac_core.statistics import wilson_interval

NO_MATCH = -1.0
_P_VALUE = 0.001  # of so large a shift by chance
_LOGS = "decisions-*.jsonl"


class NoDecisions(SeracError):
    """The folder holds no decision log."""


@dataclass(frozen=True)
class DriftReport:
    """Decisions of a release's routers beside its evaluation.

    Attributes
    ----------
    decisions:
        Of this release and variant, in the time asked for.
    in_question:
        Decisions for which some edit came into question.
    routed_in:
        Decisions in scope.
    borderline, borderline_low, borderline_evaluated:
        Share of those in question whose score is near the threshold, the lower end of its 95 %
        interval, and the evaluation's share.
    shift, p_value:
        Kolmogorov and Smirnov's distance of the scores routed in from the evaluation's, and the
        probability of one so large by chance; None and 1 with too few scores.
    reasons:
        What makes it a drift; empty: none.
    too_few:
        Whether there are too few decisions to tell.
    unreadable:
        Lines that are no decision: the end of a file of a router that was killed, say.
    """

    release: str
    variant: str
    since: str
    until: str
    decisions: int
    in_question: int
    routed_in: int
    borderline: float
    borderline_low: float
    borderline_evaluated: float
    shift: float | None
    p_value: float
    reasons: tuple[str, ...]
    too_few: bool
    unreadable: int

    @property
    def drifted(self) -> bool:
        return bool(self.reasons)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "drifted": self.drifted}

    def rows(self) -> list[dict[str, str]]:
        """A table for people."""
        shift = "too few scores" if self.shift is None else f"{self.shift:.3f}"
        return [
            {"figure": "decisions", "value": str(self.decisions), "evaluation": ""},
            {"figure": "an edit in question", "value": str(self.in_question), "evaluation": ""},
            {"figure": "routed in", "value": str(self.routed_in), "evaluation": ""},
            {
                "figure": "near the threshold, of those in question",
                "value": f"{self.borderline:.4f}",
                "evaluation": f"{self.borderline_evaluated:.4f}",
            },
            {"figure": "shift of the scores routed in", "value": shift, "evaluation": "0"},
        ]


def drift_report(
    release: Path,
    logs: Path,
    out: Path,
    config: DriftConfig,
    *,
    name: str,
    now: datetime,
    variant: str = "fp32",
) -> DriftReport:
    """Compare the logged decisions of a release with its evaluation; writes `drift.json` and
    `scores.png` to `out`, whole or not at all.

    Parameters
    ----------
    logs:
        Folder of `decisions-*.jsonl`, of as many routers as there are.
    name:
        The release as the routers name it, e.g. `serac@v1.4.0`; those that were given its directory
        write `v1.4.0`.
    now:
        End of the time looked at, which begins `config.days` before; with its time zone.

    Raises
    ------
    NoDecisions, UnreadableItems, UnreadableCalibration, UnwritableOutput
    """
    files = sorted(logs.glob(_LOGS))
    if not files:
        raise NoDecisions(
            f"{logs}: no file {_LOGS}",
            remedy="`serac serve` writes them where `decision_log` names the folder",
        )
    since = now - timedelta(days=config.days)
    lines = [_decision(line) for path in files for line in _lines(path)]
    decisions = [
        found
        for found in lines
        if found is not None
        and found.release in (name, name.removeprefix("serac@"))
        and found.variant == variant
        and since <= found.at <= now
    ]
    threshold = read_calibration(release / "scope" / "calibration.json", variant).threshold
    evaluated = [
        float(row["score"])
        for row in read_items(release / "report" / "items.jsonl")
        if row["score"] is not None
    ]
    figures = compare_scores([found.score for found in decisions], evaluated, threshold, config)
    report = DriftReport(
        release=name,
        variant=variant,
        since=since.isoformat(timespec="seconds"),
        until=now.isoformat(timespec="seconds"),
        unreadable=lines.count(None),
        **figures,
    )
    with folder_aside(out) as aside:
        text = json.dumps(report.as_dict(), indent=1) + "\n"
        (aside / "drift.json").write_text(text, encoding="utf-8")
        picture = draw_drift([found.score for found in decisions], evaluated, threshold)
        (aside / "scores.png").write_bytes(picture)
    return report


def compare_scores(
    scores: Sequence[float], evaluated: Sequence[float], threshold: float, config: DriftConfig
) -> dict[str, Any]:
    """The figures of a :class:`DriftReport` that come of scores, -1 where no edit came into
    question.

    The share near the threshold is a drift when the lower end of its interval lies
    `config.max_borderline_rise` above the evaluation's; the scores routed in are when they lie
    `config.max_shift` from the evaluation's (two-sample Kolmogorov-Smirnov test, asymptotic).
    """
    from scipy.stats import ks_2samp

    def near(found: Sequence[float]) -> int:
        return sum(abs(score - threshold) <= config.borderline_margin for score in found)

    in_question = [score for score in scores if score > NO_MATCH]
    evaluated_in_question = [score for score in evaluated if score > NO_MATCH]
    routed_in = [score for score in scores if score >= threshold]
    evaluated_in = [score for score in evaluated if score >= threshold]
    borderline = near(in_question) / max(1, len(in_question))
    low, _ = wilson_interval(near(in_question), len(in_question))
    before = near(evaluated_in_question) / max(1, len(evaluated_in_question))
    too_few = len(in_question) < config.min_decisions
    shift, p_value = None, 1.0
    if len(routed_in) >= config.min_decisions and evaluated_in:
        tested = ks_2samp(routed_in, evaluated_in, method="asymp")
        shift, p_value = float(tested.statistic), float(tested.pvalue)
    reasons = []
    if not too_few and low > before + config.max_borderline_rise:
        reasons.append(
            f"{borderline:.1%} of the decisions are near the threshold (at least {low:.1%}), "
            f"{before:.1%} were in the evaluation"
        )
    if shift is not None and shift > config.max_shift and p_value < _P_VALUE:
        reasons.append(
            f"the scores routed in lie {shift:.3f} from the evaluation's, more than "
            f"{config.max_shift:g}"
        )
    return {
        "decisions": len(scores),
        "in_question": len(in_question),
        "routed_in": len(routed_in),
        "borderline": borderline,
        "borderline_low": low,
        "borderline_evaluated": before,
        "shift": shift,
        "p_value": p_value,
        "reasons": tuple(reasons),
        "too_few": too_few,
    }


@dataclass(frozen=True, slots=True)
class _Logged:
    at: datetime
    release: str
    variant: str
    score: float


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _decision(line: bytes) -> _Logged | None:
    """A line of a log; None where it isn't a whole decision."""
    try:
        row = json.loads(line)
        at = datetime.fromisoformat(row["at"])
        found = _Logged(at, str(row["release"]), str(row["variant"]), float(row["score"]))
    except (ValueError, KeyError, TypeError):
        return None
    return found if at.tzinfo else None
