"""The recipes of the benchmark table, a YAML file for each data set. Reads these files; trains nothing.

A recipe has four parts: what the paper published (``paper``), the sparsities of the table (``sparsities``), the
settings that all methods share (``settings``), and for each method its own (``methods``): those under "default" hold at
every sparsity, those under a sparsity change them there. With ``split_by_seed`` the rows are split anew for each seed;
it is the share of the rows that the data set then tests, which comparisons over overlapping splits need to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import yaml

from lpsphere.topology import METHODS
from lpsphere.training import TrainConfig
from lpsphere.training.setup import check_method_settings, given_settings

__all__ = ["DATA", "TABLE_METHODS", "Paper", "Recipe", "load_recipe", "parse_recipe"]

DATA = ("dna", "mushroom", "climate", "mnist", "fashion-mnist", "cifar-10", "tiny-imagenet")
"""The data sets of the table."""

TABLE_METHODS = ("semi-pruning", "dense", *(method for method in METHODS if method != "semi-pruning"))
"""The methods of the table: this project's first."""

_PARTS = {"paper", "sparsities", "settings", "methods"}


@dataclass(frozen=True)
class Paper:
    """What was published (method, section 5).

    Attributes:
        weights: Parameters of the network.
        epochs: Passes over the training rows.
        accuracy: Test accuracy by sparsity.
    """

    weights: int
    epochs: int
    accuracy: Mapping[float, float]


@dataclass(frozen=True)
class Recipe:
    """How the networks of one data set are trained.

    Attributes:
        data: The data set.
        paper: What was published.
        sparsities: Those of the table, but for dense networks.
        settings: What all methods share.
        methods: Settings by method and by sparsity; under None those of every sparsity.
        split_by_seed: The share of the rows that the data set tests, where the seed of a run splits them; 0: one split
            for all.
    """

    data: str
    paper: Paper
    sparsities: tuple[float, ...]
    settings: Mapping[str, Any]
    methods: Mapping[str, Mapping[float | None, Mapping[str, Any]]]
    split_by_seed: float = 0.0

    def config(self, method: str, sparsity: float, seed: int = 0) -> TrainConfig:
        """The run of a method; the optimizer is LpSGD for semi-pruning and SGD for the others unless it is named.

        Raises:
            TypeError, ValueError: If the recipe lacks the method, or has a setting that is not allowed.
        """
        if method not in self.methods:
            raise ValueError(
                f"the recipe of {self.data} has no method {method!r}: choose from {', '.join(self.methods)}"
            )
        own = self.methods[method]
        values = {
            "data": self.data,
            "optimizer": "lpsgd" if method == "semi-pruning" else "sgd",
            "split_seed": seed if self.split_by_seed else 0,
            **self.settings,
            **own.get(None, {}),
            **own.get(sparsity, {}),
            "method": method,
            "seed": seed,
        }
        config = TrainConfig.from_dict(values if method == "dense" else {**values, "sparsity": sparsity})
        check_method_settings(method, given_settings(config))
        return config

    def with_seed(self, config: TrainConfig, seed: int) -> TrainConfig:
        """A run of this recipe with another seed, and the rows split as that asks for."""
        return replace(config, seed=seed, split_seed=seed if self.split_by_seed else config.split_seed)


def load_recipe(data: str) -> Recipe:
    """The recipe of a data set of the table.

    Raises:
        ValueError: If there is none.
    """
    if data not in DATA:
        raise ValueError(f"the table has no data set {data!r}: choose from {', '.join(DATA)}")
    return parse_recipe(data, (files(__package__) / f"{data}.yaml").read_text(encoding="utf-8"))


def parse_recipe(data: str, text: str) -> Recipe:
    """A recipe from the text of its file.

    Raises:
        ValueError: If a part is missing or unknown, or a sparsity is none of the table's.
    """
    parts = yaml.safe_load(text)
    if not isinstance(parts, dict) or not _PARTS <= set(parts) <= _PARTS | {"split_by_seed"}:
        raise ValueError(f"the recipe of {data} must have the parts {', '.join(sorted(_PARTS))}, and may split_by_seed")
    sparsities = tuple(float(sparsity) for sparsity in parts["sparsities"])
    methods = {method: _by_sparsity(own) for method, own in parts["methods"].items()}
    for method, own in methods.items():
        unknown = [f"{sparsity:g}" for sparsity in own if sparsity is not None and sparsity not in sparsities]
        if unknown:
            raise ValueError(
                f"the recipe of {data} has settings of {method} at {', '.join(unknown)}, but its sparsities are "
                f"{', '.join(f'{sparsity:g}' for sparsity in sparsities)}"
            )
    share = float(parts.get("split_by_seed", 0.0))
    if not 0 <= share < 1:
        raise ValueError(f"split_by_seed of {data} is the share of the rows that is tested, below 1: got {share:g}")
    paper = parts["paper"]
    published = {float(sparsity): float(accuracy) for sparsity, accuracy in paper["accuracy"].items()}
    return Recipe(
        data,
        Paper(paper["weights"], paper["epochs"], published),
        sparsities,
        parts["settings"],
        methods,
        share,
    )


def _by_sparsity(own: Mapping[str, Mapping[str, Any] | None]) -> dict[float | None, Mapping[str, Any]]:
    return {None if key == "default" else float(key): settings or {} for key, settings in own.items()}
