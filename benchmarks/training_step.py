"""A whole training step of a sparse network against the dense one: zero_grad, forward, loss, backward, optimizer.

A perceptron 784-1024-1024-10 with ReLU, batches of 128, float32. The two hidden layers are sparse; the output layer has
all of its connections in every contender. Optimizers have momentum 0.9, Nesterov:

dense             nn.Linear, torch.optim.SGD as it comes
dense, fused      nn.Linear, torch.optim.SGD(fused=True)
masked            nn.Linear, gradients multiplied by masks, torch.optim.SGD
csr               torch CSR tensors as W @ x.T; backward as W.T @ dy.T, from a second CSR tensor whose values are put in
                  order anew, and, for the weights, torch.sparse.sampled_addmm; torch.optim.SGD
sparselab         sparselab.SparseLinear, the output layer nn.Linear, torch.optim.SGD; if it is installed
sparselab, all    the same, the output layer sparselab.SparseLinear(sparsity=0), which spares it changes of layout
sparse            SparseChain of three SparseLinear, the output layer with sparsity=0, LpSGD at p = 1.15
sparse, SGD       the same, torch.optim.SGD
layers            the same three SparseLinear and ReLU in nn.Sequential, LpSGD
layers, head      SparseLinear, the output layer nn.Linear, LpSGD

Those that have the same weights are checked to have the same gradients, and all to lower the loss. They take some steps
in turn, in another order every round, so that a noisy machine slows them alike; the medians over the rounds are
compared. Where others use the machine, --clock cpu leaves out the time in which they had the processor.

    python benchmarks/training_step.py --out results/training-step.json

writes a table to results/training-step.md, too.
"""

from __future__ import annotations

import importlib
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from reporting import command_line, save, show, version_of
from torch import Tensor, nn

import lpsphere as lp
from lpsphere.sparse import SparseChain, SparseLinear

SIZES = (784, 1024, 1024, 10)
BATCH = 128
STEPS = 20
"""Steps at a turn."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_SHOWN = ("dense", "masked", "csr", "sparselab", "sparselab, all", "layers", "sparse")
SETTINGS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True}


class CsrProduct(torch.autograd.Function):
    """W x' + bias by torch's CSR tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: CsrLinear) -> Tensor:
        """X (batch, in) -> (batch, out)."""
        ctx.save_for_backward(x, values)
        ctx.layer = layer
        return (torch.sparse_csr_tensor(layer.pointers, layer.columns, values, layer.shape) @ x.t()).t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """The gradients of x, if it needs one, and of the values."""
        x, values = ctx.saved_tensors
        layer, dx = ctx.layer, None
        if ctx.needs_input_grad[0]:
            transposed = torch.sparse_csr_tensor(
                layer.feature_pointers, layer.neurons, values[layer.order], layer.shape[::-1]
            )
            dx = (transposed @ dy.t()).t()
        return dx, torch.sparse.sampled_addmm(layer.pattern, dy.t(), x, beta=0.0).values(), None


class CsrLinear(nn.Module):
    """The connections of a `SparseLinear` as a CSR tensor of torch."""

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        self.values, self.bias = nn.Parameter(layer.weight.detach().clone()), nn.Parameter(layer.bias.detach().clone())
        self.shape = (layer.out_features, layer.in_features)
        self.pointers, self.columns = layer.row_pointers, layer.columns
        self.pattern = torch.sparse_csr_tensor(
            self.pointers, self.columns, torch.zeros_like(layer.weight.detach()), self.shape
        )
        self.order = torch.argsort(self.columns, stable=True)
        self.neurons = layer.rows[self.order]
        self.feature_pointers = torch.searchsorted(
            self.columns[self.order], torch.arange(layer.in_features + 1), out_int32=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """W x + bias."""
        return CsrProduct.apply(x, self.values, self) + self.bias


class Contender:
    """A network with its optimizer, and the masks of its gradients."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, masks: dict[nn.Parameter, Tensor] | None = None
    ) -> None:
        self.model, self.optimizer, self.masks = model, optimizer, masks or {}

    def backward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Everything but the optimizer's step; the loss."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), labels)
        loss.backward()
        for parameter, mask in self.masks.items():
            assert parameter.grad is not None
            parameter.grad.mul_(mask)
        return loss.detach()

    def step(self, x: Tensor, labels: Tensor) -> Tensor:
        """A training step; the loss before it."""
        loss = self.backward(x, labels)
        self.optimizer.step()
        return loss


def perceptron(make: Callable[[int], nn.Module]) -> nn.Sequential:
    """The layers that ``make`` gives for their numbers, with ReLU between them."""
    return nn.Sequential(make(0), nn.ReLU(), make(1), nn.ReLU(), make(2))


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a network that have weights."""
    return [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]


def sparse_layers(sparsity: float) -> list[SparseLinear]:
    """The layers of the sparse network."""
    return [SparseLinear(*SIZES[i : i + 2], sparsity=sparsity if i < 2 else 0.0, seed=i) for i in range(3)]


def contenders(sparsity: float) -> dict[str, Contender]:
    """Networks of the same weights, but for sparselab's."""

    def sgd(model: nn.Module, **settings: Any) -> Contender:
        return Contender(model, torch.optim.SGD(model.parameters(), **SETTINGS, **settings))

    def lpsgd(model: nn.Module) -> Contender:
        lr = SETTINGS["lr"]
        groups = lp.param_groups(model, p=1.15, lr=lr, other_lr=lr, radius="init")
        return Contender(model, lp.LpSGD(groups, momentum=SETTINGS["momentum"], nesterov=SETTINGS["nesterov"]))

    def layers() -> list[SparseLinear]:
        return sparse_layers(sparsity)

    def dense() -> nn.Sequential:
        return perceptron(lambda i: layers()[i].to_dense())

    masked = sgd(dense())
    for layer in list(masked.model.children())[:3:2]:
        masked.masks[layer.weight] = (layer.weight.detach() != 0).float()
    return {
        "dense": sgd(dense()),
        "dense, fused": sgd(dense(), fused=True),
        "masked": masked,
        "csr": sgd(perceptron(lambda i: CsrLinear(layers()[i]) if i < 2 else layers()[i].to_dense())),
        **of_sparselab(sparsity, sgd),
        "sparse": lpsgd(SparseChain(layers(), (True, True, False))),
        "sparse, SGD": sgd(SparseChain(layers(), (True, True, False))),
        "layers": lpsgd(perceptron(lambda i: layers()[i])),
        "layers, head": lpsgd(perceptron(lambda i: layers()[i] if i < 2 else layers()[i].to_dense())),
    }


def of_sparselab(sparsity: float, sgd: Callable[[nn.Module], Contender]) -> dict[str, Contender]:
    """Those of sparselab, if it is installed."""
    try:
        layer = importlib.import_module("sparselab").SparseLinear
    except ImportError:
        return {}

    def hidden(i: int) -> nn.Module:
        return layer(*SIZES[i : i + 2], sparsity=sparsity)

    return {
        "sparselab": sgd(perceptron(lambda i: hidden(i) if i < 2 else nn.Linear(*SIZES[2:]))),
        "sparselab, all": sgd(perceptron(lambda i: hidden(i) if i < 2 else layer(*SIZES[2:], sparsity=0.0))),
    }


def check(sparsity: float, x: Tensor, labels: Tensor) -> None:
    """Refuse to time contenders that do not compute the same, or do not learn."""
    those = contenders(sparsity)
    structure = sparse_layers(sparsity)
    for contender in (those["sparse"], those["layers"], those["layers, head"]):  # LpSGD has put its weights on spheres
        for layer, given in zip(linear_layers(contender.model), structure, strict=True):
            if isinstance(layer, SparseLinear):
                layer.weight.data.copy_(given.weight.data)
    expected: list[Tensor] = []
    for name, contender in those.items():
        if name.startswith("sparselab"):
            continue
        loss = contender.backward(x, labels)
        found = [loss]
        for layer, given in zip(linear_layers(contender.model), structure, strict=True):
            weight = layer.values if isinstance(layer, CsrLinear) else layer.weight
            gradient = weight.grad if weight.ndim == 1 else weight.grad[given.rows.long(), given.columns.long()]
            found += [gradient, layer.bias.grad]
        expected = expected or found
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for name, contender in contenders(sparsity).items():
        losses = [float(contender.step(x, labels)) for _ in range(20)]
        if not losses[-1] < losses[0]:
            raise RuntimeError(f"{name} does not learn: its loss went from {losses[0]} to {losses[-1]}")


def race(
    those: dict[str, Contender], x: Tensor, labels: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of the steps of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in those}
    order = random.Random(0)
    for turn in range(rounds + 5):
        for name in order.sample(list(those), len(those)):
            those[name].step(x, labels)  # as in training, a step follows one of its own, not one that emptied the cache
            start = clock()
            for _ in range(STEPS):
                those[name].step(x, labels)
            if turn >= 5:  # the first are to warm up
                seconds[name].append((clock() - start) / STEPS)
    return seconds


def rows_of(sparsity: float, rounds: int, clock: str, threads: int) -> list[dict[str, object]]:
    """A row for each contender."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", UserWarning)  # torch says of its CSR tensors that they are in beta
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, SIZES[0], generator=generator)
    labels = torch.randint(SIZES[-1], (BATCH,), generator=generator)
    check(sparsity, x, labels)
    seconds = race(contenders(sparsity), x, labels, rounds, CLOCKS[clock])
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    peers = [median for name, median in medians.items() if name.startswith("sparselab")]
    return [
        {
            "sparsity": sparsity,
            "contender": name,
            "ms": round(1e3 * median, 4),
            "least_ms": round(1e3 * min(seconds[name]), 4),
            "faster_than_dense": round(medians["dense"] / median, 2),
            "faster_than_dense_fused": round(medians["dense, fused"] / median, 2),
            **({"faster_than_best_of_sparselab": round(min(peers) / median, 2)} if peers else {}),
        }
        for name, median in medians.items()
    ]


def readable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line a sparsity: milliseconds of a step, and how many times faster than the dense network's ours is."""
    lines = []
    for sparsity in dict.fromkeys(row["sparsity"] for row in rows):
        own = {row["contender"]: row for row in rows if row["sparsity"] == sparsity}
        ours = own["sparse"]
        line = {"sparsity": f"{sparsity:.0%}"}
        line |= {f"{name}, ms": f"{own[name]['ms']:.2f}" for name in _SHOWN if name in own}
        line["faster than dense"] = f"{ours['faster_than_dense']:.1f}"
        if "sparselab" in own:
            line["faster than the better of sparselab's"] = f"{ours['faster_than_best_of_sparselab']:.1f}"
        lines.append(line)
    return lines


def main() -> None:
    """Time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process alone; for one thread")
    options = parser.parse_args()
    if version_of("sparselab") is None:
        print("sparselab is not installed: it is left out")
    rows = []
    for sparsity in options.sparsities:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # sparselab keeps what belongs to other networks
            for row in process.submit(rows_of, sparsity, options.rounds, options.clock, options.threads).result():
                rows.append(row)
                show(row)
    save(
        options.out,
        packages=("numba", "sparselab"),
        threads=options.threads,
        rounds=options.rounds,
        clock=options.clock,
        rows=rows,
        table=readable(rows),
    )


if __name__ == "__main__":
    main()
