"""What a training run is: one flat dataclass, to and from YAML. Reads and writes text; trains nothing."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from lpsphere.topology import METHODS
from lpsphere.training.augmentation import Augmentation
from lpsphere.training.learning_rate import SCHEDULES

__all__ = ["MAY_CHANGE", "TrainConfig", "changes", "value_of"]

MAY_CHANGE = frozenset({"device", "threads", "checkpoint_every", "data_dir", "trackers"})
"""Settings that a run may go on with others of: what it computes stays the same, but for the rounding of a device."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "task": ("classification", "regression"),
    "missing": ("error", "drop", "impute"),
    "model": ("auto", "mlp", "wide_resnet", "cnn"),
    "method": (*METHODS, "dense"),
    "optimizer": ("lpsgd", "sgd", "adamw"),
    "form": ("dual", "primal"),
    "schedule": tuple(SCHEDULES),
    "device": ("auto", "cpu", "cuda"),
    "mixed_precision": ("no", "bf16", "fp16", "auto"),
}


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: An embedded data set, a known one (dna, mushroom, climate, mnist, fashion-mnist, cifar-10,
            tiny-imagenet), a CSV file, a folder of IDX images, or its name in ``data_dir``.
        label_column: The column of a CSV file to predict.
        task: "classification" or "regression".
        missing: What to do with missing values of a CSV file: "error", "drop" the rows, "impute".
        test_fraction: Fraction of the rows that is kept for testing, where the data come without a split; None: 0.25
            (climate: 140 of 540 rows).
        split_seed: Seed of that split, apart from the seed of training.
        data_dir: Folder that holds data sets by name; None: the environment variable LPSPHERE_DATA.
        model: "mlp", "wide_resnet", "cnn" (of the Hoyer study), or "auto": the first for tables, the second for images.
        hidden: Widths of the hidden layers of the MLP.
        norm: Batch normalisation in the MLP and the CNN.
        dropout: Chance of a hidden output of the MLP to be left out in training, in [0, 1).
        blocks: Residual blocks in each stage of the wide ResNet.
        width: Channels of its first stage.
        method: "semi-pruning", "set", "rigl", "snip", "gmp", "static" or "dense".
        sparsity: Target sparsity over the selected weights, in [0, 1).
        include_last: Mask the output layer too.
        constrain_last: Put the output layer on spheres too ("lpsgd").
        initial_sparsity, begin, end, every, regrow, min_fan_in, adaptation, distribution, grow_init, drop_fraction,
            granularity, ranking, batches: As for the method's class, such as `lpsphere.SemiPruning`; None: its default.
        optimizer: "lpsgd", or "sgd" or "adamw" without spheres.
        p: Exponent of the spheres, or "auto": what suits the sparsity.
        first_p: Exponent of the first ``first_layers`` selected weights, in registration order; None: p, as the others.
        first_layers: How many these are.
        radius: Radius of the spheres, a number or "init".
        form: "dual" or "primal" step.
        lr: Peak learning rate: of the weights on spheres for "lpsgd" (in [0, 1]), of everything otherwise. None: 0.01
            for "lpsgd", 0.1 for "sgd", 0.001 for "adamw".
        other_lr: Peak learning rate of everything that is not on a sphere ("lpsgd").
        momentum: Momentum factor (not for "adamw").
        nesterov: Nesterov momentum.
        weight_decay: Weight decay of everything that is not on a sphere.
        schedule: Learning rate over training: "piecewise" (warm-up, decay, fine end), "cosine" or "constant".
        epochs: Passes over the training rows.
        average: The network that is tested at the end and saved is the mean of the weights after each of the last
            ``average`` epochs, its batch-norm statistics taken anew from the training rows; 0: the last weights. The
            mean of weights on spheres lies inside them: it is not put back. Scores of the epochs are of the weights as
            they are.
        batch_size: Rows of one step; an incomplete last batch of an epoch is left out.
        label_smoothing: Of the cross-entropy, in [0, 1).
        crop: Pixels of reflect padding from which images are cropped at random; 0: none.
        flip: Flip images horizontally, every other one at random.
        cutout: Side of a square that is blanked out in every image, at random; 0: none.
        seed: Seed of initial weights, initial mask and the order of the rows.
        device: "cpu", "cuda" or "auto".
        mixed_precision: "no", "bf16" or "fp16"; "auto": bf16 where the device computes with it natively, else no; a
            run that goes on keeps what it began with, wherever it does.
        compile: Train with `torch.compile`, which pays on CUDA: steps take less time, after a slow first one.
        threads: CPU threads; None: torch's choice, but one where a step is too short for more to help.
        checkpoint_every: Epochs between checkpoints.
        trackers: What else is told the run's settings, history and result, by the names that Accelerate has for them,
            such as ("tensorboard",); each needs its package.
    """

    data: str = "digits"
    label_column: str | None = None
    task: str = "classification"
    missing: str = "error"
    test_fraction: float | None = None
    split_seed: int = 0
    data_dir: str | None = None
    model: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    norm: bool = True
    dropout: float = 0.0
    blocks: tuple[int, ...] = (2, 3, 3)
    width: int = 16
    method: str = "semi-pruning"
    sparsity: float = 0.9
    include_last: bool = False
    constrain_last: bool = False
    initial_sparsity: float | None = None
    begin: float | None = None
    end: float | None = None
    every: int | None = None
    regrow: float | None = None
    min_fan_in: int | None = None
    adaptation: Literal["exact", "paper"] | None = None
    distribution: Literal["uniform", "erk"] | None = None
    grow_init: float | None = None
    drop_fraction: float | None = None
    granularity: str | None = None
    ranking: Literal["layer", "network"] | None = None
    batches: int | None = None
    optimizer: str = "lpsgd"
    p: float | Literal["auto"] = 1.15
    first_p: float | None = None
    first_layers: int = 0
    radius: float | Literal["init"] = 1.0
    form: Literal["dual", "primal"] = "dual"
    lr: float | None = None
    other_lr: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: str = "piecewise"
    epochs: int = 20
    average: int = 0
    batch_size: int = 64
    label_smoothing: float = 0.0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    seed: int = 0
    device: str = "auto"
    mixed_precision: str = "no"
    compile: bool = False
    threads: int | None = None
    checkpoint_every: int = 1
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(TrainConfig)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, entry.name, value)
            if not _fits(value, hints[entry.name]):
                raise TypeError(f"{entry.name} must be {_describe(hints[entry.name])}, got {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "checkpoint_every", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(
                f"sparsity must be in [0, 1): the fraction of connections that are gone; got {self.sparsity}"
            )
        if (self.first_p is None) != (self.first_layers == 0) or self.first_layers < 0:
            raise ValueError(
                "first_p is the exponent of the first first_layers weights: give both, such as first_p=1.3 and "
                f"first_layers=4, or neither; got first_p={self.first_p} and first_layers={self.first_layers}"
            )
        if not 0 <= self.average <= self.epochs:
            raise ValueError(f"average must be between 0 and the {self.epochs} epochs, got {self.average}")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        Augmentation(self.crop, self.flip, self.cutout)  # it refuses what is out of range
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A configuration from plain values; what is not given has its default.

        Raises:
            ValueError: If a key is unknown or a value not allowed.
            TypeError: If a value has the wrong type.
        """
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; the settings are {', '.join(known)}")
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a YAML file.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError, TypeError: If it is not a mapping of settings.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not a YAML file: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold settings such as 'sparsity: 0.9', one a line")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, for YAML and JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def to_yaml(self) -> str:
        """All settings as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @property
    def target_sparsity(self) -> float:
        """The sparsity at the end: 0 of a dense network."""
        return 0.0 if self.method == "dense" else self.sparsity

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, with the optimizer's default where none is given."""
        if self.lr is not None:
            return self.lr
        return {"lpsgd": 0.01, "sgd": 0.1, "adamw": 0.001}[self.optimizer]


def changes(saved: TrainConfig, now: TrainConfig) -> str:
    """What differs between two runs, such as "lr 0.1 (now 0.2)", but for `MAY_CHANGE`; empty if nothing does."""
    pairs = ((name, getattr(saved, name), getattr(now, name)) for name in saved.to_dict() if name not in MAY_CHANGE)
    return ", ".join(f"{name} {before} (now {after})" for name, before, after in pairs if before != after)


def value_of(text: str) -> Any:
    """The value of a setting from the words of a command line: 7, 1e-4, true, [300, 100], 2:4, erk."""
    if re.fullmatch(r"\d+:\d+", text):
        return text  # YAML 1.1 would take it for a number to the base of 60,
    if re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", text):
        return float(text)  # and this for a text
    return yaml.safe_load(text)


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple) or not (value or arguments[0] is str):
            return False
        return all(_fits(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        return "a list of whole numbers" if arguments[0] is int else "a list of names"
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "nothing"}
    return names[hint]
