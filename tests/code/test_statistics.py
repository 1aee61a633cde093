"""Intervals and tests against published values, definitions, and scipy's own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from serac_core.statistics import (
    mcnemar_exact,
    mean_interval,
    sign_test_worse,
    upper_bound_95,
    wilson_interval,
)

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_is_scipys(count):
    hits, total = count
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson_interval(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(counts)
def test_upper_bound_is_where_so_few_hits_have_a_chance_of_five_percent(count):
    hits, total = count
    bound = upper_bound_95(hits, total)
    if hits == total:
        assert bound == 1.0
    else:
        assert binom.cdf(hits, total, bound) == pytest.approx(0.05, abs=1e-6)


def test_upper_bound_of_no_hits_is_the_rule_of_three():
    assert upper_bound_95(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert upper_bound_95(0, 300) == pytest.approx(3 / 300, rel=0.01)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=200))
def test_interval_of_a_mean_of_hits_is_wilsons(values):
    expected = wilson_interval(int(sum(values)), len(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 5), (6, 0), (0, 6), (12, 3)])
def test_mcnemar_by_counting_the_splits(lost, gained):
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(max(lost, gained), n + 1)) / 2**n
    assert mcnemar_exact(lost, gained) == pytest.approx(min(1.0, 2 * tail) if n else 1.0)


def test_sign_test_looks_at_losses_only():
    assert sign_test_worse(0, 20) == pytest.approx(1.0)
    assert sign_test_worse(5, 0) == pytest.approx(1 / 32)
    assert sign_test_worse(0, 0) == 1.0


@pytest.mark.parametrize("count", [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match="0 <= hits <= total"):
        wilson_interval(*count)
