"""Reading a run's folder: what was asked for, how it went, what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import yaml
from numpy.typing import NDArray

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder, read once.

    Attributes:
        folder: The folder that was read.
        config: What `config.yaml` holds; empty if there is no such file.
        epochs: One record an epoch, in order.
        updates: One record a topology update, in order; empty for a dense or static run.
        summary: What `summary.json` holds; None while the run is not finished.
        model_path: The trained weights, `model.safetensors`; None if they are not there yet.
    """

    folder: Path
    config: Record
    epochs: tuple[Record, ...]
    updates: tuple[Record, ...]
    summary: Record | None
    model_path: Path | None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and wrote its summary."""
        return self.summary is not None

    @property
    def regression(self) -> bool:
        """Whether the run is scored by R² rather than by accuracy."""
        task = self.get("task")
        if task is not None:
            return bool(task == "regression")
        return any("test_r2" in record or "train_r2" in record for record in self.epochs)

    @property
    def layers(self) -> tuple[Record, ...]:
        """One record for each sparse or constrained layer, in the network's order."""
        layers = (self.summary or {}).get("layers") or ()
        return tuple(layer for layer in layers if isinstance(layer, Mapping))

    def get(self, *keys: str) -> Any:
        """The first of `keys` with a value, from the summary before the configuration; else None."""
        for key in keys:
            for source in (self.summary or {}, self.config):
                if source.get(key) is not None:
                    return source[key]
        return None

    def target_sparsity(self) -> float | None:
        """The sparsity the run was to reach, as a fraction; None if it says none."""
        return number((self.summary or {}).get("target_sparsity")) or number(self.config.get("sparsity"))


def number(value: Any) -> float | None:
    """`value` as a finite float; None if it is missing, NaN, infinite, or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_run(folder: Path) -> Run:
    """Read the folder of a run, finished or not.

    Args:
        folder: A folder with `history.jsonl` and, where the run got that far, `config.yaml`,
            `summary.json` and `model.safetensors`.

    Returns:
        The run. Where a resumed run repeats an epoch or an update, the later record counts.

    Raises:
        FileNotFoundError: No such folder, or no `history.jsonl` in it.
        ValueError: A file cannot be read as what it is, or the history holds no epoch.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder at {str(folder)!r}: give the folder of a run, the one that `lpsphere train --out` wrote"
        )
    history = folder / "history.jsonl"
    if not history.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no history.jsonl: give the folder of a run, the one that"
            " `lpsphere train --out` wrote, after its first epoch"
        )
    records = _read_history(history)
    epochs = _latest(records, "epoch", "epoch")
    if not epochs:
        raise ValueError(f"{str(history)!r} holds no finished epoch: wait for the run's first epoch, then try again")
    model = folder / "model.safetensors"
    return Run(
        folder=folder,
        config=_read_mapping(folder / "config.yaml") or {},
        epochs=epochs,
        updates=_latest(records, "update", "step"),
        summary=_read_mapping(folder / "summary.json"),
        model_path=model if model.is_file() else None,
    )


def magnitudes(run: Run) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The magnitudes |w| > 0 of each layer in the summary, layer by layer.

    Without a summary: of each tensor with two or more dimensions. Layers without a tensor of that name, and
    types that numpy does not know (other than bfloat16), are left out.

    Raises:
        ValueError: `model.safetensors` is damaged.
    """
    if run.model_path is None:
        return
    wanted = [str(layer.get("layer")) for layer in run.layers]
    try:
        with safetensors.safe_open(run.model_path, framework="np") as tensors:
            names = list(tensors.keys())
            shapes = {name: tensors.get_slice(name).get_shape() for name in names}
            for name in wanted or [name for name in names if len(shapes[name]) > 1]:
                if name not in shapes:
                    continue
                try:
                    values = tensors.get_tensor(name)
                except TypeError:
                    values = _read_bfloat16(run.model_path, name)
                values = np.abs(values.astype(np.float64, copy=False).ravel())
                yield name, values[np.isfinite(values) & (values > 0)]
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(run.model_path)!r} is not a readable safetensors file: {error}") from error


def _read_bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """A bfloat16 tensor, which numpy lacks, as float32; empty for any other type."""
    for found, tensor in safetensors.deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        if found == name and tensor["dtype"] == "BF16":
            bits = np.frombuffer(tensor["data"], dtype="<u2").astype(np.uint32) << 16
            return bits.view(np.float32)
    return np.empty(0, dtype=np.float32)


def _read_history(path: Path) -> list[Record]:
    lines = path.read_text(encoding="utf-8").split("\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=0)
    records: list[Record] = []
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if i == last:  # the run was stopped while it wrote this line
                break
            raise ValueError(
                f"{str(path)!r}, line {i + 1}, is not JSON ({error}): each line must be one JSON object;"
                " mend or remove that line"
            ) from error
        if not isinstance(record, dict):
            raise ValueError(f"{str(path)!r}, line {i + 1}, is {record!r}: each line must be one JSON object")
        records.append(record)
    return records


def _latest(records: list[Record], kind: str, key: str) -> tuple[Record, ...]:
    """The records of one kind in the order of `key`, the last of each; without `key` they keep their place."""
    found: dict[float, Record] = {}
    for record in records:
        if record.get("kind") == kind:
            position = number(record.get(key))
            found[len(found) + 1 if position is None else position] = record
    return tuple(found[position] for position in sorted(found))


def _read_mapping(path: Path) -> Record | None:
    """A YAML or JSON file that holds one mapping; None if there is no such file."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds {type(content).__name__}: it must hold one mapping of names to values")
    return {str(key): value for key, value in content.items()}
