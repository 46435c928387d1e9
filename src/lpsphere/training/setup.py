"""From a configuration to the parts of a run: data, network, optimizer, topology."""

from __future__ import annotations

import glob
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from lpsphere.data import Dataset, load
from lpsphere.groups import ParamGroups, param_groups
from lpsphere.neurons import Rule, select
from lpsphere.optim import LpSGD
from lpsphere.topology import METHODS, Topology
from lpsphere.training.config import TrainConfig

__all__ = [
    "check_method_settings",
    "given_settings",
    "load_data",
    "make_optimizer",
    "make_topology",
    "method_settings",
    "model_config",
    "precision",
    "sphere_groups",
]


def load_data(config: TrainConfig) -> Dataset:
    """The data set of a run, split and standardised.

    Raises:
        ValueError, FileNotFoundError: If it cannot be found or read; the message says what to do.
    """
    return load(
        config.data,
        label_column=config.label_column,
        task=config.task,
        missing=config.missing,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        data_dir=None if config.data_dir is None else Path(config.data_dir),
    )


def model_config(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """What `lpsphere.models.build` needs for this run's network.

    Raises:
        ValueError: If the network does not fit the data.
    """
    images = len(data.input_shape) == 3
    kind = config.model if config.model != "auto" else ("wide_resnet" if images else "mlp")
    if kind == "mlp":
        return {
            "kind": "mlp",
            "in_features": math.prod(data.input_shape),
            "hidden": list(config.hidden),
            "out_features": data.outputs,
            "norm": config.norm,
            "dropout": config.dropout,
        }
    if not images:
        raise ValueError(f"model {kind} needs images; the rows of {data.name} have shape {data.input_shape}: use mlp")
    common = {"kind": kind, "in_channels": data.input_shape[0], "out_features": data.outputs}
    if kind == "wide_resnet":
        return {**common, "blocks": list(config.blocks), "width": config.width}
    height, width = data.input_shape[1:]
    if height != width:
        raise ValueError(f"model cnn needs square images; those of {data.name} are {height} x {width}: use wide_resnet")
    return {**common, "image_size": height, "norm": config.norm}


def make_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """LpSGD on the selected weights and plain SGD on the rest, or one of torch's optimizers on everything."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=config.peak_lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=config.peak_lr, weight_decay=config.weight_decay)
    return LpSGD(sphere_groups(config, model), momentum=config.momentum, nesterov=config.nesterov, form=config.form)


def sphere_groups(config: TrainConfig, model: nn.Module) -> ParamGroups:
    """The parameter groups of a run with LpSGD; with p "auto" they say what was chosen for each layer and why.

    Raises:
        ValueError: If the network has fewer than ``first_layers`` weights to put on spheres.
    """
    return param_groups(
        model,
        config.p,
        sparsity=config.target_sparsity if config.p == "auto" else None,
        lr=config.peak_lr,
        other_lr=config.other_lr,
        rules=_first_rules(config, model),
        weight_decay=config.weight_decay,
        radius=config.radius,
        include_last=config.constrain_last,
    )


def _first_rules(config: TrainConfig, model: nn.Module) -> list[Rule]:
    """The rules that give the first layers their p."""
    if config.first_p is None:
        return []
    names = [neuron.name for neuron in select(model, include_last=config.constrain_last)]
    if config.first_layers > len(names):
        raise ValueError(f"first_layers={config.first_layers} of {len(names)} weights on spheres: give at most these")
    return [Rule(glob.escape(name), p=config.first_p) for name in names[: config.first_layers]]


def precision(config: TrainConfig, cuda: bool) -> str:
    """The mixed precision of a run, "no", "bf16" or "fp16", on a CUDA device or on the CPU.

    oneDNN takes any CPU with AVX-512 for one that supports bf16, and emulates it on most; so ask for the instructions.
    """
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if cuda:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "no"


def method_settings(method: str) -> dict[str, Any]:
    """The settings of a configuration that a method takes and another may not, with its defaults; none for "dense"."""
    if method == "dense":
        return {}
    names = {entry.name for entry in fields(TrainConfig)} - {"model", "optimizer", "sparsity", "include_last", "seed"}
    parameters = inspect.signature(METHODS[method]).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name in names}


def given_settings(config: TrainConfig) -> dict[str, Any]:
    """Those settings of methods, of whichever, that a configuration gives a value."""
    names = sorted({name for method in METHODS for name in method_settings(method)})
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def check_method_settings(method: str, names: Iterable[str]) -> None:
    """Refuse settings that a method does not take.

    Raises:
        ValueError: If there are any.
    """
    taken = method_settings(method)
    unknown = [name for name in names if name not in taken]
    if unknown:
        raise ValueError(f"{method} takes no {', '.join(unknown)}; its settings are {', '.join(taken) or 'none'}")


def make_topology(
    config: TrainConfig, model: nn.Module, optimizer: Optimizer, total_steps: int, **more: Any
) -> Topology | None:
    """The method that decides which connections exist; None for dense training.

    Args:
        config: The run.
        model: The network.
        optimizer: What trains it.
        total_steps: Optimizer steps of the whole training.
        more: Arguments of the method that a configuration does not hold, such as ``initial_sparsity="keep"``.

    Raises:
        TypeError, ValueError: If it does not take one of the settings, or the value of one.
    """
    if config.method == "dense":
        return None
    method: Callable[..., Topology] = METHODS[config.method]
    given = given_settings(config)
    check_method_settings(config.method, given)
    return method(
        model,
        optimizer,
        sparsity=config.sparsity,
        total_steps=total_steps,
        include_last=config.include_last,
        seed=config.seed,
        **{**given, **more},
    )
