import json
import math
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.testing import assert_close

from lpsphere.theory import (
    GAMMA_SHAPE,
    ShapeFit,
    expected_hoyer,
    fit_shape,
    hoyer,
    hoyer_std,
    p_for_hoyer,
    p_for_sparsity,
    threshold_for_sparsity,
    weak_fraction,
)
from lpsphere.theory.ratios import _SERIES

PUBLISHED = Path(__file__).parents[2] / "shared" / "reference" / "hoyer_published.json"


def published():
    """(p, fan_in, value), without the points that overflowed in the authors' computation."""
    if not PUBLISHED.exists():
        return []
    return [
        (p, layer["fan_in"], value)
        for layer in json.loads(PUBLISHED.read_text())["layers"]
        for p, value in layer.get("theory", [])
        if not (layer["fan_in"] == 3136 and p >= 1.2) and not (p == 6 and layer["fan_in"] >= 288)
    ]


def exact(p, n, shape=GAMMA_SHAPE):
    """Expectation and standard deviation by the formulas of the method, in 50 digits."""
    with mpmath.workdps(50):
        k, n = mpmath.mpf(shape) * (mpmath.mpf(p) - 1), mpmath.mpf(n)
        f = mpmath.gammaprod([k + 0.5], [k])
        ratio = n * f * mpmath.gammaprod([n * k], [n * k + 0.5])
        root = mpmath.sqrt(n)
        variance = 1 + (n - 1) * f**2 / k - ratio**2
        return float((root - ratio) / (root - 1)), float(mpmath.sqrt(variance) / (root - 1))


def exact_weak_fraction(p, threshold):
    with mpmath.workdps(50):
        k = mpmath.mpf(GAMMA_SHAPE) * (mpmath.mpf(p) - 1)
        f = mpmath.gammaprod([k + 0.5], [k])
        return float(mpmath.gammainc(k, 0, (mpmath.mpf(threshold) * f) ** 2, regularized=True))


def gamma_rows(k, rows, n, seed):
    """Weights that follow the hypothesis; in logarithms, for their squares underflow for small k."""
    rng = np.random.default_rng(seed)
    return np.exp((np.log(rng.standard_gamma(k + 1, (rows, n))) - rng.standard_exponential((rows, n)) / k) / 2)


EXPONENTS = [1.0001, 1.001, 1.01, 1.05, 1.2, 1.5, 2.0, 3.5, 8.0, 20.0, 41.0, 50.0]  # k = 16, where a series ends, is 41
FAN_INS = [2, 3, 5, 10, 25, 144, 3136, 10**5, 10**7, 10**9]


# Expectation and spread.


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/reference/hoyer_published.json")
def test_the_expectation_reproduces_the_published_curves_to_five_decimals():
    points = published()
    assert len(points) > 30
    for p, fan_in, value in points:
        assert expected_hoyer(p, fan_in) == pytest.approx(value, abs=1e-5), (p, fan_in)


@pytest.mark.parametrize("shape", [GAMMA_SHAPE, 0.1, 2.5])
@pytest.mark.parametrize("p", EXPONENTS)
def test_expectation_and_spread_are_exact_over_the_whole_range(p, shape):
    for fan_in in FAN_INS:
        mean, std = exact(p, fan_in, shape)
        assert expected_hoyer(p, fan_in, shape) == pytest.approx(mean, rel=1e-10, abs=0), fan_in
        assert hoyer_std(p, fan_in, shape) == pytest.approx(std, rel=1e-6, abs=0), fan_in


def test_the_series_is_the_expansion_of_the_gamma_ratio():
    # log(a / f(a)^2) as a power series in 1/a, exact, and then its exponential by n e_n = sum of j l_j e_{n-j}.
    order, half = len(_SERIES), Fraction(1, 2)
    numbers = [Fraction(*map(int, mpmath.bernfrac(m))) for m in range(order + 2)]

    def polynomial(m, x):
        return sum(math.comb(m, j) * numbers[j] * x ** (m - j) for j in range(m + 1))

    logs = [0] + [
        2 * Fraction((-1) ** m, m * (m + 1)) * (polynomial(m + 1, half) - numbers[m + 1]) for m in range(1, order + 1)
    ]
    terms = [Fraction(1)]
    for m in range(1, order + 1):
        terms.append(sum(j * logs[j] * terms[m - j] for j in range(1, m + 1)) / m)
    assert [Fraction(value) for value in _SERIES] == terms[1:]


@pytest.mark.parametrize("p", [1.02, 1.2, 2.0, 9.0])
@pytest.mark.parametrize("fan_in", [2, 7, 50])
def test_expectation_and_spread_agree_with_sampling(p, fan_in):
    count = 20_000
    values = hoyer(torch.from_numpy(gamma_rows(GAMMA_SHAPE * (p - 1), count, fan_in, seed=fan_in))).numpy()
    std = values.std()
    assert abs(values.mean() - expected_hoyer(p, fan_in)) < 4 * std / math.sqrt(count)
    fourth = ((values - values.mean()) ** 4).mean()
    assert abs(std - hoyer_std(p, fan_in)) < 4 * math.sqrt((fourth - std**4) / count) / (2 * std)


@pytest.mark.parametrize("p", EXPONENTS)
def test_expectation_and_spread_tend_to_their_limits_for_many_connections(p):
    with mpmath.workdps(50):
        k = mpmath.mpf(GAMMA_SHAPE) * (mpmath.mpf(p) - 1)
        limit = float(1 - mpmath.gamma(k + 0.5) / (mpmath.sqrt(k) * mpmath.gamma(k)))
    distances = [abs(expected_hoyer(p, n) - limit) for n in (1e5, 1e7, 1e9)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-4
    assert hoyer_std(p, 1e9) == pytest.approx(hoyer_std(p, 1e7) / 10, rel=1e-2)  # as 1 / sqrt(n)


def test_the_expectation_falls_as_p_or_the_number_of_connections_rises():
    p = 1 + np.geomspace(1e-4, 49, 500)
    n = np.unique(np.geomspace(2, 1e9, 200).round())
    values = expected_hoyer(p[:, None], n)
    assert (np.diff(values, axis=0) < 0).all()
    assert (np.diff(values, axis=1) < 0).all()
    assert (np.diff(hoyer_std(p[:, None], n), axis=1) < 0).all()


@hypothesis.given(st.floats(1.0001, 50), st.floats(1.0001, 50), st.integers(2, 10**9))
def test_the_expectation_falls_as_p_rises_and_stays_between_0_and_1(p, other, fan_in):
    low, high = sorted((p, other))
    assert 0 < expected_hoyer(high, fan_in) <= expected_hoyer(low, fan_in) * (1 + 1e-12) <= 1
    assert 0 < hoyer_std(p, fan_in) < 1


@hypothesis.given(st.floats(1.0001, 50), st.integers(2, 10**9), st.floats(0.05, 5))
def test_p_is_found_again_from_its_expectation(p, fan_in, shape):
    assert p_for_hoyer(expected_hoyer(p, fan_in, shape), fan_in, shape) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("fan_in", [2, 25, 3136, 10**9])
@pytest.mark.parametrize("h", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_expectation_at_the_p_found_is_the_one_asked_for(h, fan_in):
    assert expected_hoyer(p_for_hoyer(h, fan_in), fan_in) == pytest.approx(h, rel=1e-9)


def test_the_shape_multiplies_p_minus_1():
    assert expected_hoyer(1.2, 30, shape=0.8) == pytest.approx(expected_hoyer(1.4, 30), rel=1e-12)
    assert hoyer_std(1.2, 30, shape=0.8) == pytest.approx(hoyer_std(1.4, 30), rel=1e-12)
    assert weak_fraction(1.2, 0.2, shape=0.8) == pytest.approx(weak_fraction(1.4, 0.2), rel=1e-12)
    assert p_for_hoyer(0.5, 30, shape=0.8) - 1 == pytest.approx((p_for_hoyer(0.5, 30) - 1) / 2, rel=1e-12)
    assert p_for_sparsity(0.5, 0.2, shape=0.8) - 1 == pytest.approx((p_for_sparsity(0.5, 0.2) - 1) / 2, rel=1e-12)
    assert threshold_for_sparsity(0.5, 1.2, shape=0.8) == pytest.approx(threshold_for_sparsity(0.5, 1.4), rel=1e-12)


# Connections under a threshold.


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.9, 1.5, 4.0])
def test_the_weak_fraction_is_exact(threshold):
    for p in EXPONENTS:
        expected = exact_weak_fraction(p, threshold)
        assert weak_fraction(p, threshold) == pytest.approx(expected, rel=1e-11, abs=1e-300), p


@pytest.mark.parametrize("p", [1.05, 1.2, 2.0, 6.0])
@pytest.mark.parametrize("threshold", [0.2, 0.7, 2.0])
def test_the_weak_fraction_agrees_with_sampling_for_many_connections(p, threshold):
    rows = gamma_rows(GAMMA_SHAPE * (p - 1), 40, 20_000, seed=3)
    fractions = (rows < threshold * rows.mean(-1, keepdims=True)).mean(-1)
    assert abs(fractions.mean() - weak_fraction(p, threshold)) < 4 * fractions.std() / math.sqrt(len(rows))


def test_the_published_figures_of_the_method_come_out():
    assert p_for_sparsity(0.9, 0.2) == pytest.approx(1.024, abs=5e-4)
    assert p_for_sparsity(0.99, 0.2) == pytest.approx(1.0015, abs=5e-5)
    assert weak_fraction(1.2, 0.2) == pytest.approx(0.58, abs=5e-3)
    assert weak_fraction(1.07, 0.2) == pytest.approx(0.78, abs=5e-3)
    assert p_for_sparsity(0.9) == p_for_sparsity(0.9, 0.2)


def test_the_weak_fraction_falls_as_p_rises_for_a_threshold_below_1_only():
    p = 1 + np.geomspace(1e-4, 49, 1000)
    for threshold in (0.05, 0.2, 0.5, 0.9, 0.999):
        assert (np.diff(weak_fraction(p, threshold)) < 0).all()
    assert (np.diff(weak_fraction(p, 1.5)) > 0).any()
    assert (np.diff(weak_fraction(1.2, np.linspace(0.01, 5, 100))) > 0).all()


@hypothesis.given(st.floats(1.0001, 50), st.floats(0.05, 0.99))
def test_p_is_found_again_from_its_weak_fraction(p, threshold):
    assert p_for_sparsity(weak_fraction(p, threshold), threshold) == pytest.approx(p, rel=1e-9)


@hypothesis.given(st.floats(1.05, 50), st.floats(0.05, 0.999))
def test_the_threshold_found_puts_that_fraction_under_it(p, s):
    assert weak_fraction(p, threshold_for_sparsity(s, p)) == pytest.approx(s, rel=1e-9)


@pytest.mark.parametrize("threshold", [0.01, 0.2, 1.0, 3.0])
def test_a_threshold_is_found_again_from_its_weak_fraction(threshold):
    for p in (1.001, 1.05, 1.3, 2.0, 6.0):
        assert threshold_for_sparsity(weak_fraction(p, threshold), p) == pytest.approx(threshold, rel=1e-9), p


# Numbers and arrays.

TWO_ARGUMENTS = [
    (expected_hoyer, [1.2, 2.0, 30.0], [3, 40]),
    (hoyer_std, [1.2, 2.0, 30.0], [3, 40]),
    (p_for_hoyer, [0.2, 0.5, 0.7], [3, 40]),
    (weak_fraction, [1.2, 2.0, 30.0], [0.1, 3.0]),
    (p_for_sparsity, [0.2, 0.5, 0.7], [0.1, 0.9]),
    (threshold_for_sparsity, [0.2, 0.5, 0.7], [1.3, 4.0]),
]


@pytest.mark.parametrize(
    ("function", "first", "second"), TWO_ARGUMENTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_numbers_give_floats_and_arrays_broadcast(function, first, second):
    table = function(np.array(first)[:, None], np.array(second))
    assert isinstance(table, np.ndarray)
    assert table.shape == (3, 2)
    assert table.dtype == np.float64
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            value = function(x, y)
            assert type(value) is float
            assert value == pytest.approx(table[i, j], rel=1e-14)
    assert function(first[0], np.array(second)) == pytest.approx(table[0], rel=1e-14)
    assert function(np.array(first), second[1]) == pytest.approx(table[:, 1], rel=1e-14)
    assert type(function(np.float64(first[0]), np.int64(4) if second[0] == 3 else second[1])) is float
    assert function(np.zeros((0, 1)), np.array(second)).shape == (0, 2)


@pytest.mark.parametrize("function", [expected_hoyer, hoyer_std, lambda p, n: p_for_hoyer(0.5, n)])
@pytest.mark.parametrize("fan_in", [1, 0, -3, 1.9, math.nan, math.inf])
def test_a_fan_in_below_two_is_refused(function, fan_in):
    with pytest.raises(ValueError, match=rf"needs a fan_in of at least 2, got {fan_in}"):
        function(1.2, fan_in)
    with pytest.raises(ValueError, match=rf"needs a fan_in of at least 2, got {fan_in}"):
        function(1.2, np.array([3.0, fan_in]))


OF_P = [expected_hoyer, hoyer_std, weak_fraction, lambda p, second, shape=0.4: threshold_for_sparsity(0.5, p, shape)]


@pytest.mark.parametrize("function", OF_P)
def test_a_wrong_p_or_shape_is_refused(function):
    for shape in (0, -0.4, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"shape must be positive, got {shape}"):
            function(1.2, 10, shape=shape)
    for p in (1, 0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"p must be finite and greater than 1, got {p}"):
            function(p, 10)
        with pytest.raises(ValueError, match=f"p must be finite and greater than 1, got {p}"):
            function(np.array([1.5, p]), 10)
    for p in ("1.2", True, None):
        with pytest.raises(TypeError, match=f"p must be a number or an array of numbers, got {p!r}"):
            function(p, 10)
    with pytest.raises(TypeError, match="p must be a number or an array of numbers, got an array of bool"):
        function(np.array([True, False]), 10)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan])
def test_a_sparsity_that_is_not_between_0_and_1_is_refused(value):
    with pytest.raises(ValueError, match=f"h, Hoyer's sparsity, must lie strictly between 0 and 1, got {value}"):
        p_for_hoyer(value, 10)
    with pytest.raises(ValueError, match=f"s, the weak fraction, must lie strictly between 0 and 1, got {value}"):
        p_for_sparsity(value, 0.2)
    with pytest.raises(ValueError, match=f"s, the weak fraction, must lie strictly between 0 and 1, got {value}"):
        threshold_for_sparsity(np.array([0.5, value]), 1.2)


def test_a_threshold_without_one_p_for_each_fraction_is_refused():
    for threshold in (1, 2.5):
        message = f"needs a threshold below 1, got {threshold}.*only then does the weak fraction fall from 1 to 0"
        with pytest.raises(ValueError, match=message):
            p_for_sparsity(0.5, threshold)
    for threshold in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"threshold must be positive and finite, got {threshold}"):
            weak_fraction(1.2, threshold)
        with pytest.raises(ValueError, match=f"threshold must be positive and finite, got {threshold}"):
            p_for_sparsity(0.5, threshold)


def test_values_that_no_p_gives_are_refused():
    with pytest.raises(ValueError, match=r"gives E\[H\] = 1e-12 at fan_in = 10: take a value further from 0"):
        p_for_hoyer(1e-12, 10)
    with pytest.raises(ValueError, match=r"gives E\[H\] = 0.9999999999999 at fan_in = 10: take a value further from 1"):
        p_for_hoyer(0.9999999999999, 10)
    with pytest.raises(
        ValueError, match=r"no p between 1 \+ 1e-09 and 1e\+06 gives a weak fraction of 0.9999999999 under"
    ):
        p_for_sparsity(0.9999999999, 0.2)


def test_a_threshold_that_underflows_is_refused():
    with pytest.raises(ValueError, match=r"threshold for s = 0.5 at p = 1.0001 underflows in float64"):
        threshold_for_sparsity(0.5, 1.0001)
    with pytest.raises(ValueError, match=r"threshold for s = 0.5 at p = 1.0001 underflows in float64"):
        threshold_for_sparsity(0.5, np.array([1.2, 1.0001]))


# The fit.


@pytest.mark.parametrize(("p", "shape", "rows", "n"), [(1.2, 0.4, 40, 50), (1.05, 0.7, 30, 8), (3.0, 0.4, 20, 100)])
def test_the_fit_finds_the_shape_within_its_interval_as_often_as_it_says(p, shape, rows, n):
    fits = [fit_shape(gamma_rows(shape * (p - 1), rows, n, seed), p, confidence=0.8, bootstrap=1) for seed in range(60)]
    covered = sum(fit.low <= shape <= fit.high for fit in fits)
    assert 36 <= covered <= 58  # 48 expected, and a spread of 3.1
    estimates = np.array([fit.shape for fit in fits])
    assert estimates.mean() == pytest.approx(shape, abs=4 * estimates.std() / math.sqrt(60) + 0.01 * shape)
    assert all(fit.low < fit.shape < fit.high for fit in fits)


def test_the_interval_has_the_width_of_the_scatter():
    fits = [fit_shape(gamma_rows(0.08, 50, 40, seed), 1.2, bootstrap=1) for seed in range(60)]
    widths = np.array([math.log(fit.high / fit.low) for fit in fits]) / (2 * 1.96)
    assert widths.mean() == pytest.approx(np.log([fit.shape for fit in fits]).std(), rel=0.4)  # 4.4 standard errors
    wide = fit_shape(gamma_rows(0.08, 50, 40, 0), 1.2, confidence=0.99, bootstrap=1)
    assert math.log(wide.high / wide.low) == pytest.approx(
        math.log(fits[0].high / fits[0].low) * NormalDist().inv_cdf(0.995) / NormalDist().inv_cdf(0.975)
    )


@pytest.mark.parametrize("n", [2, 3, 12])
def test_the_fit_is_the_maximum_of_the_likelihood_and_its_interval_the_curvature_there(n):
    rows = gamma_rows(0.3, 6, n, seed=1)
    total = float(np.log(rows**2 / (rows**2).sum(-1, keepdims=True)).sum())

    def likelihood(u):
        k = mpmath.exp(u)
        return (k - 1) * total + 6 * (mpmath.loggamma(n * k) - n * mpmath.loggamma(k))

    fit = fit_shape(rows, 1.5, bootstrap=1)
    with mpmath.workdps(40):
        u = mpmath.log(fit.shape * 0.5)
        assert abs(mpmath.diff(likelihood, u)) < 1e-8
        error = float(1 / mpmath.sqrt(-mpmath.diff(likelihood, u, 2)))
    z = NormalDist().inv_cdf(0.975)
    assert fit.high / fit.shape == pytest.approx(math.exp(z * error), rel=1e-6)
    assert fit.shape / fit.low == pytest.approx(math.exp(z * error), rel=1e-6)


def test_weights_that_follow_the_hypothesis_are_accepted_as_often_as_not_below_a_half():
    values = [fit_shape(gamma_rows(0.08, 30, 30, seed), 1.2, bootstrap=39, seed=seed).p_value for seed in range(60)]
    assert 14 <= sum(value <= 0.5 for value in values) <= 46  # 30 expected, and a spread of 3.9
    assert sum(value <= 0.05 for value in values) <= 10  # 3 expected
    assert min(values) >= 1 / 40


def test_weights_that_do_not_follow_it_are_refused():
    rng = np.random.default_rng(0)
    two_points = rng.choice([0.05, 1.0], size=(50, 40))
    uniform = rng.uniform(0, 1, (100, 60))
    for rows in (two_points, uniform):
        fit = fit_shape(rows, 1.2)
        assert fit.p_value == 1 / 100
        assert fit.distance > 0.03
    assert fit_shape(two_points, 1.2).distance > 0.25


def test_the_distance_is_that_of_the_shares_from_their_beta_law():
    above = []
    for seed in range(6):
        rows = gamma_rows(0.5, 5, 3, seed)
        shares = rows**2 / (rows**2).sum(-1, keepdims=True)
        fit = fit_shape(rows, 2.0, bootstrap=1)
        with mpmath.workdps(30):
            k = mpmath.mpf(fit.shape)
            u = sorted(float(mpmath.betainc(k, 2 * k, 0, float(x), regularized=True)) for x in shares.flat)
        over = max((i + 1) / 15 - value for i, value in enumerate(u))
        under = max(value - i / 15 for i, value in enumerate(u))
        assert fit.distance == pytest.approx(max(over, under), rel=1e-6)
        above.append(over > under)
    assert len(set(above)) == 2  # either side decides


def test_size_and_sign_of_a_neuron_do_not_matter():
    rows = gamma_rows(0.08, 20, 30, seed=4)
    scales = np.geomspace(1e-30, 1e30, 20)[:, None] * np.where(rows > np.median(rows), -1, 1)
    plain, scaled = fit_shape(rows, 1.2), fit_shape(scales * rows, 1.2)
    assert scaled.shape == pytest.approx(plain.shape, rel=1e-10)
    assert scaled.distance == pytest.approx(plain.distance, rel=1e-8)


def test_zeros_are_left_out_of_their_rows():
    rows = gamma_rows(0.2, 6, 5, seed=5)
    padded = np.zeros((9, 8))
    padded[:6, ::2], padded[:6, 1] = rows[:, :4], rows[:, 4]
    padded[6, 3] = 1.0  # a single weight, and two rows of none
    fit = fit_shape(padded, 1.2, bootstrap=1)
    assert (fit.rows, fit.weights) == (6, 30)
    assert fit.shape == pytest.approx(fit_shape(rows, 1.2, bootstrap=1).shape, rel=1e-12)
    shorter = rows.copy()
    shorter[0, 2:] = 0
    assert fit_shape(shorter, 1.2, bootstrap=1).weights == 27


def test_rows_of_different_lengths_share_one_shape():
    rows = gamma_rows(0.1, 400, 60, seed=6)
    rows[:300, 6:] = 0
    fit = fit_shape(rows, 1.25, confidence=0.999, bootstrap=19)
    assert fit.low <= 0.4 <= fit.high
    assert (fit.rows, fit.weights) == (400, 300 * 6 + 100 * 60)
    assert fit.p_value > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_arrays_of_any_shape_give_the_same_fit(dtype):
    rows = torch.from_numpy(gamma_rows(0.2, 12, 10, seed=7)).to(dtype)
    expected = fit_shape(rows.numpy(), 1.5)
    assert fit_shape(rows.reshape(3, 4, 10).requires_grad_(), 1.5) == expected
    assert fit_shape(rows[:1].reshape(10), 1.5) == fit_shape(rows[:1], 1.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(dtype):
    rows = torch.from_numpy(gamma_rows(1.0, 12, 10, seed=7)).to(dtype)
    assert fit_shape(rows, 1.5) == fit_shape(rows.double(), 1.5)


def test_the_fit_of_very_many_weights_looks_at_a_part_for_its_goodness():
    rows = gamma_rows(0.08, 3, 300_000, seed=8)
    fit = fit_shape(rows, 1.2, confidence=0.999)
    assert fit.weights == 900_000
    assert fit.low <= 0.4 <= fit.high
    assert fit.high / fit.low < 1.03
    assert fit.p_value > 0.05
    assert fit_shape(np.random.default_rng(0).uniform(0, 1, 20_000), 1.2).p_value == 1 / 100  # a single row is enough
    many = np.concatenate([rows.reshape(-1, 1000)[:500], np.ones((500, 1000))])
    assert fit_shape(many, 1.2).p_value == 1 / 100  # drawn from all of the rows, not from the first


def test_a_tiny_shape_is_fitted_although_the_shares_underflow():
    rows = gamma_rows(0.004, 200, 30, seed=9)
    fit = fit_shape(rows, 1.01, confidence=0.999)
    assert (rows**2 == 0).mean() > 0.04
    assert (rows > 0).mean() > 0.995
    assert fit.low <= 0.4 <= fit.high
    assert fit.p_value > 0.05
    assert fit.distance < 0.02


def test_the_fit_depends_on_its_seed_alone():
    rows = gamma_rows(0.1, 20, 20, seed=10)
    assert fit_shape(rows, 1.2, seed=1) == fit_shape(rows, 1.2, seed=1)
    values = {fit_shape(rows, 1.2, seed=seed).p_value for seed in range(6)}
    assert len(values) > 1


def test_a_fit_is_one_readable_line():
    fit = ShapeFit(0.41234, 0.4, 0.42, 0.0123, 0.34, 1_128, 40_096)
    assert str(fit) == (
        "shape 0.4123 (95 % interval 0.4 to 0.42), Kolmogorov-Smirnov distance 0.0123 (p-value 0.34), "
        "40,096 weights in 1,128 rows"
    )
    with pytest.raises(AttributeError):
        fit.shape = 1.0


def test_rows_that_say_nothing_of_the_shape_are_refused():
    for rows in (torch.zeros(3, 4), torch.eye(4), np.zeros((0, 5)), np.zeros((5, 0)), torch.ones(5, 1)):
        with pytest.raises(ValueError, match="no row has two weights that are not zero"):
            fit_shape(rows, 1.2)
    with pytest.raises(ValueError, match="the magnitudes in every row are equal"):
        fit_shape(torch.tensor([[2.0, -2.0, 2.0], [0.1, 0.1, -0.1]]), 1.2)


def test_wrong_arguments_of_the_fit_are_refused():
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="p must be finite and greater than 1, got 1"):
        fit_shape(rows, 1.0)
    with pytest.raises(TypeError, match="p must be a number greater than 1"):
        fit_shape(rows, np.array([1.2, 1.3]))
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=f"confidence must lie between 0 and 1, got {confidence}"):
            fit_shape(rows, 1.2, confidence=confidence)
    for bootstrap in (0, 2.5, True):
        with pytest.raises(
            ValueError, match=f"bootstrap must be a whole number of samples, at least 1, got {bootstrap}"
        ):
            fit_shape(rows, 1.2, bootstrap=bootstrap)
    rows[1, 2] = math.nan
    with pytest.raises(ValueError, match="rows must be finite, got nan among the weights"):
        fit_shape(rows, 1.2)
    with pytest.raises(ValueError, match="rows must have at least one dimension, got the number 3"):
        fit_shape(torch.tensor(3.0), 1.2)
    with pytest.raises(TypeError, match="rows must be a number or an array of numbers, got an array of bool"):
        fit_shape(rows > 0, 1.2)


# Hoyer's sparsity.


def test_hoyer_is_0_for_equal_magnitudes_and_1_for_a_one_hot_row():
    x = torch.tensor([[2.0, -2.0, 2.0, -2.0], [0.0, -3.0, 0.0, 0.0]], dtype=torch.float64)
    assert_close(hoyer(x), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hoyer_follows_its_definition_in_any_shape(dtype):
    x = torch.randn(2, 3, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    expected = (math.sqrt(7) - x.abs().sum(-1) / x.square().sum(-1).sqrt()) / (math.sqrt(7) - 1)
    assert hoyer(x).shape == (2, 3)
    assert_close(hoyer(x), expected)
    assert ((expected > 0) & (expected < 1)).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_hoyer_does_not_depend_on_size(size):
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    assert_close(hoyer(size * x), hoyer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hoyer_of_half_precision_comes_in_float32(dtype):
    x = torch.randn(4, 3000, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert hoyer(x).dtype == torch.float32
    assert torch.equal(hoyer(x), hoyer(x.float()))


def test_hoyer_over_the_connections_ignores_the_inactive_entries():
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    padded = torch.cat([x, torch.zeros(3, 4, dtype=torch.float64)], -1)
    assert_close(hoyer(padded, torch.tensor([8, 8, 8])), hoyer(x))
    assert (hoyer(padded) > hoyer(x)).all()


def test_connections_that_are_zero_count_where_they_are_counted():
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    root = math.sqrt(2)
    expected = torch.tensor([(root - 1) / (root - 1), 0.0], dtype=torch.float64)
    assert_close(hoyer(x, torch.tensor([2, 2])), expected, rtol=0, atol=1e-14)


def test_hoyer_is_nan_where_it_is_undefined():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [math.nan, 1.0, 2.0]])
    assert hoyer(x).isnan().tolist() == [True, False, False, True]
    assert hoyer(x, torch.tensor([0, 1, 2, 3])).isnan().tolist() == [True, True, False, True]
    assert hoyer(torch.randn(3, 1)).isnan().all()


@hypothesis.given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.floats(-1e3, 1e3), st.permutations(range(12))
)
def test_hoyer_depends_on_neither_size_nor_sign_nor_order(values, factor, order):
    x = torch.tensor(values, dtype=torch.float64)
    hypothesis.assume(x.abs().max() > 1e-3 and abs(factor) > 1e-3)
    value = hoyer(x)
    assert 0 <= value <= 1
    assert_close(hoyer(factor * x[[i for i in order if i < len(x)]].abs()), value, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_hoyer_is_right_to_second_order():
    x = torch.randn(3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(hoyer, x)
    assert torch.autograd.gradgradcheck(hoyer, x)


def test_the_gradient_of_hoyer_over_connections_is_right():
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: hoyer(t * mask, mask.sum(-1)), x)


def test_rows_without_a_value_have_no_gradient_and_leave_the_others_theirs():
    rows = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, -2.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = rows.clone().requires_grad_()
    value = hoyer(x, torch.tensor([3, 3, 1, 0]))
    assert value.isnan().tolist() == [True, False, True, True]
    value.nansum().backward()
    assert (x.grad[[0, 2, 3]] == 0).all()
    alone = rows[1].clone().requires_grad_()
    hoyer(alone).backward()
    assert torch.equal(x.grad[1], alone.grad)
    assert (alone.grad != 0).all()
    single = torch.ones(4, 1, requires_grad=True)
    hoyer(single).sum().backward()
    assert (single.grad == 0).all()
