import numpy as np
import pytest
from numba import njit

from lpsphere.kernels.powers import bits, from_bits, head_and_tail, power

TINY = np.finfo(np.float32).tiny


@njit
def powers(x, exponent, out):
    head, tail = head_and_tail(exponent)
    for i in range(x.size):
        out[i] = power(x[i], head, tail)


@njit
def there_and_back(x):
    return from_bits(bits(x))


def compute(x, exponent):
    out = np.empty_like(x)
    powers(x, exponent, out)
    return out


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.random(20_000), 10.0 ** rng.uniform(-37, 0, 20_000)]).astype(np.float32)


@pytest.mark.parametrize("exponent", [0.2, 1 / 3, 1.0, 1.5, 2.0, 5.0, 20 / 3, 23 / 3, 20.0])
def test_powers_are_right_to_some_units_in_the_last_place(numbers, exponent):
    expected = numbers.astype(np.float64) ** exponent
    normal = expected > 2 * TINY
    np.testing.assert_allclose(compute(numbers, exponent)[normal], expected[normal], rtol=1.2e-6)


def test_for_a_huge_exponent_the_error_grows_with_the_logarithm(numbers):
    expected = numbers.astype(np.float64) ** 1000.0
    normal = expected > 2 * TINY
    assert normal.any()
    np.testing.assert_allclose(compute(numbers, 1000.0)[normal], expected[normal], rtol=2e-5)


def test_what_is_below_the_normal_numbers_is_zero_and_the_ends_are_exact(numbers):
    for exponent in (0.5, 7.0, 100.0):
        found = compute(numbers, exponent)
        assert (found[numbers.astype(np.float64) ** exponent < 0.9 * TINY] == 0).all()
        assert ((found == 0) | (found >= TINY)).all()
        ends = np.array([0.0, 1.0, TINY / 2], np.float32)
        assert compute(ends, exponent).tolist() == [0, 1, 0]


def test_powers_rise_with_the_number(numbers):
    found = compute(np.sort(numbers), 5.0)
    falls = np.diff(found) < 0
    assert (np.diff(found)[falls] >= -1e-6 * found[1:][falls]).all()


@pytest.mark.parametrize("exponent", [0.37, 5.0, 7.666, 1234.5678])
def test_the_head_has_eight_bits_and_the_tail_the_rest(exponent):
    head, tail = head_and_tail(exponent)
    mantissa, _ = np.frexp(head)
    assert float(mantissa * 256).is_integer()
    assert float(head) + float(tail) == pytest.approx(exponent, rel=1e-9)


def test_bits_go_there_and_back():
    for x in (0.0, -1.5, 1e-30, np.inf):
        assert there_and_back(np.float32(x)) == np.float32(x)
