"""Every claim of docs/theory.md in numbers, in float64: the page names the test beside the claim."""

import ast
import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from scipy.linalg import block_diag, eigh, null_space

import lpsphere as lp
from lpsphere.geometry import conjugate, dual, dual_pair, lp_norm, primal, project
from lpsphere.optim.reference import ReferenceLpSGD
from lpsphere.theory import expected_hoyer, hoyer, hoyer_std, weak_fraction

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
FORMS = ["dual", "primal"]
SIGNS = pytest.mark.parametrize("multiplier", [0.7, -0.7], ids=["positive multiplier", "negative multiplier"])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner(a, b):
    return (a * b).sum(-1)


@dataclass
class Quadratic:
    """f(x) = (x - w) H (x - w) / 2 - multiplier <v, x>, for which w is a stationary point with that multiplier."""

    p: float
    multiplier: float
    w: np.ndarray
    hessian: np.ndarray

    @property
    def v(self):
        return np.sign(self.w) * np.abs(self.w) ** (self.p - 1)

    @property
    def support(self):
        """Where D^-1 is finite: at p = 2 it is the identity."""
        return (self.w != 0) | (self.p == 2)

    def value(self, x):
        z = x - torch.tensor(self.w)
        return inner(z @ torch.tensor(self.hessian), z) / 2 - self.multiplier * x @ torch.tensor(self.v)

    def gradient(self, x):
        return (x - torch.tensor(self.w)) @ torch.tensor(self.hessian) - self.multiplier * torch.tensor(self.v)

    def point(self, form):
        return torch.tensor(self.v if form == "dual" else self.w)

    def tangent(self, form):
        """Orthonormal basis of the tangent space, in the coordinates of the form."""
        return null_space((self.w if form == "dual" else self.v)[None])

    def curvatures(self):
        """Those of f relative to the diagonal of D^-1, on the tangent space of the support: mu of the page."""
        s = self.support
        basis = null_space(self.v[s][None])
        metric = (self.p - 1) * np.abs(self.w[s]) ** (self.p - 2)
        hessian = self.hessian[np.ix_(s, s)]
        return eigh(basis.T @ hessian @ basis, basis.T @ (metric[:, None] * basis), eigvals_only=True)

    def factors(self, eta):
        """The eigenvalues of the step that the page gives, in increasing order."""
        size, scale = abs(self.multiplier), 1 if self.multiplier > 0 else 1 - 2 * eta
        of_support = 1 - eta * (self.curvatures() + self.multiplier) / (size * scale)
        of_zeros = np.full((~self.support).sum(), (1 - eta) / scale)
        return np.sort(np.concatenate([of_support, of_zeros]))

    def largest_eta(self):
        """The bound of the page on eta."""
        largest = self.curvatures().max()
        if self.multiplier > 0:
            return 2 * self.multiplier / (largest + self.multiplier)
        return 2 * -self.multiplier / (largest + 3 * -self.multiplier)


def quadratic(p, multiplier, *, n=6, zeros=0, saddle=False, seed=0):
    """A problem with a stationary point at which the Lagrangian is positive definite on the support, or a saddle."""
    rng = np.random.default_rng(seed)
    w = rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1.5, n)
    w[:zeros] = 0
    w /= (np.abs(w) ** p).sum() ** (1 / p)
    factor, other = rng.normal(size=(2, n, n))
    lagrangian = factor @ factor.T / n + 0.5 * np.eye(n)
    problem = Quadratic(p, multiplier, w, (other + other.T) / 2)
    s = problem.support
    if saddle:
        direction = np.zeros(n)
        direction[s] = null_space(problem.v[s][None])[:, 0]
        lagrangian -= (direction @ lagrangian @ direction + 0.5) * np.outer(direction, direction)
    metric = np.diag((p - 1) * np.abs(w[s]) ** (p - 2))
    problem.hessian[np.ix_(s, s)] = lagrangian[np.ix_(s, s)] - multiplier * metric
    return problem


class Run:
    """LpSGD from given points, one a row, in the coordinates of the form."""

    def __init__(self, points, gradient, p, eta, form, **settings):
        self.form, self.gradient = form, gradient
        self.param = torch.nn.Parameter(primal(points, p) if form == "dual" else points.clone())
        self.optimizer = lp.LpSGD([self.param], lr=eta, p=p, form=form, **settings)

    @property
    def weights(self):
        return self.param.detach().clone()

    @property
    def points(self):
        return self.optimizer.state[self.param][self.form].clone()

    def step(self, eta=None):
        if eta is not None:
            self.optimizer.param_groups[0]["lr"] = eta
        self.param.grad = self.gradient(self.weights)
        self.optimizer.step()
        return self.points


def derivative(step, point, basis, h=1e-6):
    """Matrix of the derivative of ``step`` at ``point`` in an orthonormal basis, by central differences."""
    moves = h * torch.tensor(basis.T)
    return basis.T @ ((step(point + moves) - step(point - moves)) / (2 * h)).numpy().T


def sorted_real(matrix):
    values = np.linalg.eigvals(matrix)
    assert np.abs(values.imag).max() < 1e-6
    return np.sort(values.real)


# The page.


def names_on_the_page():
    return re.findall(r"`(?:(tests/[\w/]+\.py))?::(test_\w+)`", PAGE)


@functools.cache
def names_of_tests(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_the_page_names_exists():
    names = names_on_the_page()
    assert len(names) > 25
    here = "tests/test_theory_claims.py"
    assert [name for path, name in names if name not in names_of_tests(path or here)] == []
    assert len(re.findall(r"\btest_\w+\b(?!\.py)", PAGE)) == len(names)  # none in another notation


def test_every_test_here_is_named_on_the_page():
    about_the_page = {"test_every_test_that_the_page_names_exists", "test_every_test_here_is_named_on_the_page"}
    named = {name for path, name in names_on_the_page() if not path}
    assert names_of_tests("tests/test_theory_claims.py") - named - about_the_page == set()


# 1. Where the step comes from.


@SIGNS
@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_the_augmented_risk_is_stationary_where_dual_weight_and_gradient_are_parallel(p, multiplier):
    problem = quadratic(p, multiplier)
    w = torch.tensor(problem.w, requires_grad=True)
    risk = problem.value(w) + multiplier / p * (w.abs().pow(p).sum() - 1)
    (slope,) = torch.autograd.grad(risk, w)
    assert slope.abs().max() < 1e-14
    g = problem.gradient(w.detach())
    u = g / lp_norm(g, conjugate(p))
    assert np.allclose(u, -np.sign(multiplier) * problem.v, rtol=1e-13, atol=0)
    assert float(lp_norm(g, conjugate(p))) == pytest.approx(abs(multiplier), rel=1e-13)
    other = multiplier + 0.1
    assert torch.autograd.grad(problem.value(w) + other / p * w.abs().pow(p).sum(), w)[0].abs().max() > 1e-3


@pytest.mark.parametrize("p", [1.1, 1.5, 2.0, 3.0])
def test_the_oracle_alone_minimises_over_the_ball(p):
    d, points = randn(7), randn(4000, 7, seed=1)
    norm = float(lp_norm(d, conjugate(p)))
    s = -dual_pair(d, p)[1]
    assert float(lp_norm(s, p)) == pytest.approx(1, rel=1e-13)
    assert float(d @ s) == pytest.approx(-norm, rel=1e-13)
    inside = project(points, p) * torch.rand(4000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert (inside @ d > -norm).all()
    near = project(s + 1e-3 * points, p)
    rise = (near @ d + norm) / lp_norm(near - s, 2.0).square()
    assert rise.min() > 1e-2  # it grows like the square of the distance


@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_the_primal_form_steps_towards_the_oracle_and_returns_along_the_ray(p):
    problem, start = quadratic(p, 0.7), project(randn(5, 6), p)
    run = Run(start, problem.gradient, p, 0.3, "primal")
    s = -dual_pair(problem.gradient(start), p)[1]
    moved = 0.7 * start + 0.3 * s
    assert lp_norm(moved, p).max() < 1
    assert torch.allclose(run.step(), project(moved, p), rtol=1e-13, atol=1e-15)


# 2. Fixed points.

MOMENTA = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
]


def displacement(problem, form, eta, settings, zero_gradient=False):
    """How far LpSGD and its slow twin are from the stationary point after a few steps, in dual coordinates."""
    factor = 0.0 if zero_gradient else 1.0
    start = torch.tensor(problem.w)[None]
    run = Run(problem.point(form)[None], lambda x: factor * problem.gradient(x), problem.p, eta, form, **settings)
    twin = ReferenceLpSGD(
        start.numpy(),
        problem.p,
        eta,
        form=form,
        mu=settings.get("momentum", 0.0),
        **{key: value for key, value in settings.items() if key != "momentum"},
    )
    for _ in range(3):
        run.step()
        twin.step(factor * problem.gradient(torch.tensor(twin.w)).numpy())
    ours, theirs = dual(run.weights, problem.p)[0].numpy(), twin.v[0]
    return np.abs(np.stack([ours, theirs]) - problem.v).max()


@SIGNS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_stationary_points_are_fixed_with_and_without_momentum(p, form, multiplier):
    for zeros in (0, 2 if p <= 2 else 0):  # beyond p = 2 a weight of 0 turns rounding errors e into e^(1/(p-1))
        problem = quadratic(p, multiplier, zeros=zeros)
        for settings in MOMENTA:
            for eta in (0.01, 0.2, 0.4):
                assert displacement(problem, form, eta, settings) < 1e-11, (zeros, settings, eta)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_from_one_half_on_the_sign_of_the_multiplier_decides(p, form):
    attracting, other = quadratic(p, 0.7), quadratic(p, -0.7)
    for eta in (0.5, 0.6, 1.0):
        assert displacement(attracting, form, eta, {}) < 1e-12
    run = Run(other.point(form)[None], other.gradient, p, 0.5, form)
    assert (run.step() - other.point(form)).abs().max() < 1e-12
    for eta in (0.6, 1.0):
        run = Run(other.point(form)[None], other.gradient, p, eta, form)
        assert (run.step() + other.point(form)).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_all_other_points_move_unless_the_gradient_vanishes(p, form):
    start, gradient = project(randn(500, 4), p), randn(500, 4, seed=1)
    u = gradient / lp_norm(gradient, conjugate(p), keepdim=True)
    v = dual(start, p)
    apart = torch.minimum((u - v).abs().amax(-1), (u + v).abs().amax(-1))
    assert (apart > 1e-2).sum() > 450
    for eta in (0.01, 0.3, 0.49):
        run = Run(v if form == "dual" else start, lambda _: gradient, p, eta, form)
        run.step()
        moved = (dual(run.weights, p) - v).abs().amax(-1)
        assert (moved[apart > 1e-2] > 1e-3 * eta).all()
    assert displacement(quadratic(p, 0.7), form, 0.3, {}, zero_gradient=True) < 1e-14


# 3. Attraction.


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_the_matrices_of_the_linearisation_are_what_the_page_says(p):
    problem = quadratic(p, 0.7)
    w, v, q = problem.w, problem.v, conjugate(p)
    d = (q - 1) * np.diag(np.abs(v) ** (q - 2))
    tangent = np.eye(6) - np.outer(v, w)
    gram = d @ tangent
    close = {"rtol": 1e-10, "atol": 1e-12}
    for x, power, expected in ((torch.tensor(v), q, d), (torch.tensor(w), p, np.linalg.inv(d))):
        found = torch.autograd.functional.jacobian(lambda y, power=power: y.sign() * y.abs() ** (power - 1), x)
        assert np.allclose(found, expected, **close)
    assert np.allclose(tangent @ tangent, tangent, **close)
    assert np.allclose(gram, d - (q - 1) * np.outer(w, w), **close)
    assert np.allclose(gram, gram.T, **close)
    assert np.allclose(gram @ v, 0, **close)
    assert np.sort(np.linalg.eigvalsh(gram))[1] > 1e-3  # positive on the rest
    basis = problem.tangent("primal")
    curvature = np.linalg.inv(d) @ gram @ problem.hessian
    assert np.allclose(basis.T @ curvature @ basis, basis.T @ problem.hessian @ basis, **close)
    x = torch.tensor(v) * 1.0
    to_sphere = torch.autograd.functional.jacobian(lambda y: y / y.abs().pow(q).sum().pow(1 / q), 2 * x)
    assert np.allclose(to_sphere, tangent / 2, **close)


@SIGNS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("p", "zeros"), [(1.2, 0), (1.5, 0), (2.0, 0), (3.0, 0), (1.2, 2), (1.5, 2), (2.0, 2)])
def test_the_derivative_of_the_step_has_the_eigenvalues_of_the_page(p, zeros, form, multiplier):
    for seed, saddle in ((0, False), (1, True)):
        problem = quadratic(p, multiplier, zeros=zeros, saddle=saddle, seed=seed)
        for eta in (0.02, 0.2, 0.4):

            def step(x, problem=problem, eta=eta):
                return Run(x, problem.gradient, p, eta, form).step()

            h = 1e-7 if zeros and p == 1.5 else 1e-6  # J_q is a square at 0 there: the error of the difference is h
            found = sorted_real(derivative(step, problem.point(form), problem.tangent(form), h))
            assert found == pytest.approx(problem.factors(eta), rel=1e-6, abs=3e-6), (seed, eta)


@SIGNS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_runs_near_a_minimiser_shrink_at_the_predicted_rate_up_to_the_bound_on_eta(p, form, multiplier):
    problem = quadratic(p, multiplier)
    bound = problem.largest_eta()
    assert bound < 1
    eta, point = 0.4 * bound, problem.point(form)
    run = Run(point + 1e-3 * randn(4, 6), problem.gradient, p, eta, form)
    distances = [float((run.step() - point).norm(dim=-1).max()) for _ in range(500)]
    rate = np.abs(problem.factors(eta)).max()
    last = next(i for i, distance in enumerate(distances) if distance < 1e-9)
    assert (distances[last] / distances[last - 10]) ** 0.1 == pytest.approx(rate, rel=5e-3)
    assert distances[-1] < 1e-13
    for factor, attracted in ((0.95, True), (1.05, False)):
        run = Run(point + 1e-7 * randn(4, 6), problem.gradient, p, factor * bound, form)
        for _ in range(400):
            run.step()
        distance = float((run.points - point).norm(dim=-1).min())
        assert distance < 1e-12 if attracted else distance > 1e-3


@SIGNS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_where_the_second_order_condition_fails_the_point_repels(p, form, multiplier):
    problem = quadratic(p, multiplier, saddle=True)
    eta, point = 0.1, problem.point(form)
    rate = problem.factors(eta).max()
    assert rate > 1
    assert (problem.curvatures() + multiplier).min() < 0
    run = Run(point + 1e-7 * randn(4, 6), problem.gradient, p, eta, form)
    distances = [float((run.step() - point).norm(dim=-1).min()) for _ in range(600)]
    first = next(i for i, distance in enumerate(distances) if distance > 1e-5)
    assert (distances[first] / distances[first - 10]) ** 0.1 == pytest.approx(rate, rel=1e-2)
    assert distances[-1] > 1e-2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 1.5])
def test_with_zero_weights_and_a_positive_multiplier_the_support_alone_decides(p, form):
    problem = quadratic(p, 0.7, zeros=2)
    problem.hessian[0, 0] = problem.hessian[1, 1] = -50.0  # as concave as can be, off the support
    eta, point = 0.3 * min(1.0, problem.largest_eta()), problem.point(form)
    run = Run(point + 1e-6 * randn(4, 6), problem.gradient, p, eta, form)
    for _ in range(600):
        run.step()
    assert float((run.points - point).norm(dim=-1).max()) < 1e-12
    near = project(torch.tensor(problem.w) + 1e-5 * randn(2000, 6, seed=1), p)
    assert (problem.value(near) > problem.value(torch.tensor(problem.w))).all()
    bad = quadratic(p, 0.7, zeros=2, saddle=True)
    run = Run(bad.point(form) + 1e-6 * randn(4, 6), bad.gradient, p, 0.1, form)
    for _ in range(600):
        run.step()
    assert float((run.points - bad.point(form)).norm(dim=-1).min()) > 1e-2


@pytest.mark.parametrize("p", [1.2, 1.5])
def test_a_zero_weight_under_a_negative_multiplier_repels_and_is_no_minimiser(p):
    problem = quadratic(p, -0.7, zeros=1)
    w, v = torch.tensor(problem.w), torch.tensor(problem.v)
    t = torch.tensor([[1e-6], [-1e-6]], dtype=torch.float64)
    along = project(w + t * torch.eye(6, dtype=torch.float64)[0], p)
    change = problem.value(along) - problem.value(w)
    assert change / (-0.7 / p * t.abs().flatten() ** p) == pytest.approx([1, 1], rel=0.01)
    moves = torch.tensor([1e-9, -1e-9, 1e-8, -1e-8], dtype=torch.float64)[:, None]
    run = Run(v + moves * torch.eye(6, dtype=torch.float64)[0], problem.gradient, p, 0.1, "dual")
    ratios = []
    for _ in range(400):
        before = run.points[:, 0]
        ratios.append(run.step()[:, 0] / before)
    assert torch.stack(ratios[:50]) == pytest.approx(np.full((50, 4), 0.9 / 0.8), rel=1e-5)
    assert (run.points - v).norm(dim=-1).min() > 0.1
    hopeless = quadratic(p, -0.7, zeros=1)
    hopeless.hessian[0, 0] = 1e3  # convexity in the zero weight is no help
    along = project(w + 1e-9 * torch.eye(6, dtype=torch.float64)[0], p)
    assert hopeless.value(along) < hopeless.value(w)


@pytest.mark.parametrize("p", [1.1, 1.2, 1.5])
def test_at_minimisers_with_a_negative_multiplier_no_weight_is_small(p):
    inputs, target = randn(200, 8), project(randn(8, 8, seed=1), p)
    hessian = inputs.T @ inputs / len(inputs)
    target[:4] *= 0.3  # the first four have their optimum inside the ball, the others outside
    target[4:] *= 3
    run = Run(dual(project(randn(8, 8, seed=2), p), p), lambda w: (w - target) @ hessian, p, 0.1, "dual")
    for step in range(3000):
        run.step(0.1 * 0.5 ** (step / 3000))
    w = run.weights
    g = (w - target) @ hessian
    multiplier = -inner(g, w)
    residual = lp_norm(g + multiplier[:, None] * dual(w, p), conjugate(p))
    assert (multiplier[:4] < 0).all()
    assert (multiplier[4:] > 0).all()
    assert (residual < 1e-6 * lp_norm(g, conjugate(p))).all()
    bound = (multiplier.abs() * (p - 1) / (2 * torch.linalg.eigvalsh(hessian).max())) ** (1 / (2 - p))
    smallest = w.abs().amin(-1)
    assert (smallest[:4] >= bound[:4]).all()
    assert (smallest[4:] < bound[4:]).any()
    assert hoyer(w)[:4].max() < hoyer(w)[4:].min()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("p", "zeros"), [(1.2, 0), (1.5, 1), (2.0, 0), (3.0, 0)])
def test_several_neurons_have_the_eigenvalues_of_the_page_whatever_the_signs(p, zeros, form):
    multipliers, eta, n = (0.7, -0.5), 0.1, 4
    first, second = quadratic(p, multipliers[0], n=n, zeros=zeros), quadratic(p, multipliers[1], n=n, seed=1)
    hessian = block_diag(first.hessian, second.hessian)
    hessian[:n, n:] = np.random.default_rng(2).normal(size=(n, n))
    hessian[n:, :n] = hessian[:n, n:].T
    slope = np.stack([first.multiplier * first.v, second.multiplier * second.v])
    centre = torch.tensor(np.stack([first.w, second.w]))

    def gradient(w):
        return ((w - centre).reshape(-1) @ torch.tensor(hessian)).reshape(2, n) - torch.tensor(slope)

    def step(rows):
        return torch.stack([Run(x.reshape(2, n), gradient, p, eta, form).step().reshape(-1) for x in rows])

    point = torch.cat([first.point(form), second.point(form)])
    found = sorted_real(derivative(step, point, block_diag(first.tangent(form), second.tangent(form))))

    support = np.concatenate([first.support, second.support])
    metric = np.concatenate([(p - 1) * np.abs(x.w[x.support]) ** (p - 2) for x in (first, second)])
    sizes = [first.support.sum(), second.support.sum()]
    basis = block_diag(null_space(first.v[first.support][None]), null_space(second.v[None]))
    lagrangian = hessian[np.ix_(support, support)] + np.diag(np.repeat(multipliers, sizes) * metric)
    scales = np.repeat([0.7, 0.5 * (1 - 2 * eta)], sizes) * metric
    kappa = eigh(basis.T @ lagrangian @ basis, basis.T @ (scales[:, None] * basis), eigvals_only=True)
    expected = np.sort(np.concatenate([1 - eta * kappa, [1 - eta] * zeros]))
    assert kappa.min() < 0 < kappa.max()
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-5)


def momentum_block(mu_i, multiplier, eta, momentum):
    size, scale = abs(multiplier), 1 if multiplier > 0 else 1 - 2 * eta
    first = [(1 - eta - eta * (1 - momentum) * mu_i / size) / scale, -eta * momentum / (size * scale)]
    return np.array([first, [(1 - momentum) * mu_i, momentum]])


@SIGNS
@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_with_momentum_the_step_falls_into_blocks_of_two(p, dampening, multiplier):
    problem, momentum, eta = quadratic(p, multiplier), 0.8, 0.1
    w, g = torch.tensor(problem.w), problem.gradient(torch.tensor(problem.w))
    point = torch.cat([w, (1 - dampening) / (1 - momentum) * g])

    def step(x):
        run = Run(x[:, :6], problem.gradient, p, eta, "primal", momentum=momentum, dampening=dampening)
        run.optimizer.state[run.param]["momentum_buffer"] = x[:, 6:].clone()
        return torch.cat([run.step(), run.optimizer.state[run.param]["momentum_buffer"]], dim=1)

    found = np.linalg.eigvals(derivative(step, point, block_diag(problem.tangent("primal"), np.eye(6))))
    blocks = [momentum_block(mu_i, multiplier, eta, momentum) for mu_i in problem.curvatures()]
    expected = np.concatenate([[momentum], *map(np.linalg.eigvals, blocks)])
    order = lambda x: x[np.lexsort((x.imag.round(6), x.real.round(6)))]  # noqa: E731
    assert order(found) == pytest.approx(order(expected.astype(complex)), rel=1e-6, abs=1e-6)


def test_with_momentum_the_conditions_of_the_page_decide():
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(5000):
        momentum, eta, mu_i, multiplier = rng.uniform(0, 1), rng.uniform(0, 0.5), 6 * rng.normal(), rng.normal()
        scale = 1 if multiplier > 0 else 1 - 2 * eta
        conditions = (
            mu_i + multiplier > 0,
            momentum * (1 - eta) < scale,
            (1 - momentum) * eta * mu_i / abs(multiplier) < (1 + momentum) * (scale + 1 - eta),
        )
        assert (multiplier > 0 and conditions[1]) or conditions[1] == (eta < (1 - momentum) / (2 - momentum))
        radius = np.abs(np.linalg.eigvals(momentum_block(mu_i, multiplier, eta, momentum))).max()
        assert (radius < 1) == all(conditions) or abs(radius - 1) < 1e-9
        outcomes.append(conditions)
    for i in range(3):  # each decides alone somewhere
        assert any(not outcome[i] and all(outcome[:i] + outcome[i + 1 :]) for outcome in outcomes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_where_the_gradient_vanishes_a_fixed_eta_hovers_and_a_falling_one_arrives(p, form):
    problem = quadratic(p, 0.0)
    point = problem.point(form)
    distances = []
    for eta in (0.02, 0.01, 0.005):
        run = Run(point + 1e-2 * randn(4, 6), problem.gradient, p, eta, form)
        tail = [float((run.step() - point).norm(dim=-1).mean()) for _ in range(400)][200:]
        distances.append(np.mean(tail) / eta)
    assert distances == pytest.approx([distances[0]] * 3, rel=0.1)
    assert distances[0] > 0.3
    run = Run(point + 1e-2 * randn(4, 6), problem.gradient, p, 0.02, form)
    for step in range(400):
        run.step(0.02 * 0.001 ** (step / 400))
    assert (run.points - point).norm(dim=-1).max() < 0.01 * 0.02 * distances[0]


# 4. Rates.


def measure(form, w, g, p):
    """M of the page: the rate at which a step of the form lowers f at eta = 0."""
    q = conjugate(p)
    size, v = lp_norm(g, q), dual(w, p)
    u = g / size[..., None]
    if form == "primal":
        return size * (1 - inner(v, primal(u, p)) * inner(u, w))
    return size * (q - 1) * ((v.abs() ** (q - 2) * u**2).sum(-1) - inner(w, u) ** 2)


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_the_gap_of_conditional_gradient_over_the_ball_falls_as_one_over_the_root_of_the_steps(p):
    n, q = 6, conjugate(p)
    matrix = np.random.default_rng(0).normal(size=(n, n))
    hessian, centre = torch.tensor((matrix + matrix.T) / 2), randn(n)  # neither convex nor concave
    value = lambda x: inner((x - centre) @ hessian, x - centre) / 2  # noqa: E731
    eigenvalues = torch.linalg.eigvalsh(hessian)
    curvature = 4 * float(eigenvalues[-1]) * n ** max(0.0, 1 - 2 / p)  # the ball's Euclidean diameter, squared
    start = 0.5 * project(randn(20, n, seed=1), p)
    reach = n ** max(0.0, 0.5 - 1 / p) + centre.norm()
    excess = float(value(start).max() - eigenvalues[0] * reach**2 / 2)  # at least that over the minimum
    for steps in (50, 200, 800):
        eta, w, gaps = math.sqrt(2 * excess / (curvature * steps)), start, []
        assert eta <= 1
        for _ in range(steps):
            g = (w - centre) @ hessian
            gap = lp_norm(g, q) + inner(g, w)
            assert (gap >= -1e-12).all()
            new = (1 - eta) * w - eta * dual_pair(g, p)[1]
            assert (value(new) <= value(w) - eta * gap + eta**2 * curvature / 2 + 1e-12).all()
            gaps.append(gap)
            w = new
        assert (torch.stack(gaps).amin(0) <= math.sqrt(2 * excess * curvature / steps)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_on_the_sphere_the_gap_tends_to_twice_the_gradient_where_the_multiplier_is_negative(p, form):
    for multiplier, limit in ((0.7, 0.0), (-0.7, 2 * 0.7)):
        problem = quadratic(p, multiplier)
        run = Run(problem.point(form) + 1e-3 * randn(4, 6), problem.gradient, p, 0.4 * problem.largest_eta(), form)
        for _ in range(400):
            run.step()
        g = problem.gradient(run.weights)
        gap = lp_norm(g, conjugate(p)) + inner(g, run.weights)
        assert gap == pytest.approx(np.full(4, limit), abs=1e-9)
        assert measure(form, run.weights, g, p).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_the_first_order_change_of_a_step_is_the_one_of_the_page(p, form):
    problem = quadratic(p, 0.7)
    generator = np.random.default_rng(3)
    w = project(torch.tensor(generator.uniform(0.5, 1.5, (50, 6)) * generator.choice([-1, 1], (50, 6))), p)
    start = dual(w, p) if form == "dual" else w

    def change(eta):
        run = Run(start, problem.gradient, p, eta, form)
        run.step()
        return (problem.value(run.weights) - problem.value(w)) / eta

    slope = 2 * change(1e-6) - change(2e-6)
    expected = -measure(form, w, problem.gradient(w), p)
    assert torch.allclose(slope, expected, rtol=1e-5, atol=1e-7)
    assert (expected < 0).all()


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_the_measures_vanish_where_the_page_says_and_nowhere_else(p):
    w, g = project(randn(4000, 4), p), randn(4000, 4, seed=1)
    v = dual(w, p)
    for form in FORMS:
        assert measure(form, w, g, p).min() > 0
        for sign in (1, -1):
            assert measure(form, w, sign * 0.3 * v, p).abs().max() < 1e-12
    if p < 2:
        w[:, 0] = 0
        w = project(w, p)
        g = 0.3 * dual(w, p)
        g[:, 0] = 0.2
        assert measure("dual", w, g, p).abs().max() < 1e-12
        assert measure("primal", w, g, p).min() > 1e-4


def remainder(form, w, eta, problem):
    """F(step) - F(w) + eta M."""
    run = Run(dual(w, problem.p) if form == "dual" else w, problem.gradient, problem.p, eta, form)
    run.step()
    slope = measure(form, w, problem.gradient(w), problem.p)
    return problem.value(run.weights) - problem.value(w) + eta * slope


def points_with_zeros(p, count=2000, n=6):
    w = randn(count, n)
    w[: count // 2, 0] = 0
    w[: count // 4, 1] = 0
    return project(w, p)


def points_about_to_cross_zero(w, eta, problem):
    """The same with a dual weight that the step takes to about 0: of its own size, where J_q is least smooth."""
    v, g = dual(w, problem.p), problem.gradient(w)
    v[:, 0] = eta * g[:, 0] / lp_norm(g, conjugate(problem.p))
    return project(primal(v, problem.p), problem.p)


BOUNDS = [("dual", 1.1, 2.0), ("dual", 1.2, 2.0), ("dual", 1.5, 2.0), ("dual", 1.8, 1.25), ("dual", 2.0, 2.0)]
BOUNDS += [("primal", 1.2, 1.2), ("primal", 1.5, 1.5), ("primal", 2.0, 2.0), ("primal", 3.0, 2.0)]


@pytest.mark.parametrize(("form", "p", "order"), BOUNDS)
def test_the_remainder_is_of_the_order_of_the_page_at_zero_weights_too(form, p, order):
    problem, w = quadratic(p, 0.7), points_with_zeros(p)
    largest = []
    for eta in (0.25, 0.1, 0.01, 1e-3, 1e-4):
        points = torch.cat([w, points_about_to_cross_zero(w, eta, problem)])
        largest.append(float(remainder(form, points, eta, problem).max()) / eta**order)
    assert max(largest[2:]) < 2 * max(largest[:2])
    assert largest[4] < 1.05 * largest[3]  # an order 0.1 higher would make it 1.26


def test_the_orders_are_no_better_than_that():
    w = points_with_zeros(1.5)[:500]  # two zero weights each
    problem = quadratic(1.5, 0.7)
    g = problem.gradient(w)
    s = dual_pair(g, 1.5)[1]
    leading = -inner(g, w) * s[:, :2].abs().pow(1.5).sum(-1) / 1.5
    assert torch.allclose(remainder("primal", w, 1e-8, problem) / 1e-8**1.5, leading, rtol=1e-2, atol=1e-2)
    problem, w = quadratic(1.8, 0.7), points_with_zeros(1.8)[:500]
    sizes = [
        float(remainder("dual", points_about_to_cross_zero(w, eta, problem), eta, problem).max())
        for eta in (1e-5, 1e-7)
    ]
    assert math.log(sizes[0] / sizes[1]) / math.log(100) == pytest.approx(conjugate(1.8) - 1, abs=0.03)


@pytest.mark.parametrize(("form", "p", "order"), BOUNDS)
def test_along_runs_the_smallest_measure_obeys_the_bound(form, p, order):
    problem = quadratic(p, -0.3, saddle=True)
    sample = points_with_zeros(p, count=20_000)
    found = [float(remainder(form, sample, eta, problem).max()) / eta**order for eta in (0.25, 0.1, 0.03, 0.01)]
    constant = 1.25 * max(found)  # a sample's largest is not the largest
    w = sample[::500]
    for steps in (50, 200):
        eta = 0.25 * (50 / steps) ** (1 / order)
        run = Run(dual(w, p) if form == "dual" else w, problem.gradient, p, eta, form)
        values, measures = [problem.value(run.weights)], []
        for _ in range(steps):
            measures.append(measure(form, run.weights, problem.gradient(run.weights), p))
            run.step()
            values.append(problem.value(run.weights))
            assert (values[-1] <= values[-2] - eta * measures[-1] + constant * eta**order).all()
        bound = (values[0] - values[-1]) / (eta * steps) + constant * eta ** (order - 1)
        assert (torch.stack(measures).amin(0) <= bound).all()


# 5. Hoyer's sparsity.


def factor(k):
    """Gamma(k + 1/2) / Gamma(k)."""
    return special.poch(k, 0.5)


def near_the_mean(samples, expected):
    return abs(samples.mean() - expected) < 4 * samples.std() / math.sqrt(len(samples))


@pytest.mark.parametrize("k", [0.08, 0.4, 2.0])
def test_the_shares_of_gamma_variables_have_the_moments_of_the_page(k):
    n, count = 5, 60_000
    squares = np.random.default_rng(0).standard_gamma(k, (count, n))
    total = squares.sum(-1)
    shares = squares / total[:, None]
    first, second = np.sqrt(shares[:, 0]), np.sqrt(shares[:, 1])
    assert near_the_mean(np.sqrt(squares[:, 0]), factor(k))
    assert near_the_mean(np.sqrt(total), factor(n * k))
    assert near_the_mean(first, factor(k) / factor(n * k))
    assert near_the_mean(shares[:, 0], 1 / n)
    assert near_the_mean(first * second, factor(k) ** 2 / (n * k))
    ratio = np.sqrt(shares).sum(-1)
    for x in (shares[:, 0], ratio, first * second):  # independent of the sum: no correlation with functions of it
        for y in (total, np.sqrt(total), total > n * k):
            assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(count)


@pytest.mark.parametrize("p", [1.05, 1.2, 2.0, 6.0])
def test_the_formulas_of_the_page_are_those_of_the_library(p):
    k = 0.4 * (p - 1)
    for n in (2, 25, 500):
        mean = n * factor(k) / factor(n * k)
        square = 1 + (n - 1) * factor(k) ** 2 / k
        root = math.sqrt(n)
        assert expected_hoyer(p, n) == pytest.approx((root - mean) / (root - 1), rel=1e-10)
        assert hoyer_std(p, n) == pytest.approx(math.sqrt(square - mean**2) / (root - 1), rel=1e-7)
    assert expected_hoyer(p, 10**9) == pytest.approx(1 - factor(k) / math.sqrt(k), abs=1e-4)
    assert hoyer_std(p, 4e8) / hoyer_std(p, 1e8) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("p", [1.2, 1.5, 3.0])
@pytest.mark.parametrize("c", [0.8, 1.0])
def test_gradients_with_a_power_law_at_zero_give_squares_with_the_power_law_of_a_gamma_variable(c, p):
    count = 400_000
    g = randn(count).abs() ** (1 / c)  # P(g < e) goes as e^c
    w = -dual_pair(-g, p)[1]
    ordered = (2 * w.log()).sort().values
    few, many = 2000, 20_000
    exponent = math.log(many / few) / float(ordered[many - 1] - ordered[few - 1])
    error = math.sqrt(1 / few - 1 / many) / math.log(many / few)
    assert exponent == pytest.approx(c * (p - 1) / 2, rel=4 * error)
    x = 1e-9
    assert special.gammainc(0.3, x) == pytest.approx(x**0.3 / special.gamma(1.3), rel=1e-8)


def test_the_weak_fractions_of_two_exponents_cross_once():
    tau = np.geomspace(1e-3, 20, 4000)
    for low, high in ((1.02, 1.1), (1.2, 1.25), (1.2, 2.0), (2.0, 9.0)):
        difference = weak_fraction(low, tau) - weak_fraction(high, tau)
        signs = np.sign(difference[np.abs(difference) > 1e-12])
        assert signs[0] > 0 > signs[-1]
        assert (np.diff(signs) != 0).sum() == 1
        assert tau[np.abs(difference) > 1e-12][np.argmin(signs)] > 1


def test_the_weak_fraction_under_the_mean_falls_with_p_towards_one_half():
    p = 1 + np.geomspace(1e-4, 1e6, 5000)
    fraction = weak_fraction(p, 1.0)
    assert (np.diff(fraction) < 0).all()
    assert 0.5 < fraction[-1] < 0.5005
    assert fraction[0] > 0.999


def test_beyond_the_mean_the_weak_fraction_turns_as_in_the_table_of_the_page():
    rows = re.findall(r"^\| ([\d.]+) \|((?: [01]\.\d{3} \|)+)$", PAGE, flags=re.MULTILINE)
    exponents = [float(x) for x in re.search(r"^\| τ \|(.*)\|$", PAGE, flags=re.MULTILINE)[1].split("|")]
    assert [float(tau) for tau, _ in rows] == [0.2, 0.9, 1.5, 3.0]
    for tau, cells in rows:
        shown = [float(cell) for cell in cells.strip(" |").split("|")]
        assert shown == pytest.approx(weak_fraction(np.array(exponents), float(tau)), abs=5e-4)
        falls = (np.diff(shown) < 0).all()
        assert falls == (float(tau) < 1)
    for tau in (1.01, 1.5, 3.0):
        ends = weak_fraction(np.array([1 + 1e-6, 1e6]), tau)
        assert (ends > 0.9999).all()
        assert weak_fraction(2.0, tau) < 0.98
