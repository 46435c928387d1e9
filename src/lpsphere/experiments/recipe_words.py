"""What the pages of the benchmark table say of methods and recipes. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lpsphere.experiments.recipes import Recipe
from lpsphere.training.setup import given_settings, method_settings

__all__ = ["DENSE", "NAMES", "NOTHING", "OURS", "TITLES", "Record"]
__all__ += ["chance", "densities", "differences", "place", "validation"]

Record = Mapping[str, Any]
OURS, DENSE, NOTHING = "semi-pruning", "dense", "–"
TITLES = {
    "dna": "DNA",
    "mushroom": "Mushroom",
    "climate": "Climate",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar-10": "CIFAR-10",
    "tiny-imagenet": "Tiny ImageNet",
}
NAMES = {
    OURS: "ours",
    DENSE: "dense SGD",
    "static": "static",
    "set": "SET",
    "rigl": "RigL",
    "snip": "SNIP",
    "gmp": "GMP",
}
_COMMON = ("crop", "flip", "cutout", "average")
"""Settings that are the same for all methods unless a page says otherwise; tests hold the others to that."""


def place(method: str, sparsity: float) -> str:
    """A method and its sparsity, such as "RigL at 0.9"."""
    return NAMES[method] + ("" if method == DENSE else f" at {sparsity:g}")


def chance(p_value: float | None) -> str:
    """What follows a difference: its p value in brackets, where there is one."""
    return "" if p_value is None else f" (p = {p_value:.2g})"


def validation(recipe: Recipe) -> str:
    """On which rows searches and ablations of a recipe score."""
    of_splits = " of the splits (a row that one of them tests is a training row of others)"
    return "parts of the training rows" + (of_splits if recipe.split_by_seed else "")


def densities(recipe: Recipe) -> str:
    """How methods share the connections out among layers, and among neurons."""
    told = _by_sparsity(recipe, lambda sparsity: [_densities_at(recipe, sparsity)])
    return " ".join(f"Densities of the layers at {where}: {what}." for what, where in told.items())


def _densities_at(recipe: Recipe, sparsity: float) -> str:
    methods: dict[str, list[str]] = {}
    alive = []
    for method in recipe.methods:
        if method == DENSE:
            continue
        values = method_settings(method) | given_settings(recipe.config(method, sparsity))
        whole = method == OURS or values.get("ranking") == "network"
        methods.setdefault("found over the network" if whole else values["distribution"], []).append(NAMES[method])
        alive += [NAMES[method]] if values["min_fan_in"] else []
    told = "; ".join(f"{what} for {', '.join(names)}" for what, names in methods.items())
    return f"{told}; every neuron keeps a connection with {', '.join(alive) or 'none'}"


def differences(recipe: Recipe) -> str:
    """In which settings of training, beside those that are each method's own, methods differ; "" if in none."""
    told = _by_sparsity(recipe, lambda sparsity: _differences_at(recipe, sparsity))
    return " ".join(f"At {where} {what}." for what, where in told.items())


def _differences_at(recipe: Recipe, sparsity: float) -> list[str]:
    told = []
    for name in _COMMON:
        methods: dict[Any, list[str]] = {}
        for method in recipe.methods:
            value = getattr(recipe.config(method, 0.0 if method == DENSE else sparsity), name)
            methods.setdefault(value, []).append(NAMES[method])
        if len(methods) > 1:
            usual = max(methods, key=lambda value: len(methods[value]))
            others = ", ".join(f"{value} for {', '.join(methods[value])}" for value in methods if value != usual)
            told.append(f"{name} is {usual}, but {others}")
    return told


def _by_sparsity(recipe: Recipe, tell: Callable[[float], list[str]]) -> dict[str, str]:
    """What there is to tell, and at which sparsities."""
    where: dict[str, list[str]] = {}
    for sparsity in recipe.sparsities:
        for told in tell(sparsity):
            where.setdefault(told, []).append(f"{sparsity:g}")
    return {told: ", ".join(sparsities) for told, sparsities in where.items()}
