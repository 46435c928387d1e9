"""What a step of LpSGD costs, beside torch's SGD and the published formula written plainly.

Momentum 0.9, Nesterov, dual form, float32, one thread unless --threads says otherwise. Steps of all contenders are
taken in turn, in another order every round, so that a noisy machine slows them alike; the medians over the rounds are
compared.

    python benchmarks/optimizer_step.py --rounds 40 --out results/optimizer-step.json
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from reporting import command_line, save, show
from torch import Tensor, nn

import lpsphere as lp

LARGE = [(512, 4608)]
SMALL = [(64, 64)] * 60
CASES: list[tuple[str, list[tuple[int, int]], float]] = [
    *(("one tensor of 512 x 4608", LARGE, p) for p in (1.1, 1.15, 1.2, 1.5, 2.0)),
    ("60 tensors of 64 x 64", SMALL, 1.2),
]
ETA, MU = 0.01, 0.9


class PlainFormula:
    """The method's formula as one writes it down, line by line, with torch's own norms and powers."""

    def __init__(self, params: Sequence[Tensor], p: float) -> None:
        self.params, self.p, self.q = params, p, p / (p - 1)
        self.momenta = [torch.zeros_like(w) for w in params]
        self.duals = [w.detach().sign() * w.detach().abs() ** (p - 1) for w in params]

    @torch.no_grad()
    def step(self) -> None:
        """One step."""
        for w, m, v in zip(self.params, self.momenta, self.duals, strict=True):
            m.mul_(MU).add_(w.grad)
            d = w.grad + MU * m
            u = d / torch.linalg.vector_norm(d, self.q, dim=1, keepdim=True)
            v.mul_(1 - ETA).sub_(ETA * u)
            v.div_(torch.linalg.vector_norm(v, self.q, dim=1, keepdim=True))
            w.copy_(v.sign() * v.abs() ** (1 / (self.p - 1)))


def contenders(shapes: Sequence[tuple[int, int]], p: float) -> dict[str, Callable[[], object]]:
    """A step of each, on weights of its own."""

    def weights() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        return params

    common = {"lr": ETA, "momentum": MU, "nesterov": True}
    return {
        "torch SGD, foreach": torch.optim.SGD(weights(), foreach=True, **common).step,
        "plain formula": PlainFormula(weights(), p).step,
        "LpSGD": lp.LpSGD(weights(), p=p, **common).step,
        "LpSGD, tensor operations": lp.LpSGD(weights(), p=p, foreach=False, **common).step,
    }


def measure(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of a step."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for turn in range(rounds + 2):
        for name in order.sample(list(steps), len(steps)):
            start = time.perf_counter()
            steps[name]()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case, shapes, p in CASES:
        medians = measure(contenders(shapes, p), options.rounds)
        count = sum(a * b for a, b in shapes)
        for name, seconds in medians.items():
            rows.append(
                {
                    "weights": case,
                    "p": p,
                    "contender": name,
                    "ms": round(1e3 * seconds, 4),
                    "ns_per_weight": round(1e9 * seconds / count, 3),
                    "against_sgd": round(seconds / medians["torch SGD, foreach"], 2),
                    "plain_formula_over_it": round(medians["plain formula"] / seconds, 2),
                }
            )
            show(rows[-1])
    save(options.out, rounds=options.rounds, threads=options.threads, rows=rows)


if __name__ == "__main__":
    main()
