"""Intervals and tests for shares: how far a measured share can be trusted."""

from __future__ import annotations

import math

_Z_95 = 1.959963984540054


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """The two-sided 95 % score interval of a share (Wilson 1927).

    Takes the items as independent; rephrasings of one edit are not quite, so the true
    interval is somewhat wider.

    Returns
    -------
    (low, high)
        (0, 1) for no items.
    """
    _check_counts(hits, total)
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    spread = _Z_95**2 / total
    center = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    low = 0.0 if hits == 0 else max(0.0, center - half)
    return low, 1.0 if hits == total else min(1.0, center + half)


def mean_interval(values: list[float]) -> tuple[float, float]:
    """The two-sided 95 % interval of a mean of values in [0, 1] (token accuracies).

    Wilson's formula with the mean as the share: conservative, because values between 0 and 1
    vary less than hits and misses with the same mean.
    """
    if not values:
        return 0.0, 1.0
    n, mean = len(values), math.fsum(values) / len(values)
    spread = _Z_95**2 / n
    center = (mean + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * math.sqrt(mean * (1 - mean) / n + spread / (4 * n))
    return max(0.0, center - half), min(1.0, center + half)


def upper_bound_95(hits: int, total: int) -> float:
    """The exact one-sided 95 % upper bound of a share (Clopper and Pearson 1934).

    Were the true share above it, so few hits would have a probability below 5 %.
    """
    from scipy.special import betaincinv

    _check_counts(hits, total)
    if hits == total:
        return 1.0
    return float(betaincinv(hits + 1, total - hits, 0.95))


def mcnemar_exact(lost: int, gained: int) -> float:
    """The two-sided exact McNemar test: p of so uneven a split of the pairs that differ.

    Parameters
    ----------
    lost, gained:
        Items right before and wrong after; wrong before and right after.
    """
    return min(1.0, 2 * sign_test_worse(max(lost, gained), min(lost, gained)))


def sign_test_worse(lost: int, gained: int) -> float:
    """The one-sided sign test: p of losing so many of the pairs that differ by chance alone."""
    pairs = lost + gained
    _check_counts(lost, pairs)
    splits: int = 2**pairs
    return sum(math.comb(pairs, k) for k in range(lost, pairs + 1)) / splits


def _check_counts(hits: int, total: int) -> None:
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total}: counts must satisfy 0 <= hits <= total")
