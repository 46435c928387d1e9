import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpsphere.kernels import ConnectionIndex, multiply, multiply_transposed, products, sample

BATCHES = [0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 33, 64, 65, 100, 127, 128, 129, 255, 256, 300]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def index_of(mask, kind=np.int32):
    pointers = np.concatenate([[0], mask.sum(1).cumsum()]).astype(kind)
    return ConnectionIndex(pointers, mask.nonzero()[1].astype(np.int32), mask.shape[1])


class Problem:
    """A sparse matrix, also as a dense float64 one, and dense arrays to multiply."""

    def __init__(self, mask, batch, kind=np.float32, pointers=np.int32, seed=0):
        draw = np.random.default_rng(seed).standard_normal
        self.mask, self.kind, self.index = mask, kind, index_of(mask, pointers)
        self.values = draw(self.index.connections).astype(kind)
        self.x = draw((mask.shape[1], batch)).astype(kind)
        self.dy = draw((mask.shape[0], batch)).astype(kind)
        self.bias = draw(mask.shape[0]).astype(kind)
        self.dense = np.zeros(mask.shape)
        self.dense[mask] = self.values

    def results(self):
        y, dx, dv = np.full_like(self.dy, np.nan), np.full_like(self.x, np.nan), np.full_like(self.values, np.nan)
        multiply(self.index, self.values, self.x, y, self.bias)
        multiply_transposed(self.index, self.values, self.dy, dx)
        sample(self.index, self.dy, self.x, dv)
        return y, dx, dv

    def expected(self):
        dy, x = self.dy.astype(np.float64), self.x.astype(np.float64)
        return self.dense @ x + self.bias[:, None], self.dense.T @ dy, (dy @ x.T)[self.mask]

    def check(self):
        size = 1 + max(self.mask.shape + self.x.shape)
        for result, expected in zip(self.results(), self.expected(), strict=True):
            np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE[self.kind] * size**0.5)


def random_mask(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_products_are_those_of_the_dense_matrix(batch, kind):
    Problem(random_mask((23, 37), 0.3), batch, kind).check()


@pytest.mark.parametrize("pointers", [np.int32, np.int64])
@pytest.mark.parametrize(
    "mask",
    [
        np.ones((9, 5), bool),
        np.zeros((4, 6), bool),
        np.eye(7, dtype=bool),
        np.eye(6, 9, 3, dtype=bool),
        np.ones((1, 1), bool),
        np.ones((1, 40), bool),
        np.ones((40, 1), bool),
        np.arange(12)[:, None] % 3 == np.zeros(8),
    ],
    ids=["full", "none", "one each", "empty rows and columns", "1 x 1", "one neuron", "fan-in 1", "every third row"],
)
def test_any_structure_will_do(mask, pointers):
    for batch in (1, 3, 70):
        Problem(mask, batch, pointers=pointers).check()


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    batch=st.integers(0, 150),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    kind=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_any_shape_will_do(shape, batch, density, kind, seed):
    Problem(random_mask(shape, density, seed), batch, kind, seed=seed).check()


@pytest.mark.parametrize("batch", [1, 5, 127, 128, 200])
def test_no_value_outside_the_arrays_is_written(batch):
    problem = Problem(random_mask((11, 13), 0.4), batch)
    room = np.full(11 * batch + 2, 7.0, np.float32)
    multiply(problem.index, problem.values, problem.x, room[1:-1].reshape(11, batch), problem.bias)
    np.testing.assert_allclose(room[1:-1].reshape(11, batch), problem.expected()[0], atol=1e-4)
    assert room[0] == room[-1] == 7
    room = np.full(problem.index.connections + 2, 7.0, np.float32)
    sample(problem.index, problem.dy, problem.x, room[1:-1])
    assert room[0] == room[-1] == 7


@pytest.mark.parametrize("batch", [1, 6, 129])
def test_nan_and_infinity_stay_in_the_samples_and_neurons_that_they_belong_to(batch):
    problem = Problem(np.eye(5, dtype=bool), batch)
    problem.values[:] = 1
    problem.x[1, -1], problem.x[2, -1], problem.dy[3, 0] = np.nan, np.inf, np.inf
    y, dx, dv = problem.results()
    assert np.argwhere(np.isnan(y)).tolist() == [[1, batch - 1]]
    assert np.argwhere(np.isinf(y)).tolist() == [[2, batch - 1]]
    assert np.argwhere(~np.isfinite(dx)).tolist() == [[3, 0]]
    assert np.isnan(dv).tolist() == [False, True, False, False, False]
    assert np.isinf(dv).tolist() == [False, False, True, True, False]


def test_the_skipped_part_of_the_last_tile_adds_nothing_even_where_it_is_infinite():
    for batch in (35, 67, 131):  # the last tile has four samples, the first of which is the last of the tile before
        problem = Problem(np.ones((1, 1), bool), batch)
        problem.x[:], problem.dy[:] = 1, 1
        assert problem.results()[2].tolist() == [batch]
        problem.x[0, batch - 4] = np.inf
        assert problem.results()[2].tolist() == [np.inf]
        problem.x[0, batch - 4], problem.dy[0, batch - 4] = 1, np.inf
        assert problem.results()[2].tolist() == [np.inf]


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads however little there is to do; the number of parallel products that were begun."""
    monkeypatch.setattr(products, "_PARALLEL_WORK", 0)
    entered = []
    enter = products._Team.__enter__

    def count(team):
        entered.append(team.threads)
        enter(team)

    monkeypatch.setattr(products._Team, "__enter__", count)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield entered
    torch.set_num_threads(before)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one processor")
@pytest.mark.parametrize("batch", [0, 1, 100])
def test_two_threads_give_exactly_the_results_of_one(batch, two_threads):
    problem = Problem(random_mask((40, 30), 0.3), batch)
    two = problem.results()
    assert two_threads == [2, 2, 2]
    torch.set_num_threads(1)
    one = problem.results()
    assert len(two_threads) == 3
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_small_products_are_taken_by_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert products.threads_for(products._PARALLEL_WORK - 1) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one processor")
def test_products_asked_for_from_several_threads_at_once_do_not_wait_for_each_other(two_threads):
    problem = Problem(random_mask((40, 30), 0.3), 64)
    expected = problem.results()
    with products._team:  # another thread is at work in parallel
        busy = problem.results()
    assert len(two_threads) == 3
    found = [None] * 4

    def work(i):
        torch.set_num_threads(2)
        found[i] = [problem.results() for _ in range(5)][-1]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for results in (busy, *found):
        for a, b in zip(expected, results, strict=True):
            np.testing.assert_array_equal(a, b)


FORKING = """
import os, sys
import numpy as np, torch
from lpsphere.kernels import ConnectionIndex, multiply, products
products._PARALLEL_WORK = 0
torch.set_num_threads(2)
index = ConnectionIndex(np.arange(5, dtype=np.int32), np.zeros(4, np.int32), 1)
values, x, y = np.ones(4, np.float32), np.ones((1, 3), np.float32), np.zeros((4, 3), np.float32)
multiply(index, values, x, y)
child = os.fork()
y[:] = 0
multiply(index, values, x, y)
if child == 0:
    os._exit(0 if (y == 1).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_goes_on():
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], timeout=120, check=False).returncode == 0


def test_importing_the_library_does_not_import_numba():
    code = "import sys, lpsphere, lpsphere.kernels, lpsphere.sparse; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def replaced(**given):
    problem = Problem(random_mask((4, 6), 0.5), 3)
    arrays = {"values": problem.values, "x": problem.x, "y": problem.dy, "bias": problem.bias} | given
    multiply(problem.index, **arrays)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": np.zeros((6, 3))}, TypeError, "x must be float32 or float64, and all arrays of one type; got float64"),
        ({"bias": np.zeros(4)}, TypeError, "bias must be float32"),
        ({"x": np.zeros((5, 3), np.float32)}, ValueError, r"x must be C-contiguous of shape \(6, 3\), got .*\(5, 3\)"),
        ({"x": np.zeros((3, 6), np.float32).T}, ValueError, "x must be C-contiguous"),
        ({"x": np.zeros(6, np.float32)}, ValueError, "x must be C-contiguous"),
        ({"x": np.float32(0) * np.zeros(())}, TypeError, "x must be"),
        ({"y": np.zeros((4, 2), np.float32)}, ValueError, "y must be C-contiguous"),
        ({"bias": np.zeros(3, np.float32)}, ValueError, "bias must be C-contiguous"),
        ({"values": np.zeros(99, np.float32)}, ValueError, "values must be C-contiguous"),
        ({"values": np.zeros(99, np.int32)}, TypeError, "int32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        replaced(**given)


def test_the_other_products_check_their_arrays_too():
    problem = Problem(random_mask((4, 6), 0.5), 3)
    with pytest.raises(ValueError, match="dy must be C-contiguous"):
        multiply_transposed(problem.index, problem.values, problem.dy[:, :2], problem.x[:, :2].copy())
    with pytest.raises(ValueError, match="values must be C-contiguous"):
        multiply_transposed(problem.index, problem.values[1:], problem.dy, problem.x)
    with pytest.raises(ValueError, match="dv must be C-contiguous"):
        sample(problem.index, problem.dy, problem.x, problem.values[1:])
    with pytest.raises(TypeError, match="dv must be float32 or float64"):
        sample(problem.index, problem.dy, problem.x, problem.values.astype(np.int64))
