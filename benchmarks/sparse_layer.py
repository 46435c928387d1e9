"""One sparse linear layer against the dense one: time forward, and forward and backward, for sizes and sparsities.

Float32; square layers of random structure. The contenders, whose outputs and gradients are checked to be the same:

dense          nn.Linear
masked         nn.Linear whose gradient is multiplied by a mask, as in training with masks
csr            a torch CSR tensor as W @ x.T; backward as W.T @ dy.T, from a second CSR tensor whose values are
               put in order anew, and, for the weights, torch.sparse.sampled_addmm
sparse         SparseLinear on an input with samples side by side, as a loader gives it
sparse-stack   SparseLinear between others: input and gradient feature-major

All take their steps in turn, in another order every round, so that a noisy machine slows them alike; the medians over
the rounds are compared. Gradients of input, weights and bias are taken.

    python benchmarks/sparse_layer.py --out results/sparse-layer.json

writes a table of how many times faster than the dense layer the sparse one is to results/sparse-layer.md, too.
"""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from reporting import command_line, save, show
from torch import Tensor, nn

from lpsphere.sparse import SparseLinear

Results = tuple[Tensor, Tensor, Tensor, Tensor]


class Layers:
    """The same layer as every contender has it."""

    def __init__(self, size: int, sparsity: float, batch: int) -> None:
        torch.manual_seed(0)
        self.sparse = SparseLinear(size, size, sparsity=sparsity)
        self.dense = self.sparse.to_dense()
        self.rows, self.columns = self.sparse.rows.long(), self.sparse.columns.long()
        self.mask = torch.zeros(size, size, dtype=torch.bool)
        self.mask[self.rows, self.columns] = True
        values = self.sparse.weight.detach()
        self.csr = torch.sparse_csr_tensor(self.sparse.row_pointers, self.sparse.columns, values, (size, size))
        self.pattern = torch.sparse_csr_tensor(
            self.sparse.row_pointers, self.sparse.columns, torch.zeros_like(values), (size, size)
        )
        self.order = torch.argsort(self.columns, stable=True)
        self.feature_pointers = torch.searchsorted(self.columns[self.order], torch.arange(size + 1), out_int32=True)
        self.x, self.dy = torch.randn(batch, size), torch.randn(batch, size)
        self.x_stack, self.dy_stack = (tensor.t().contiguous().t() for tensor in (self.x, self.dy))

    def forward(self) -> dict[str, Callable[[], Tensor]]:
        """What each contender computes without gradients."""
        return {
            "dense": lambda: self.dense(self.x),
            "masked": lambda: self.dense(self.x),  # the weights are masked after each step, not in the forward pass
            "csr": self._csr_forward,
            "sparse": lambda: self.sparse(self.x),
            "sparse-stack": lambda: self.sparse(self.x_stack),
        }

    def both(self) -> dict[str, Callable[[], Results]]:
        """What each contender computes in training: output and gradients of input, weights and bias."""
        return {
            "dense": lambda: _differentiated(self.dense, self.x, self.dy),
            "masked": self._masked_both,
            "csr": self._csr_both,
            "sparse": lambda: _differentiated(self.sparse, self.x, self.dy),
            "sparse-stack": lambda: _differentiated(self.sparse, self.x_stack, self.dy_stack),
        }

    def _csr_forward(self) -> Tensor:
        return (self.csr @ self.x.t()).t() + self.dense.bias

    def _csr_both(self) -> Results:
        with torch.no_grad():
            y = self._csr_forward()
            by_feature = torch.sparse_csr_tensor(
                self.feature_pointers, self.rows[self.order].int(), self.csr.values()[self.order], self.mask.shape
            )
            dx = (by_feature @ self.dy.t()).t()
            dw = torch.sparse.sampled_addmm(self.pattern, self.dy.t(), self.x, beta=0.0)
            return y, dx, dw.values(), self.dy.sum(0)

    def _masked_both(self) -> Results:
        y, dx, dw, db = _differentiated(self.dense, self.x, self.dy)
        return y, dx, dw.masked_fill_(~self.mask, 0), db

    def check(self) -> None:
        """Refuse to time contenders that do not compute the same."""
        y, dx, dw, db = self.both()["dense"]()
        expected = y, dx, dw[self.rows, self.columns], db
        for function in self.both().values():
            y, dx, dw, db = function()
            dw = dw[self.rows, self.columns] if dw.ndim == 2 else dw
            torch.testing.assert_close((y, dx, dw, db), expected, rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            for forward in self.forward().values():
                torch.testing.assert_close(forward(), y, rtol=1e-3, atol=1e-3)


def _differentiated(layer: nn.Module, x: Tensor, dy: Tensor) -> Results:
    x = x.detach().requires_grad_()
    y = layer(x)
    dx, dw, db = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    return y, dx, dw, db


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for turn in range(rounds + 3):
        for name in order.sample(list(contenders), len(contenders)):
            start = time.perf_counter()
            contenders[name]()
            if turn >= 3:  # the first are to warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def rows_of(size: int, sparsity: float, batch: int, rounds: int) -> list[dict[str, object]]:
    """A row for each contender and pass."""
    layers = Layers(size, sparsity, batch)
    layers.check()
    with torch.no_grad():
        passes = {"forward": race(layers.forward(), rounds)}
    passes["forward and backward"] = race(layers.both(), rounds)
    return [
        {
            "size": size,
            "sparsity": sparsity,
            "batch": batch,
            "pass": kind,
            "contender": name,
            "ms": round(1e3 * seconds, 4),
            "faster_than_dense": round(medians["dense"] / seconds, 2),
        }
        for kind, medians in passes.items()
        for name, seconds in medians.items()
    ]


def readable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line a size and sparsity: how many times faster than the dense layer the one between others is."""
    lines: dict[tuple[int, float], dict[str, str]] = {}
    for row in rows:
        if row["contender"] == "sparse-stack":
            line = lines.setdefault((row["size"], row["sparsity"]), {})
            line |= {"size": f"{row['size']} x {row['size']}", "sparsity": f"{row['sparsity']:.0%}"}
            line[f"{row['pass']}, batch {row['batch']}"] = f"{row['faster_than_dense']:.1f}"
    return list(lines.values())


def main() -> None:
    """Time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024], help="features in and out")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", UserWarning)  # torch says of its CSR tensors that they are in beta
    rows = []
    for size in options.sizes:
        for sparsity in options.sparsities:
            for batch in options.batches:
                for row in rows_of(size, sparsity, batch, options.rounds):
                    rows.append(row)
                    show(row)
    save(
        options.out,
        packages=("numba",),
        threads=options.threads,
        rounds=options.rounds,
        rows=rows,
        table=readable(rows),
    )


if __name__ == "__main__":
    main()
