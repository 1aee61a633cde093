"""The scale of scores: from how near query and edit are to how likely the edit applies.

Six closenesses are known of a query and an edit that it may fall under, of texts with the subject
masked (:mod:`serac_core.scope.cohort`): four cosines, of the query to the edit, of the query to the
edit's relation, of the query to the nearest other relation, of the edit to its relation; and two
overlaps of what both are near to. How much each counts depends on the others: an edit of a relation
that the cohort knows well is judged by that relation, another by its own wording. So their weights
are found by logistic regression on calibration edits, over the angles arccos(closeness), their
squares and products (28 weights): angles, because near 1 a cosine hardly moves while the meaning
does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

CLOSENESSES = 6
WEIGHTS = 28
"""One, six angles, their 21 squares and products."""
SAME_TEXT = 0.99999
"""Cosine from which query and edit say the same of the subject, word for word."""
COMPETITION = 0.7
"""Weight of the nearest other relation where no weights have been found."""
KNOWN_RELATION = 0.8
"""Least closeness of an edit to its relation to be judged by it where no weights were found."""

_INVERSE_PENALTY = 10.0


@dataclass(frozen=True)
class Scale:
    """The weights; made by :func:`fit_scale`."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != WEIGHTS:
            raise ValueError(f"{len(self.weights)} weights; a scale has {WEIGHTS}")

    def score(self, closeness_NF: Matrix) -> Matrix:
        """(N,) probabilities, 1 where the texts are the same.

        Parameters
        ----------
        closeness_NF:
            (N, 6) as :meth:`serac_core.scope.cohort.CohortScorer.compare` gives them.
        """
        import numpy as np

        logit_N = _terms(closeness_NF) @ np.array(self.weights)
        score_N = 1 / (1 + np.exp(-np.clip(logit_N, -30, 30)))
        return np.where(closeness_NF[:, 0] >= SAME_TEXT, 1.0, score_N).astype(np.float32)


def unfitted_score(closeness_NF: Matrix) -> Matrix:
    """(N,) scores without weights: closeness to the edit, or to its relation where that is known
    and nearer, less 0.7 x closeness to the nearest other relation; clipped to [-1, 1]."""
    import numpy as np

    edit_N, relation_N, other_N, known_N = closeness_NF.T[:4]
    nearest_N = np.where(known_N >= KNOWN_RELATION, np.maximum(edit_N, relation_N), edit_N)
    score_N: Matrix = np.clip(nearest_N - COMPETITION * other_N, -1, 1).astype(np.float32)
    return score_N


def fit_scale(closeness_NF: Matrix, applies_N: NDArray[np.bool_]) -> Scale | None:
    """The weights that tell pairs of which the edit applies from the others; both count the same
    in sum. None where there are not ten of each.

    Parameters
    ----------
    closeness_NF:
        (N, 6), a row a pair of query and edit.
    applies_N:
        Whether the query falls under the edit.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    kept_N = closeness_NF[:, 0] < SAME_TEXT
    terms_NW, applies_N = _terms(closeness_NF[kept_N])[:, 1:], applies_N[kept_N]
    if min(applies_N.sum(), (~applies_N).sum()) < 10:
        return None
    mean_W, deviation_W = terms_NW.mean(axis=0), terms_NW.std(axis=0)
    deviation_W = np.where(deviation_W > 1e-9, deviation_W, 1.0)
    model: Any = LogisticRegression(
        C=_INVERSE_PENALTY, class_weight="balanced", max_iter=5000, tol=1e-6
    )
    model.fit((terms_NW - mean_W) / deviation_W, applies_N)
    weights_W = model.coef_[0] / deviation_W
    constant = float(model.intercept_[0] - mean_W @ weights_W)
    return Scale((constant, *(float(weight) for weight in weights_W)))


@dataclass(frozen=True)
class Verification:
    """When the verifier is asked, and what its answer makes of a score.

    Attributes
    ----------
    low, high:
        The verifier is asked about scores of the scale from `low` to `high`.
    weights:
        Of one, the verifier's logit, the logit of the score, and whether the query's name is
        part of a longer one; made by :func:`fit_verification`.
    """

    low: float
    high: float
    weights: tuple[float, float, float, float]

    def asks(self, score_N: Matrix) -> NDArray[np.bool_]:
        """(N,) which scores are in doubt."""
        asked_N: NDArray[np.bool_] = (score_N >= self.low) & (score_N <= self.high)
        return asked_N

    def score(self, logit_N: Matrix, score_N: Matrix, longer_N: NDArray[np.bool_]) -> Matrix:
        """(N,) probabilities of pairs in doubt.

        Parameters
        ----------
        logit_N, score_N:
            The verifier's logits, and the scores before.
        longer_N:
            Of which pairs :func:`serac_core.scope.longer_names.names_longer`.
        """
        import numpy as np

        constant, *weights = self.weights
        total_N = constant + np.stack([logit_N, _logit(score_N), longer_N], axis=1) @ weights
        return (1 / (1 + np.exp(-np.clip(total_N, -30, 30)))).astype(np.float32)


def band_of(score_N: Matrix, applies_N: NDArray[np.bool_], share: float) -> tuple[float, float]:
    """The band of scores outside which no more than `share` of the pairs of either kind are
    decided wrongly."""
    import numpy as np

    inside, outside = score_N[applies_N], score_N[~applies_N]
    low = float(np.quantile(inside, share)) if len(inside) else 0.0
    high = float(np.quantile(outside, 1 - share)) if len(outside) else 1.0
    return min(low, high), max(low, high)


def fit_verification(
    logit_N: Matrix,
    score_N: Matrix,
    longer_N: NDArray[np.bool_],
    applies_N: NDArray[np.bool_],
    band: tuple[float, float],
) -> Verification | None:
    """Weights by logistic regression on the pairs in the band, both kinds counting the same in
    sum; None where there are not ten of each. Parameters as :meth:`Verification.score` takes
    them."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    if min(applies_N.sum(), (~applies_N).sum()) < 10:
        return None
    model: Any = LogisticRegression(class_weight="balanced", max_iter=5000)
    model.fit(np.stack([logit_N, _logit(score_N), longer_N], axis=1), applies_N)
    of_logit, of_score, of_longer = (float(weight) for weight in model.coef_[0])
    constant = float(model.intercept_[0])
    return Verification(*band, (constant, of_logit, of_score, of_longer))


def _logit(score_N: Matrix) -> NDArray[np.float64]:
    import numpy as np

    sure_N = np.clip(score_N.astype(np.float64), 1e-6, 1 - 1e-6)
    logit_N: NDArray[np.float64] = np.log(sure_N / (1 - sure_N))
    return logit_N


def _terms(closeness_NF: Matrix) -> NDArray[np.float64]:
    """(N, 28): one, the angles, their squares and products."""
    import numpy as np

    angle_NF = np.arccos(np.clip(closeness_NF.astype(np.float64), -1, 1))
    first, second = np.triu_indices(CLOSENESSES)
    return np.concatenate(
        [np.ones((len(angle_NF), 1)), angle_NF, angle_NF[:, first] * angle_NF[:, second]], axis=1
    )
