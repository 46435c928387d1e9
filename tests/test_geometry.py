import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.testing import assert_close

from lpsphere.geometry import (
    Segments,
    check_exponent,
    conjugate,
    dual,
    dual_pair,
    lp_norm,
    primal,
    project,
    row_any,
    row_largest,
    row_sums,
    signed_power,
    spread,
)

EXPONENTS = [1.05, 1.1, 1.3, 2.0, 4.0, 21.0]
HALVES = [torch.float16, torch.bfloat16]

exponents = st.floats(1.02, 30.0)
rows = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31)).map(
    lambda t: torch.randn(t[0], t[1], generator=torch.Generator().manual_seed(t[2]), dtype=torch.float64)
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def norm_by_logarithms(x, p):
    """||x||_p by logsumexp: another road to the same number."""
    return (torch.logsumexp(p * x.double().abs().log(), -1) / p).exp()


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("size", [1e-300, 1e-6, 1.0, 1e30, 1e300])
def test_the_norm_is_exact_at_every_magnitude_in_float64(p, size):
    x = randn(7, 50) * size
    assert_close(lp_norm(x, p), norm_by_logarithms(x, p), rtol=1e-11, atol=0)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e30])
def test_the_norm_neither_underflows_nor_overflows_in_float32(p, size):
    x = randn(7, 50, dtype=torch.float32) * size
    assert_close(lp_norm(x, p).double(), norm_by_logarithms(x, p), rtol=1e-5, atol=0)


def test_the_norm_holds_where_a_plain_sum_of_powers_underflows():
    x = 1e-6 * randn(3, 20, dtype=torch.float32)
    assert (x.abs().pow(21).sum(-1) == 0).all()
    assert_close(lp_norm(x, 21.0).double(), norm_by_logarithms(x, 21.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5)])
def test_rows_are_the_last_dimension_whatever_leads(shape):
    x = randn(*shape)
    assert lp_norm(x, 1.5).shape == shape[:-1]
    assert lp_norm(x, 1.5, keepdim=True).shape == (*shape[:-1], 1)
    assert_close(lp_norm(x, 1.5), x.abs().pow(1.5).sum(-1).pow(1 / 1.5))
    assert project(x, 1.5).shape == x.shape


@pytest.mark.parametrize("dim", [0, 1, -2, (1, 2), (0, 2), (-1, 0)])
def test_a_row_may_be_any_dimensions(dim):
    x = randn(2, 3, 4)
    assert_close(lp_norm(x, 3.0, dim=dim), x.abs().pow(3).sum(dim).pow(1 / 3))
    assert lp_norm(x, 3.0, dim=dim, keepdim=True).shape == x.sum(dim, keepdim=True).shape
    projected = project(x, 3.0, dim=dim)
    assert_close(projected, x / x.abs().pow(3).sum(dim, keepdim=True).pow(1 / 3))
    v, w = dual_pair(x, 3.0, dim=dim)
    assert_close(w.abs().pow(3).sum(dim), torch.ones_like(w.sum(dim)))
    assert_close(v.abs().pow(1.5).sum(dim), torch.ones_like(w.sum(dim)))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("p", [1.05, 1.3, 4.0])
def test_half_precision_is_computed_in_float32_and_returned_in_its_own(dtype, p):
    x = randn(6, 300, dtype=dtype)
    for function in (lp_norm, project, dual, primal):
        result = function(x, p)
        assert result.dtype == dtype
        assert torch.equal(result, function(x.float(), p).to(dtype))
    assert signed_power(x, 0.3).dtype == dtype


def test_a_radius_may_be_a_number_or_one_for_each_row():
    x = randn(4, 9)
    assert_close(lp_norm(project(x, 1.2, 2.5), 1.2), torch.full((4,), 2.5, dtype=torch.float64))
    radii = torch.tensor([[0.5], [1.0], [2.0], [1e5]], dtype=torch.float64)
    assert_close(lp_norm(project(x, 1.2, radii), 1.2), radii.squeeze(-1))
    assert_close(project(x, 1.2, radii), radii * project(x, 1.2))


def test_a_float64_radius_does_not_change_the_dtype_of_the_rows():
    assert project(randn(2, 3, dtype=torch.float32), 1.2, torch.ones(2, 1, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e30])
def test_projection_lands_on_the_sphere_at_every_magnitude(p, size):
    x = randn(5, 33, dtype=torch.float32)
    assert_close(lp_norm(project(x * size, p), p), torch.ones(5), rtol=2e-6, atol=0)
    assert_close(project(x * size, p), project(x, p), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
def test_a_zero_row_has_norm_zero_and_stays_zero(dtype):
    x = randn(3, 4, dtype=dtype)
    x[1] = 0
    assert lp_norm(x, 1.05)[1] == 0
    assert (project(x, 1.05)[1] == 0).all()
    assert (dual(x, 1.05)[1] == 0).all()
    assert (primal(x, 1.05)[1] == 0).all()
    for part in dual_pair(x.float(), 1.05):
        assert (part[1] == 0).all()
        assert (part[0] != 0).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("p", [1.05, 2.0, 4.0])
def test_a_value_that_is_not_finite_shows_in_its_row_and_in_no_other(bad, p):
    x = randn(3, 6)
    clean = lp_norm(x, p), project(x, p), *dual_pair(x, p)
    x[1, 2] = bad
    for before, after in zip(clean, (lp_norm(x, p), project(x, p), *dual_pair(x, p)), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not after[1].isfinite().all()
    assert torch.equal(lp_norm(x, p)[1].isnan(), torch.tensor(math.isnan(bad)))
    assert not dual(x, p)[1, 2].isfinite()
    assert not primal(x, p)[1, 2].isfinite()


@hypothesis.given(rows, exponents)
def test_the_duality_maps_are_inverse_to_each_other(w, p):
    assert_close(primal(dual(w, p), p), w, rtol=1e-9, atol=0)
    assert_close(dual(w, conjugate(p)), primal(w, p), rtol=1e-9, atol=1e-300)  # J_q is the inverse of J_p


@hypothesis.given(rows, exponents)
def test_the_duality_map_takes_the_unit_p_sphere_onto_the_unit_q_sphere_and_back(x, p):
    q = conjugate(p)
    w = project(x, p)
    ones = torch.ones(len(x), dtype=torch.float64)
    assert_close(lp_norm(w, p), ones, rtol=1e-11, atol=0)
    assert_close(lp_norm(dual(w, p), q), ones, rtol=1e-11, atol=0)
    assert_close(lp_norm(primal(project(x, q), p), p), ones, rtol=1e-11, atol=0)
    assert_close((w * dual(w, p)).sum(-1), ones, rtol=1e-11, atol=0)  # <w, J_p(w)> = ||w||_p^p


@hypothesis.given(rows, exponents)
def test_the_dual_pair_is_the_projection_and_its_image(x, p):
    v, w = dual_pair(x, p)
    assert_close(v, project(x, conjugate(p)), rtol=1e-10, atol=0)
    assert_close(w, primal(project(x, conjugate(p)), p), rtol=1e-8, atol=1e-290)


@hypothesis.given(rows, exponents)
def test_the_dual_weight_attains_hoelders_bound(x, p):
    """Over the unit Lp ball <w, x> is at most ||x||_q, and the image of x / ||x||_q attains it."""
    w = dual_pair(x, p)[1]
    assert_close((w * x).sum(-1), lp_norm(x, conjugate(p)), rtol=1e-11, atol=0)
    other = project(randn(*x.shape, seed=9), p)
    assert ((other * x).sum(-1) <= lp_norm(x, conjugate(p)) * (1 + 1e-12)).all()


@hypothesis.given(rows, exponents, st.floats(1e-20, 1e20))
def test_the_norm_is_homogeneous_and_projection_is_blind_to_size(x, p, size):
    assert_close(lp_norm(size * x, p), size * lp_norm(x, p), rtol=1e-11, atol=0)
    assert_close(project(size * x, p), project(x, p), rtol=1e-11, atol=0)
    assert_close(project(project(x, p), p), project(x, p), rtol=1e-11, atol=0)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_dual_pair_is_on_its_spheres_at_every_magnitude_in_float32(p, size):
    v, w = dual_pair(size * randn(5, 40, dtype=torch.float32), p)
    ones = torch.ones(5, dtype=torch.float64)
    assert_close(norm_by_logarithms(v, conjugate(p)), ones, rtol=3e-6, atol=0)
    assert_close(norm_by_logarithms(w, p), ones, rtol=3e-6, atol=0)


def test_the_signed_power_keeps_signs():
    x = torch.tensor([-8.0, -0.0, 0.0, 27.0], dtype=torch.float64)
    assert_close(signed_power(x, 1 / 3), torch.tensor([-2.0, 0.0, 0.0, 3.0], dtype=torch.float64))
    assert dual(torch.tensor([-0.25]), 1.5).item() == pytest.approx(-0.5)
    assert primal(torch.tensor([-0.5]), 1.5).item() == pytest.approx(-0.25)


@pytest.mark.parametrize("p", [1.05, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("dim", [-1, (0, 1)])
def test_the_gradient_of_the_norm_is_right(p, dim):
    x = randn(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: lp_norm(t, p, dim=dim), x)
    x.grad = None
    lp_norm(x, p).sum().backward()
    assert_close(x.grad, dual(project(x.detach(), p), p))  # the gradient of ||x||_p is J_p(x / ||x||_p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [1.05, 2.0, 4.0])
def test_the_gradient_of_the_norm_is_zero_at_a_zero_row(dtype, p):
    x = randn(3, 5, dtype=dtype)
    x[1] = 0
    x[2, 0] = 0
    x.requires_grad_()
    lp_norm(x, p).sum().backward()
    assert torch.equal(x.grad[1], torch.zeros(5, dtype=dtype))
    assert x.grad.isfinite().all()
    assert x.grad[2, 0] == 0
    assert (x.grad[0] != 0).all()


def test_nothing_writes_to_its_argument():
    x = randn(3, 5)
    before = x.clone()
    for function in (lp_norm, project, dual, primal, dual_pair):
        function(x, 1.3)
    assert torch.equal(x, before)


def test_conjugate_exponents():
    assert conjugate(2) == 2
    assert conjugate(1.05) == pytest.approx(21)
    assert 1 / 1.07 + 1 / conjugate(1.07) == pytest.approx(1)
    assert check_exponent(3) == 3.0
    assert isinstance(check_exponent(3), float)


@pytest.mark.parametrize("p", [1, 1.0, 0.5, 0, -2, math.inf, math.nan])
def test_an_exponent_out_of_range_is_refused_with_its_value(p):
    x = randn(2, 3)
    for function in (lp_norm, project, dual, primal):
        with pytest.raises(ValueError, match=rf"p must be finite and greater than 1, got {p}"):
            function(x, p)
    with pytest.raises(ValueError, match=r"1.05 to 1.5 gives sparse neurons"):
        conjugate(p)


@pytest.mark.parametrize("p", ["1.2", None, True, [1.2]])
def test_an_exponent_that_is_no_number_is_refused(p):
    with pytest.raises(TypeError, match=r"power must be a number greater than 1, got"):
        check_exponent(p, name="power")


@pytest.mark.parametrize("function", [lp_norm, project, dual, primal])
def test_integers_are_refused_with_the_remedy(function):
    with pytest.raises(TypeError, match=r"expected a floating-point tensor, got torch.int64; convert it with .float()"):
        function(torch.tensor([[1, 2]]), 1.2)


LENGTHS = [4, 0, 1, 7, 0]
SEGMENTS = Segments(torch.tensor([0, *LENGTHS]).cumsum(0))


def segments(dtype=torch.float64):
    """Entries, of which one row is zero."""
    x = torch.randn(sum(LENGTHS), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x[4] = 0
    return x


@pytest.mark.parametrize("p", [1.05, 1.5, 3.0])
def test_segments_are_rows_of_different_lengths(p):
    x = segments()
    rows = x.split(LENGTHS)
    norms = lp_norm(x, p, dim=SEGMENTS)
    assert_close(norms, torch.stack([lp_norm(row, p) if len(row) else torch.tensor(0.0).double() for row in rows]))
    assert torch.equal(lp_norm(x, p, dim=SEGMENTS, keepdim=True), norms)
    assert_close(project(x, p, 2.0, dim=SEGMENTS), torch.cat([project(row, p, 2.0) for row in rows if len(row)]))
    pairs = [dual_pair(row, p) for row in rows if len(row)]
    for found, expected in zip(dual_pair(x, p, dim=SEGMENTS), zip(*pairs, strict=True), strict=True):
        assert_close(found, torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_segments_keep_their_type(dtype):
    x = segments(dtype)
    assert lp_norm(x, 1.5, dim=SEGMENTS).dtype == project(x, 1.5, dim=SEGMENTS).dtype == dtype
    assert_close(lp_norm(x, 1.5, dim=SEGMENTS).double(), lp_norm(x.double(), 1.5, dim=SEGMENTS), rtol=1e-2, atol=1e-2)


def test_not_a_number_stays_within_its_segment():
    x = segments()
    x[6] = torch.nan
    assert lp_norm(x, 1.2, dim=SEGMENTS).isnan().tolist() == [False, False, False, True, False]
    assert project(x, 1.2, dim=SEGMENTS).isnan().tolist() == [False] * 5 + [True] * 7


def test_reductions_of_segments_and_of_dimensions_are_alike():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    laid_out, flat = Segments(torch.arange(0, 16, 5)), x.flatten()
    assert_close(row_sums(flat, laid_out), row_sums(x, 1).flatten())
    assert torch.equal(row_largest(flat.abs(), laid_out), row_largest(x.abs(), 1).flatten())
    for limit in (-9.0, 1.2, 9.0):
        assert torch.equal(row_any(flat > limit, laid_out), row_any(x > limit, 1).flatten())
    assert torch.equal(
        spread(row_sums(flat, laid_out), laid_out).view(3, 5), row_sums(flat, laid_out)[:, None].expand(3, 5)
    )
    nothing = torch.empty(0, dtype=torch.float64)
    assert row_sums(nothing, Segments(torch.zeros(3, dtype=torch.int32))).tolist() == [0, 0]


def test_norms_of_segments_can_be_differentiated():
    x = segments().requires_grad_()
    lp_norm(x, 1.5, dim=SEGMENTS).sum().backward()
    y = segments().requires_grad_()
    torch.stack([lp_norm(row, 1.5) for row in y.split(LENGTHS) if len(row)]).sum().backward()
    assert_close(x.grad, y.grad)
