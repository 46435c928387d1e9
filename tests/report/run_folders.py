"""Synthetic folders of runs for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

SHAPES = {"layer1.weight": (256, 64), "layer2.weight": (256, 256), "layer3.weight": (10, 256)}
DENSITIES = {"layer1.weight": 0.18, "layer2.weight": 0.079222, "layer3.weight": 1.0}
COMMAND = "lpsphere train --data digits --method semi-pruning --p 1.15 --sparsity 0.9 --epochs 20 --out runs/digits"
STEPS, EPOCHS = 420, 20


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def weights(seed: int = 0, k: float = 0.06) -> dict[str, np.ndarray]:
    """Rows on the unit Lp sphere for p = 1.15, whose squares are Gamma(k) before the mask."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        w = np.sqrt(rng.gamma(k * 3, size=shape)) * rng.choice([-1.0, 1.0], size=shape)
        w *= rng.random(shape) < DENSITIES[name]
        norms = np.maximum((np.abs(w) ** 1.15).sum(1, keepdims=True) ** (1 / 1.15), 1e-30)
        found[name] = (w / norms).astype(np.float32)
    return found


def history(*, regression: bool = False, updates: bool = True, epochs: int = EPOCHS) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    score = "r2" if regression else "accuracy"
    records: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        step, done = epoch * STEPS // EPOCHS, epoch / EPOCHS
        noise = 0.004 * rng.standard_normal()
        records.append(
            {
                "kind": "epoch",
                "epoch": epoch,
                "step": step,
                "seconds": 0.45 * epoch,
                "lr": 0.01 * (1 - done),
                "other_lr": 0.2 * (1 - done),
                "train_loss": 1.6 * np.exp(-6 * done) + 0.015,
                f"train_{score}": 0.999 - 0.35 * np.exp(-7 * done),
                "test_loss": 1.5 * np.exp(-6 * done) + 0.0674 + abs(noise) * (1 - done),
                f"test_{score}": 0.9864 - 0.33 * np.exp(-7 * done) + noise * (1 - done),
                "sparsity": sparsity_at(step) if updates else 0.0,
            }
        )
    last = epochs * STEPS // EPOCHS
    records += [_update(step, rng) for step in range(88, 337, 8) if updates and step <= last]
    return sorted(records, key=lambda record: record["step"])


def sparsity_at(step: float) -> float:
    x = min(max((step - 84) / (336 - 84), 0.0), 1.0)
    return 0.9 + (0.2 - 0.9) * (1 - x) ** 3


def _update(step: int, rng: np.random.Generator) -> dict[str, Any]:
    x = (step - 84) / (336 - 84)
    grown = int(9000 * (1 - sparsity_at(step)) * 0.3 * 0.5 * (1 + np.cos(np.pi * x)) + rng.integers(0, 30))
    lost = int(81920 * (sparsity_at(step) - sparsity_at(step - 8)))
    return {
        "kind": "update",
        "step": step,
        "sparsity": sparsity_at(step),
        "threshold": 0.05 + 0.5 * x**2 + 0.01 * rng.standard_normal() ** 2,
        "dropped": {"layer1.weight": (lost + grown) // 4, "layer2.weight": lost + grown - (lost + grown) // 4},
        "regrown": {"layer1.weight": grown // 5, "layer2.weight": grown - grown // 5},
    }


def layers() -> list[dict[str, Any]]:
    rows = []
    for i, (name, (neurons, fan_in)) in enumerate(SHAPES.items()):
        on_sphere = name != "layer3.weight"
        rows.append(
            {
                "layer": name,
                "neurons": neurons,
                "fan_in": fan_in,
                "p": 1.15 if on_sphere else None,
                "density": DENSITIES[name],
                "connections": round(neurons * fan_in * DENSITIES[name]),
                "hoyer": 0.71 - 0.2 * i,
                "hoyer_predicted": 0.66 - 0.17 * i if on_sphere else None,
                "hoyer_full": 0.9 - 0.05 * i,
                "sphere_error": 1.19e-7 if on_sphere else None,
                "dead": 0,
                "single": 3 - i,
            }
        )
    return rows


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "data": "digits",
        "task": "classification",
        "method": "semi-pruning",
        "test_accuracy": 0.9861111,
        "test_loss": 0.07123,
        "sparsity": 0.9006,
        "target_sparsity": 0.9,
        "connections": 8141,
        "selected_weights": 81920,
        "parameters": 86026,
        "epochs": EPOCHS,
        "seconds": 9.13,
        "seed": 0,
        "device": "cpu",
        "versions": {"lpsphere": "0.1.0", "torch": "2.13.0", "numpy": "2.4.0"},
        "command": COMMAND,
        "layers": layers(),
        **changes,
    }


CONFIG = {
    "data": "digits",
    "model": "mlp",
    "method": "semi-pruning",
    "optimizer": "lpsgd",
    "p": 1.15,
    "lr": 0.01,
    "other_lr": 0.2,
    "sparsity": 0.9,
    "epochs": EPOCHS,
    "batch_size": 64,
    "seed": 0,
    "label_column": None,
}


def write_run(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = CONFIG,
    records: list[dict[str, Any]] | None = None,
    result: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    finished: bool = True,
) -> Path:
    """A run's folder; by default of a finished semi-pruning run on digits."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    lines = [json.dumps(record) for record in (history() if records is None else records)]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if finished:
        write_json(folder / "summary.json", dict(summary() if result is None else result))
        save_file(dict(weights() if tensors is None else tensors), folder / "model.safetensors")
    return folder
