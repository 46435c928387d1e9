"""Does LpSGD end at stationary points of the constrained problem? Beside SGD followed by projection.

The scikit-learn digits in float64; MLP 64-64-64-10 without normalisation and biases, all weights on spheres of their
initial norms (radius "init"): some epochs with batches of 64, then full batches with a decaying learning rate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.data import Dataset, load
from lpsphere.geometry import lp_norm, project
from lpsphere.groups import param_groups
from lpsphere.metrics import Stationarity, stationarity
from lpsphere.optim import LpSGD
from lpsphere.text import markdown
from lpsphere.training.files import replace_text
from lpsphere.training.record import versions

__all__ = ["SETTINGS", "Setting", "readable", "study_stationarity"]

_WIDTH, _BATCH, _BATCHES = 64, 64, 1000
_ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "ReLU": nn.ReLU}


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        method: "LpSGD, dual form", "LpSGD, primal form" or "SGD, then projection".
        activation: "GELU" or "ReLU".
        p: Exponent of the spheres.
        lr: Learning rate of the weights at the start of the full batches, a tenth of it at their end.
    """

    method: str
    activation: str
    p: float
    lr: float


SETTINGS = (
    Setting("LpSGD, dual form", "GELU", 1.5, 0.025),
    Setting("SGD, then projection", "GELU", 1.5, 0.1),
    Setting("LpSGD, dual form", "GELU", 2.0, 0.025),
    Setting("SGD, then projection", "GELU", 2.0, 0.1),
    Setting("LpSGD, dual form", "ReLU", 1.5, 0.025),
    Setting("LpSGD, primal form", "GELU", 1.5, 0.025),
)
"""The trainings of the study."""

_COLUMNS = ("method", "activation", "p", "layers", "loss")


def study_stationarity(
    path: Path, *, steps: int, seed: int = 0, command: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Train every setting, or what of them is missing in ``path``, and tabulate beside the file.

    Args:
        path: JSON file of the results, written after every training; the table (.md) has its name.
        steps: Full-batch steps.
        seed: Training seed.
        command: The command line, for the record.
        tell: Called with a line after every training.

    Returns:
        The content of the file; its table has a row for each setting.

    Raises:
        ValueError: If the file holds trainings of another length or seed.
    """
    given = {"steps": steps, "seed": seed}
    content: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split()),
        "command": command,
        "versions": versions(),
        "settings": given,
        "runs": [],
    }
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["settings"] != given:
            raise ValueError(f"{path} holds runs of {saved['settings']}: give the same, or another --out; got {given}")
        content["runs"] = saved["runs"]
    data = load("digits")
    for setting in SETTINGS:
        key = asdict(setting)
        if any(key.items() <= run.items() for run in content["runs"]):
            continue
        content["runs"].append(key | _train(setting, data, steps, seed))
        _write(path, content)
        worst = max(layer["relative_residual"] for layer in content["runs"][-1]["layers"])
        tell(f"{setting.method}, {setting.activation}, p = {setting.p:g}: largest relative residual {worst:.1e}")
    content["table"] = [{name: run[name] for name in _COLUMNS} for run in content["runs"]]
    _write(path, content)
    text = markdown(readable(content["table"]))
    replace_text(path.with_suffix(".md"), text)
    return content


def readable(table: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The table with readable headings and rounded figures: the relative residual of each layer's worst neuron."""
    return [
        {
            "method": row["method"],
            "activation": row["activation"],
            "p": f"{row['p']:g}",
            **{f"layer {i}": f"{layer['relative_residual']:.1e}" for i, layer in enumerate(row["layers"], start=1)},
            "training loss": f"{row['loss']:.4f}",
        }
        for row in table
    ]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    replace_text(path, text)


def _network(activation: str, data: Dataset) -> nn.Sequential:
    act = _ACTIVATIONS[activation]
    widths = (data.input_shape[0], _WIDTH, _WIDTH, data.outputs)
    first, second, last = (nn.Linear(n, m, bias=False) for n, m in pairwise(widths))
    return nn.Sequential(first, act(), second, act(), last).double()


def _train(setting: Setting, data: Dataset, steps: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)  # the tensors are small
    torch.manual_seed(seed)
    started = time.perf_counter()
    model = _network(setting.activation, data)
    x, y = data.x_train.double(), data.y_train
    groups = param_groups(model, setting.p, lr=0.02, other_lr=0.02, radius="init", include_last=True)
    constrained = groups[0]["params"]
    spheres = LpSGD(groups, momentum=0.9, nesterov=True, form="primal" if "primal" in setting.method else "dual")
    on_spheres = setting.method.startswith("LpSGD")
    optimizer = spheres if on_spheres else torch.optim.SGD(constrained, lr=0.1, momentum=0.9, nesterov=True)
    radii = [lp_norm(weight.detach(), setting.p, keepdim=True) for weight in constrained]

    def loss_of(rows: Tensor | slice) -> Tensor:
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    def step(rows: Tensor | slice) -> None:
        loss_of(rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if not on_spheres:
            with torch.no_grad():
                for weight, radius in zip(constrained, radii, strict=True):
                    weight.copy_(radius * project(weight, setting.p))

    for _ in range(_BATCHES):
        step(torch.randint(0, len(x), (_BATCH,)))
    for group in optimizer.param_groups:
        group["momentum"], group["nesterov"] = 0.0, False
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = setting.lr * 0.1 ** (i / steps)
        step(slice(None))
    loss = loss_of(slice(None))
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": float(loss.detach()),
        "layers": _layers(stationarity(model, spheres)),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _layers(found: Stationarity) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.layer,
            "relative_residual": float(layer.relative_residual.max()),
            "median_relative_residual": float(layer.relative_residual.median()),
            "alignment": float(layer.alignment.abs().min()),
            "positive_multipliers": float((layer.multiplier > 0).double().mean()),
        }
        for layer in found.layers
    ]
