import json
import math
from pathlib import Path

import hypothesis
import mpmath
import pytest
import torch
from hypothesis import strategies as st
from torch.testing import assert_close

from lpsphere.theory import GAMMA_SHAPE, expected_hoyer, hoyer

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
    """The formula of the method in 60 digits."""
    with mpmath.workdps(60):
        k, n = mpmath.mpf(shape) * (mpmath.mpf(p) - 1), mpmath.mpf(n)
        ratio = n * mpmath.gammaprod([k + 0.5, n * k], [k, n * k + 0.5])
        return float((mpmath.sqrt(n) - ratio) / (mpmath.sqrt(n) - 1))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/reference/hoyer_published.json")
def test_the_expectation_reproduces_the_published_curves_to_five_decimals():
    points = published()
    assert len(points) > 30
    for p, fan_in, value in points:
        assert expected_hoyer(p, fan_in) == pytest.approx(value, abs=1e-5), (p, fan_in)


@pytest.mark.parametrize("p", [1.001, 1.05, 1.2, 2.0, 6.0])
@pytest.mark.parametrize("fan_in", [2, 25, 3136, 10**5])
def test_the_expectation_is_exact(p, fan_in):
    assert expected_hoyer(p, fan_in) == pytest.approx(exact(p, fan_in), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("p", [1.05, 1.2, 2.0])
def test_the_expectation_is_exact_at_a_billion_connections(p):
    k = GAMMA_SHAPE * (p - 1)
    limit = 1 - math.gamma(k + 0.5) / (math.sqrt(k) * math.gamma(k))
    value = expected_hoyer(p, 1e9)
    assert value == pytest.approx(limit, abs=1e-4)
    assert value == pytest.approx(exact(p, 1e9), rel=1e-10)


def test_the_expectation_agrees_with_sampling():
    p, n = 1.3, 50
    k = torch.full((20_000, n), GAMMA_SHAPE * (p - 1), dtype=torch.float64)
    torch.manual_seed(0)
    measured = hoyer(torch.distributions.Gamma(k, 1.0).sample().sqrt())
    error = measured.std() / math.sqrt(len(measured))
    assert abs(measured.mean() - expected_hoyer(p, n)) < 4 * error


@hypothesis.given(st.floats(1.01, 20), st.floats(1.01, 20), st.integers(2, 10**6))
def test_the_expectation_falls_as_p_rises_and_stays_between_0_and_1(p, other, fan_in):
    low, high = sorted((p, other))
    assert 0 <= expected_hoyer(high, fan_in) <= expected_hoyer(low, fan_in) + 1e-12 <= 1 + 1e-12


def test_the_shape_multiplies_p_minus_1():
    assert expected_hoyer(1.2, 30, shape=0.8) == pytest.approx(expected_hoyer(1.4, 30), rel=1e-12)


@pytest.mark.parametrize("fan_in", [1, 0, -3, 1.9, math.nan])
def test_a_fan_in_below_two_is_refused(fan_in):
    with pytest.raises(ValueError, match=rf"needs a fan_in of at least 2, got {fan_in}"):
        expected_hoyer(1.2, fan_in)


def test_other_wrong_arguments_of_the_expectation_are_refused():
    with pytest.raises(ValueError, match="shape must be positive, got 0"):
        expected_hoyer(1.2, 10, shape=0)
    with pytest.raises(ValueError, match="p must be finite and greater than 1, got 1"):
        expected_hoyer(1, 10)


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
