"""A trained sparse network at work: latency of one sample and of a batch, and what its files weigh and take to load.

Trains the perceptron of the comparison (784-300-100-10 with batch norm on MNIST, ERK densities, the output layer sparse
too; results/compare-mnist.json has the settings), or takes a finished run, and times in evaluation mode, on test rows:

masked      the trained model as it is: dense layers with zeros, batch norm
folded      the same without batch norm, folded into the dense layers
csr         torch CSR matrices, feature-major: W @ h + b, batch norm folded
compacted   what lpsphere.compact makes of the trained model, for that batch

The outputs are checked to be the same. All take their turns in the same run, in another order every round, so that a
noisy machine slows them alike; medians over the rounds are given, and the least, which is what is left where others use
the machine too. Without the files of MNIST the digits that ship with scikit-learn are taken, and the record says so.

    python benchmarks/inference.py --out results/inference.json
"""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reporting import command_line, save, show
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

import lpsphere as lp
from lpsphere.models import MLP
from lpsphere.training import TrainConfig, Trainer
from lpsphere.training.checkpoints import load_model
from lpsphere.training.setup import load_data

SETTINGS = {
    "model": "mlp",
    "hidden": [300, 100],
    "method": "semi-pruning",
    "optimizer": "lpsgd",
    "include_last": True,
    "distribution": "erk",
    "p": 1.15,
    "lr": 0.01,
    "other_lr": 0.2,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "batch_size": 128,
    "device": "cpu",
    "threads": 1,
}
CALLS = {"few": 5, "many": 50}
"""Calls of one measurement: many of a single sample, few of a batch."""


class Csr(nn.Module):
    """The layers of a folded MLP as CSR matrices of torch, between which activations are feature-major."""

    def __init__(self, folded: MLP) -> None:
        super().__init__()
        layers = [*(layer.linear for layer in folded.hidden), folded.head]
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        self.weights = [layer.weight.detach().to_sparse_csr() for layer in layers]
        self.biases = [layer.bias.detach()[:, None] for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, out_features)."""
        h = x.flatten(1).t()
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = (weight @ h).add_(bias)
            h = h.relu_() if i < len(self.weights) - 1 else h
        return h.t()


def folded_copy(model: MLP) -> MLP:
    """The dense network without its batch norms, by torch's own folding."""
    folded = MLP(model.in_features, model.widths, model.out_features, norm=False)
    for new, old in zip(folded.hidden, model.hidden, strict=True):
        new.linear = fuse_linear_bn_eval(old.linear, old.norm) if hasattr(old, "norm") else copy.deepcopy(old.linear)
    folded.head = copy.deepcopy(model.head)
    return folded.eval().requires_grad_(False)


def trained(data: str, epochs: int, sparsity: float, seed: int, run: Path | None) -> tuple[MLP, Any, dict[str, Any]]:
    """The network, its data, and where it comes from."""
    if run is not None:
        config = TrainConfig.load(run / "config.yaml")
        model = load_model(run / "model.safetensors")
        assert isinstance(model, MLP)
        return model.eval().requires_grad_(False), load_data(config), {"run": str(run), **config.to_dict()}
    settings = {**SETTINGS, "data": data, "epochs": epochs, "sparsity": sparsity, "seed": seed}
    try:
        rows = load_data(TrainConfig.from_dict(settings))
    except FileNotFoundError as error:
        print(f"{error}\nThe embedded digits are taken instead: a smaller network, other numbers.", flush=True)
        settings["data"] = "digits"
        rows = load_data(TrainConfig.from_dict(settings))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(TrainConfig.from_dict(settings), Path(folder), data=rows)
        trainer.fit()
        model = trainer.plain_model
    assert isinstance(model, MLP)
    return model.eval().requires_grad_(False), rows, settings


def race(contenders: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, tuple[float, float]]:
    """Median and least seconds of one call of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for turn in range(rounds + 3):
        for name in order.sample(list(contenders), len(contenders)):
            contender = contenders[name]
            start = time.perf_counter()
            for _ in range(calls):
                contender()
            if turn >= 3:  # the first are to warm up
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: (statistics.median(taken), min(taken)) for name, taken in seconds.items()}


@torch.no_grad()
def latencies(model: MLP, x: Tensor, rounds: int) -> list[dict[str, object]]:
    """A row for each contender."""
    folded = folded_copy(model)
    compacted = lp.compact(model, x)
    print(compacted.report, flush=True)
    models = {"masked": model, "folded": folded, "csr": Csr(folded), "compacted": compacted.model}
    expected = model(x)
    for other in models.values():
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-4)
    calls = CALLS["many"] if len(x) < 16 else CALLS["few"]
    times = race({name: lambda m=m: m(x) for name, m in models.items()}, rounds, calls)  # type: ignore[misc]
    rows: list[dict[str, object]] = []
    for name in models:
        row: dict[str, object] = {"batch": len(x), "contender": name}
        for i, kind in enumerate(("median", "least")):
            own = times[name][i]
            row[f"{kind}_us"] = round(1e6 * own, 2)
            row[f"{kind}_faster_than_masked"] = round(times["masked"][i] / own, 2)
            row[f"{kind}_faster_than_folded"] = round(times["folded"][i] / own, 2)
        rows.append(row)
    return rows


def files(model: MLP, x: Tensor, rounds: int) -> list[dict[str, object]]:
    """A row for each file."""
    compacted = lp.compact(model, x).model
    with tempfile.TemporaryDirectory() as folder:
        written = {
            "dense safetensors": lp.export(model, Path(folder) / "dense.safetensors"),
            "sparse archive, masked": lp.export(model, Path(folder) / "masked.sparse.safetensors"),
            "sparse archive, compacted": lp.export(compacted, Path(folder) / "compacted.sparse.safetensors"),
        }
        loads = {name: lambda path=file.path: lp.load_export(path) for name, file in written.items()}  # type: ignore[misc]
        times = race(loads, rounds, 1)
    dense = written["dense safetensors"].bytes
    return [
        {
            "file": name,
            "bytes": file.bytes,
            "share_of_dense": round(file.bytes / dense, 4),
            "median_load_ms": round(1e3 * times[name][0], 3),
            "least_load_ms": round(1e3 * times[name][1], 3),
        }
        for name, file in written.items()
    ]


@torch.no_grad()
def accuracy(model: nn.Module, data: Any) -> float:
    """On the test rows."""
    return float((model(data.x_test).argmax(1) == data.y_test).double().mean())


def main() -> None:
    """Train, time and report."""
    parser = command_line(__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder of a finished run of lpsphere train to take instead")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model, data, settings = trained(options.data, options.epochs, options.sparsity, options.seed, options.run)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for batch in options.batches:
        rows += latencies(model, data.x_test[:batch], options.rounds)
    stored = files(model, data.x_test[:128], options.rounds)
    for row in (*rows, *stored):
        show(row)
    weights = [layer.weight for layer in (*(hidden.linear for hidden in model.hidden), model.head)]
    save(
        options.out,
        packages=("numba",),
        settings=settings,
        threads=options.threads,
        rounds=options.rounds,
        sparsity=round(1 - sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights), 4),
        test_accuracy=accuracy(model, data),
        test_accuracy_compacted=accuracy(lp.compact(model, data.x_test[:128]).model, data),
        latency=rows,
        files=stored,
    )


if __name__ == "__main__":
    main()
