"""The memory that training takes, dense and sparse: peaks of processes of their own.

Each case trains a perceptron with ReLU in a new process, with LpSGD at p = 1.15 and momentum where it is sparse and
with torch.optim.SGD with momentum where it is dense, for some steps, each with its zero_grad, forward, loss, backward
and optimizer's step; topology methods update after the second step and the last but one. All layers but the output
layer are sparse. What is reported is the peak of the resident memory (ru_maxrss) less what the process had when
everything was imported and some steps of a tiny network had loaded and compiled what it needs: weights, gradients,
optimizer state, activations, construction and topology updates included.

    python benchmarks/memory.py --out results/memory.json

writes a table to results/memory.md, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from reporting import command_line, save, show
from torch import nn

import lpsphere as lp
from lpsphere.sparse import SparseLinear

BATCH, CLASSES, STEPS = 128, 10, 6
METHODS = ("SET", "RigL", "Static", "SemiPruning")
CASES: list[tuple[str, int, int, str, float]] = [  # name, width, sparse layers, method, sparsity
    ("three layers of 4096", 4096, 3, "dense", 0.0),
    *(("three layers of 4096", 4096, 3, method, 0.99) for method in METHODS),
    *(("a layer of 65536", 65536, 1, method, 0.999) for method in METHODS if method != "Static"),
]
"""SemiPruning starts with twice the connections, at sparsity 0.98 and 0.998; the others have as many all the time."""


def network(width: int, layers: int, sparsity: float) -> nn.Sequential:
    """Layers as wide as their input, and an output layer."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [
            SparseLinear(width, width, sparsity=sparsity) if sparsity else nn.Linear(width, width),
            nn.ReLU(),
        ]
    head = SparseLinear(width, CLASSES, sparsity=0.0) if sparsity else nn.Linear(width, CLASSES)
    return nn.Sequential(*modules, head)


def train(width: int, layers: int, method: str, sparsity: float) -> tuple[list[float], int]:
    """Seconds of every step, and how often the topology was updated."""
    torch.manual_seed(0)
    start = 1 - 2 * (1 - sparsity) if method == "SemiPruning" else sparsity
    model = network(width, layers, start)
    topology = None
    if method == "dense":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = lp.LpSGD(lp.param_groups(model, p=1.15, lr=0.01, other_lr=0.01, radius="init"), momentum=0.9)
    if method in ("SET", "RigL", "SemiPruning"):
        topology = getattr(lp, method)(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=STEPS,
            begin=1.9 / STEPS,
            end=(STEPS - 1) / STEPS,
            every=3,
            initial_sparsity="keep",
        )
    elif method == "Static":
        topology = lp.Static(model, optimizer, sparsity=sparsity, total_steps=STEPS, initial_sparsity="keep")
    x, labels = torch.randn(BATCH, width), torch.randint(CLASSES, (BATCH,))
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    if topology is not None and abs(topology.sparsity - sparsity) > 1e-3 * (1 - sparsity):
        raise RuntimeError(f"{method} ended at sparsity {topology.sparsity}")
    return seconds, 0 if topology is None else len(topology.events)


def measure(width: int, layers: int, method: str, sparsity: float) -> dict[str, object]:
    """Train in this process; what it took."""
    warnings.simplefilter("ignore")
    train(100, layers, method, 0.9 if sparsity else 0.0)
    before = _peak()
    seconds, updates = train(width, layers, method, sparsity)
    plain = [s for i, s in enumerate(seconds) if i not in (0, 1, STEPS - 2)]
    with_update = [seconds[i] for i in (1, STEPS - 2)] if updates else []
    return {
        "peak_mb": round((_peak() - before) / 1e6, 1),
        "updates": updates,
        "ms_of_a_step": round(1e3 * statistics.median(plain), 1),
        "ms_of_a_step_with_update": round(1e3 * max(with_update), 1) if with_update else None,
    }


def _peak() -> int:
    """Bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_a_process(arguments: list[str], threads: int) -> dict[str, Any]:
    """What `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def readable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line a network and method."""
    return [
        {
            "network": row["network"],
            "method": row["method"],
            "sparsity": f"{100 * row['sparsity']:g}%",
            "dense weights alone, MB": f"{row['mb_of_dense_weights']:,.0f}",
            "peak, MB": f"{row['peak_mb']:,.0f}",
            "of dense training's": f"{100 * row['share_of_dense']:.1f}%" if "share_of_dense" in row else "-",
        }
        for row in rows
    ]


def main() -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[4096, 65536], help="the cases of these widths alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure is not None:
        width, layers, method, sparsity = options.measure
        print(json.dumps(measure(int(width), int(layers), method, float(sparsity))))
        return
    rows: list[dict[str, Any]] = []
    for name, width, layers, method, sparsity in CASES:
        if width not in options.widths:
            continue
        found = in_a_process([str(width), str(layers), method, str(sparsity)], options.threads)
        row = {"network": name, "method": method, "sparsity": sparsity, **found}
        dense = next((r["peak_mb"] for r in rows if r["network"] == name and r["method"] == "dense"), None)
        if method != "dense" and dense is not None:
            row["share_of_dense"] = round(row["peak_mb"] / dense, 4)
        row["mb_of_dense_weights"] = round(4e-6 * width * width * layers, 1)
        rows.append(row)
        show(row)
    save(options.out, packages=("numba",), table=readable(rows), threads=options.threads, batch=BATCH, rows=rows)


if __name__ == "__main__":
    main()
