"""The dual step of rows of different lengths is that of each row alone, to the last bit."""

import itertools

import numpy as np
import pytest

from lpsphere.kernels.sphere_step import dual_steps

LENGTHS = [5, 0, 1, 130, 2, 0]
SETTINGS = (1.2, 0.05, 0.9, 0.7)


def arrays(seed, lengths):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(sum(lengths)).astype(np.float32) for _ in range(4)]


def step(lengths, w, v, gradient, momentum, mask, radii, flags=(True, False), settings=SETTINGS):
    pointers = np.cumsum([0, *lengths]).astype(np.int32)
    parts = [pointers, w, v, gradient, momentum, mask, radii if len(radii) == len(lengths) else None]
    addresses = [0 if part is None else part.ctypes.data for part in parts]
    table = np.array([[len(lengths), len(w), *addresses]], np.int64)
    dual_steps(table.ctypes.data, 1, np.array([[radii[0], settings[3]]], np.float32), settings[:3], flags)


@pytest.mark.parametrize(("moving", "masked", "own_radii"), [*itertools.product([False, True], repeat=3)])
@pytest.mark.parametrize("flags", [(True, False), (False, True)])
def test_segments_step_as_rows_of_their_own(moving, masked, own_radii, flags):
    w, v, gradient, momentum = arrays(0, LENGTHS)
    mask = arrays(1, LENGTHS)[0] > 0 if masked else None
    radii = np.arange(1, 7, dtype=np.float32) if own_radii else np.array([2.0], np.float32)
    expected = [w.copy(), v.copy(), momentum.copy()]
    for i, (start, stop) in enumerate(itertools.pairwise(np.cumsum([0, *LENGTHS]))):
        if start < stop:
            row = slice(start, stop)
            step(
                [stop - start],
                expected[0][row],
                expected[1][row],
                gradient[row],
                expected[2][row] if moving else None,
                None if mask is None else mask[row],
                radii[i : i + 1] if own_radii else radii,
                flags,
            )
    before = gradient.copy()
    step(LENGTHS, w, v, gradient, momentum if moving else None, mask, radii, flags)
    for found, wanted in zip([w, v, momentum], expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(gradient, before)


def test_nan_stays_within_its_neuron():
    w, v, gradient, momentum = arrays(0, [4, 3])
    gradient[1] = np.nan
    step([4, 3], w, v, gradient, momentum, None, np.ones(1, np.float32))
    assert np.isnan(w[:4]).all()
    assert np.isfinite(w[4:]).all()


def test_nan_in_the_dual_weights_is_not_overlooked():
    w, v, gradient, momentum = arrays(0, [4, 3])
    v[1] = np.nan
    step([4, 3], w, v, gradient, momentum, None, np.ones(1, np.float32))
    assert np.isnan(w[:4]).all()
    assert np.isnan(v[:4]).all()
    assert np.isfinite(w[4:]).all()


@pytest.mark.parametrize("p", [1.01, 2.0, 300.0, 1e6])
def test_a_neuron_without_gradient_stays_as_it_is(p):
    w, v, gradient, _ = arrays(0, [4, 3])
    gradient[:4] = 0
    before = w.copy(), v.copy()
    step([4, 3], w, v, gradient, None, None, np.ones(1, np.float32), settings=(p, *SETTINGS[1:]))
    np.testing.assert_array_equal(w[:4], before[0][:4])
    np.testing.assert_array_equal(v[:4], before[1][:4])
    assert np.isfinite(w).all()


def test_directions_too_small_to_be_scaled_count_by_their_ratios():
    w, v, gradient, _ = arrays(0, [4, 3])
    gradient[:4] = 3e-40, -1e-40, 0, 7e-41
    others = w.copy(), v.copy(), gradient.copy()
    others[2][:4] *= np.float32(2**100)
    step([4, 3], w, v, gradient, None, None, np.ones(1, np.float32))
    step([4, 3], *others, None, None, np.ones(1, np.float32))
    np.testing.assert_allclose(w, others[0], atol=2e-6)
    np.testing.assert_allclose(v, others[1], atol=2e-6)


def test_many_rows_of_all_lengths_are_right():
    lengths = [*range(70), 1500, 3, 1024, 16, 2000, *[17] * 40]
    w, v, gradient, momentum = arrays(0, lengths)
    settings, radius = SETTINGS, 2.0
    p, eta, mu, gain = settings
    q = p / (p - 1)
    found = w.copy(), v.copy(), momentum.copy()
    step(lengths, found[0], found[1], gradient, found[2], None, np.array([radius], np.float32))
    for start, stop in itertools.pairwise(np.cumsum([0, *lengths])):
        row = slice(start, stop)
        m = mu * momentum[row].astype(np.float64) + gain * gradient[row]
        d = gradient[row] + mu * m
        x = (1 - eta) * v[row].astype(np.float64) - eta * d / (np.abs(d) ** q).sum() ** (1 / q)
        x /= (np.abs(x) ** q).sum() ** (1 / q)
        np.testing.assert_allclose(found[2][row], m, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1][row], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found[0][row], radius * np.sign(x) * np.abs(x) ** (1 / (p - 1)), rtol=3e-5, atol=1e-6
        )
