"""Checkpoints of a run, and the finished network: complete on disk or not there."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lpsphere.files import replace_file
from lpsphere.models import build
from lpsphere.training.files import remove_folder, replace_folder

__all__ = ["load_model", "newest_checkpoint", "precision_so_far", "save_checkpoint", "save_model"]

_KEEP = 2
_PRECISION = "mixed_precision"


def save_checkpoint(folder: Path, step: int, accelerator: Accelerator) -> None:
    """Save everything that training needs to continue; the newest two are kept. For the main process alone."""

    def write(temporary: Path) -> None:
        accelerator.save_state(str(temporary))
        (temporary / _PRECISION).write_text(accelerator.mixed_precision, encoding="utf-8")

    replace_folder(folder / "checkpoints" / f"step-{step:09d}", write)
    for old in _checkpoints(folder)[:-_KEEP]:
        remove_folder(old)


def newest_checkpoint(folder: Path, model: nn.Module) -> Path | None:
    """The newest checkpoint of a run's folder, or None.

    Raises:
        ValueError: If it is another network's.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    check_weights(found[-1] / "model.safetensors", model)
    return found[-1]


def precision_so_far(folder: Path) -> str | None:
    """The mixed precision of a run until its newest checkpoint; None if there is none or it does not say."""
    files = [path / _PRECISION for path in _checkpoints(folder)[-1:]]
    return next((file.read_text(encoding="utf-8") for file in files if file.exists()), None)


def save_model(path: Path, model: nn.Module) -> None:
    """Save a network's plain state_dict, with its configuration beside it."""
    metadata = {"lpsphere": json.dumps({"version": version("lpsphere"), "model": model.config})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_model(path: Path) -> nn.Module:
    """The network that `save_model` saved, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or does not hold the network it describes.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: the run is not finished; continue it with lpsphere train --resume"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): train again, or restore the file") from error
    if "lpsphere" not in metadata:
        raise ValueError(f"{path} does not say which network it holds: it was not written by lpsphere train")
    model = build(json.loads(metadata["lpsphere"])["model"])
    check_weights(path, model)
    model.load_state_dict(load_file(path))
    return model


def check_weights(path: Path, model: nn.Module) -> None:
    """See that a file holds the tensors of this network.

    Raises:
        ValueError: If names or shapes differ; the message lists some.
    """
    with safe_open(path, framework="pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if saved == ours:
        return
    lines = [
        f"{name}: {saved.get(name, 'absent')} there, {ours.get(name, 'absent')} here"
        for name in sorted(set(saved) | set(ours))
        if saved.get(name) != ours.get(name)
    ]
    raise ValueError(
        f"{path} is of another network: {'; '.join(lines[:4])}{'; ...' if len(lines) > 4 else ''}. Use the settings it "
        "was trained with (config.yaml beside it), or another --out"
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*"))
