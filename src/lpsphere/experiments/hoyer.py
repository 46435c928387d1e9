"""Does trained networks' Hoyer sparsity follow the expectation from p? One network trained for each p.

Dense networks (no connection is taken away) with every Linear and Conv weight on unit Lp spheres, the output layer's
too. Fashion-MNIST with the convolutional network of the paper's study and the paper's augmentation, DNA with a
multilayer perceptron, MNIST with the paper's wide ResNet; batch normalisation in all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from lpsphere.experiments.hoyer_plots import layer_panels, neuron_against_p
from lpsphere.experiments.plots import save_figure
from lpsphere.experiments.runs import Run, Runs
from lpsphere.neurons import NeuronWeight, select
from lpsphere.text import markdown
from lpsphere.theory import expected_hoyer, fit_shape, hoyer, hoyer_std, weak_fraction
from lpsphere.training import TrainConfig, Trainer
from lpsphere.training.files import replace_text

__all__ = ["CONDITIONS", "EXPONENTS", "Condition", "layer_table", "published_points", "readable", "study_hoyer"]

EXPONENTS = (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.2, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
"""The p of the study: those of the paper's figure, and 1.9."""

_WEAK = 0.2  # the threshold of the weak fraction


@dataclass(frozen=True)
class Condition:
    """Data and network on which the expectation is put to the test.

    Attributes:
        title: For pictures.
        config: The training, but for p and seed.
        published: Whether the paper published measurements of it.
        exponents: The p, a network for each.
    """

    title: str
    config: TrainConfig
    published: bool = False
    exponents: tuple[float, ...] = EXPONENTS


_COMMON = TrainConfig(
    method="dense", constrain_last=True, lr=0.02, other_lr=0.1, batch_size=128, device="cpu", threads=1
)

CONDITIONS = {
    "fashion-mnist": Condition(
        "CNN on Fashion-MNIST",
        replace(
            _COMMON,
            data="fashion-mnist",
            model="cnn",
            batch_size=512,
            epochs=8,
            lr=0.032,
            crop=4,
            flip=True,
            cutout=6,
            mixed_precision="bf16",
        ),
        published=True,
    ),
    "dna": Condition("MLP 180-256-256-3 on DNA", replace(_COMMON, data="dna", model="mlp", epochs=40, batch_size=32)),
    "mnist": Condition(
        "Wide ResNet on MNIST",
        replace(
            _COMMON,
            data="mnist",
            model="wide_resnet",
            blocks=(1, 2, 2),
            epochs=2,
            lr=0.03,
            mixed_precision="bf16",
        ),
        exponents=(1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0),
    ),
}
"""The conditions of the study, by name."""


def published_points() -> list[dict[float, float]]:
    """What the authors measured: Hoyer's sparsity by p, for each layer of the network on Fashion-MNIST."""
    text = files("lpsphere.experiments").joinpath("hoyer_published.json").read_text(encoding="utf-8")
    return [{float(p): float(h) for p, h in layer["measured"]} for layer in json.loads(text)["layers"]]


def study_hoyer(
    path: Path,
    condition: Condition,
    *,
    seed: int = 0,
    processes: int = 1,
    command: str,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Train a network for each p, or what of them is missing in ``path``; draw and tabulate beside the file.

    Args:
        path: JSON file of the results, written after every run; the pictures of the layers (.png) and of one neuron
            (-neuron.png) and the table (.md) have its name.
        condition: Data and network.
        seed: Training seed, the same for every p.
        processes: How many networks train side by side, a thread each.
        command: The command line, for the record.
        tell: Called with a line after every run.

    Returns:
        The content of the file; its table has a row for each layer.
    """
    runs_of = [
        Run({"p": p, "seed": seed}, replace(condition.config, p=p, seed=seed)) for p in sorted(condition.exponents)
    ]
    with Runs(path, __doc__, condition.config, command, tell, processes, measure=measure_layers) as runs:
        results = runs.results(runs_of)
        published = published_points() if condition.published else []
        table = layer_table(results, published)
        content = runs.write(table)
    text = markdown(readable(table))
    replace_text(path.with_suffix(".md"), text)
    save_figure(path.with_suffix(".png"), layer_panels(results, condition.title, published))
    save_figure(path.with_name(f"{path.stem}-neuron.png"), neuron_against_p(results, condition.title))
    return content


@torch.no_grad()
def measure_layers(trainer: Trainer) -> dict[str, Any]:
    """Hoyer's sparsity of every layer of a trained network, and how its weights fit the gamma hypothesis.

    Returns:
        ``layers``, a dict for each, and ``neuron``, the weights of the first neuron of the first layer.
    """
    p = float(trainer.config.p)
    selected = select(trainer.plain_model, include_last=True)
    first = selected[0].layout.to_rows(selected[0].weight)[0]
    return {
        "layers": [_measure(neuron, p) for neuron in selected],
        "neuron": [float(f"{weight:.6g}") for weight in first.tolist()],
    }


def _measure(neuron: NeuronWeight, p: float) -> dict[str, Any]:
    rows = neuron.layout.to_rows(neuron.weight.double())
    sparsities = hoyer(rows)
    fit = fit_shape(rows, p)
    magnitudes = rows.abs()
    weak = magnitudes < _WEAK * magnitudes.mean(-1, keepdim=True)
    values = {
        "measured": float(sparsities.mean()),
        "measured_sd": float(sparsities.std()),
        "expected": float(expected_hoyer(p, neuron.fan_in)),
        "expected_sd": float(hoyer_std(p, neuron.fan_in)),
        "weak": float(weak.double().mean()),
        "weak_expected": float(weak_fraction(p, _WEAK)),
        "shape": fit.shape,
        "shape_low": fit.low,
        "shape_high": fit.high,
        "distance": fit.distance,
        "p_value": fit.p_value,
    }
    rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
    return {"layer": neuron.name, "neurons": neuron.neurons, "fan_in": neuron.fan_in, **rounded}


def layer_table(
    results: list[dict[str, Any]], published: list[dict[float, float]] | None = None
) -> list[dict[str, Any]]:
    r"""How far each layer is from the expectation, over all p, and from what was published, over the p in common.

    Args:
        results: The runs.
        published: By p, for each layer; empty or None: nothing was published.

    Returns:
        A row for each layer: fan-in; mean and largest \|measured - expected\|; rank correlation of the two; median of
        the fitted shape and of the distance from its law; with published figures also the mean deviations of both
        networks over the published p and the rank correlation of our measurements with theirs.
    """
    table = []
    for i, first in enumerate(results[0]["layers"]):
        layers = {run["p"]: run["layers"][i] for run in results}
        measured = np.array([layer["measured"] for layer in layers.values()])
        expected = np.array([layer["expected"] for layer in layers.values()])
        deviation = np.abs(measured - expected)
        row: dict[str, Any] = {
            "layer": first["layer"],
            "neurons": first["neurons"],
            "fan_in": first["fan_in"],
            "deviation": float(deviation.mean()),
            "largest_deviation": float(deviation.max()),
            "rank_correlation": float(spearmanr(measured, expected).statistic),
            "shape": float(np.median([layer["shape"] for layer in layers.values()])),
            "distance": float(np.median([layer["distance"] for layer in layers.values()])),
        }
        if published:
            row |= _against_published(layers, published[i])
        table.append(row)
    return table


def _against_published(layers: dict[float, dict[str, Any]], theirs: dict[float, float]) -> dict[str, float]:
    common = [p for p in theirs if p in layers]
    ours = [layers[p]["measured"] for p in common]
    expected = np.array([layers[p]["expected"] for p in common])
    published = [theirs[p] for p in common]
    return {
        "deviation_at_published_p": float(np.abs(np.array(ours) - expected).mean()),
        "published_deviation": float(np.abs(np.array(published) - expected).mean()),
        "rank_correlation_with_published": float(spearmanr(ours, published).statistic),
    }


_HEADINGS = {
    "layer": "layer",
    "neurons": "neurons",
    "fan_in": "fan-in",
    "deviation": "mean \\|measured − expected\\|",
    "largest_deviation": "largest",
    "rank_correlation": "rank correlation with the expectation",
    "shape": "fitted a (median)",
    "distance": "KS distance (median)",
    "deviation_at_published_p": "mean deviation at the published p",
    "published_deviation": "the authors' own",
    "rank_correlation_with_published": "rank correlation with theirs",
}


def readable(table: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The table with readable headings and rounded figures."""
    return [{_HEADINGS[name]: _cell(value) for name, value in row.items()} for row in table]


def _cell(value: float | int | str) -> str:
    if isinstance(value, str):
        return value.removesuffix(".weight")
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
