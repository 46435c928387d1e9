"""The accuracy of networks trained with masks, and of the same trained with layers that hold only their connections.

Digits, a perceptron 64-256-256-10 without batch norm, float32, 90 % of the hidden connections gone at the end; pairs
that start from the same weights and see the same batches. In float64 the two are the same to the last decision
(tests/topology/test_sparse_and_masked.py); in float32 sums are rounded in another order, which later changes which
connections are chosen. What remains to be seen is whether that matters.

    OMP_NUM_THREADS=1 python benchmarks/masked_and_sparse.py --out results/masked-and-sparse.json

writes a table to results/masked-and-sparse.md, too.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from reporting import command_line, save, show
from torch import nn
from torch.optim.optimizer import Optimizer

import lpsphere as lp
from lpsphere.data import load
from lpsphere.sparse import SparseLinear

SPARSITY, EPOCHS, BATCH = 0.9, 30, 64


def lpsgd(model: nn.Module) -> Optimizer:
    """On spheres of p = 1.15."""
    return lp.LpSGD(lp.param_groups(model, p=1.15, lr=0.01, other_lr=0.1, radius="init"), momentum=0.9, nesterov=True)


def sgd(model: nn.Module) -> Optimizer:
    """With weight decay."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


METHODS: dict[str, tuple[type[lp.Topology], Callable[[nn.Module], Optimizer]]] = {
    "semi-pruning": (lp.SemiPruning, lpsgd),
    "set": (lp.SET, sgd),
    "rigl": (lp.RigL, sgd),
}


def pair(seed: int) -> dict[str, nn.Sequential]:
    """Two networks of the same weights, of which none is missing yet."""
    torch.manual_seed(seed)
    masked = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    sparse = copy.deepcopy(masked)
    for place in (0, 2):
        linear = masked[place]
        assert isinstance(linear, nn.Linear)
        sparse[place] = SparseLinear.from_dense(linear, torch.ones_like(linear.weight, dtype=torch.bool))
    return {"masked": masked, "sparse": sparse}


def measure(method: str, seeds: int) -> dict[str, Any]:
    """Test accuracies of both, a seed at a time."""
    data = load("digits")
    topology_of, optimizer_of = METHODS[method]
    steps = EPOCHS * (len(data.x_train) // BATCH)
    accuracies: dict[str, list[float]] = {"masked": [], "sparse": []}
    for seed in range(seeds):
        for kind, model in pair(seed).items():
            optimizer = optimizer_of(model)
            topology = topology_of(model, optimizer, sparsity=SPARSITY, total_steps=steps, seed=seed)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            generator = torch.Generator().manual_seed(seed)
            for step in range(steps):
                if step % (steps // EPOCHS) == 0:
                    order = torch.randperm(len(data.x_train), generator=generator)
                rows = order[step % (steps // EPOCHS) * BATCH :][:BATCH]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
                optimizer.step()
                schedule.step()
            if abs(topology.sparsity - SPARSITY) > 1e-4:
                raise RuntimeError(f"{method} ended at sparsity {topology.sparsity}")
            with torch.no_grad():
                right = (model(data.x_test).argmax(1) == data.y_test).double().mean().item()
            accuracies[kind].append(round(right, 6))
    means = {kind: statistics.mean(found) for kind, found in accuracies.items()}
    return {
        "method": method,
        "masked": accuracies["masked"],
        "sparse": accuracies["sparse"],
        "masked_mean": round(means["masked"], 6),
        "sparse_mean": round(means["sparse"], 6),
        "masked_sd": round(statistics.stdev(accuracies["masked"]), 6),
        "sparse_sd": round(statistics.stdev(accuracies["sparse"]), 6),
    }


def readable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line a method."""
    return [
        {"method": row["method"]}
        | {kind: f"{row[f'{kind}_mean']:.4f} ± {row[f'{kind}_sd']:.4f}" for kind in ("masked", "sparse")}
        for row in rows
    ]


def main() -> None:
    """Compute and report."""
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for method in METHODS:
        rows.append(measure(method, options.seeds))
        show(rows[-1])
    save(options.out, rows=rows, table=readable(rows))


if __name__ == "__main__":
    main()
