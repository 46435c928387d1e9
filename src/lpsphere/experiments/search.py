"""Learning rates by search on validation splits: the same number of trials for every setting that is compared.

Several searches go on side by side, a trial of each at a time, so that their runs can share the processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import ModuleType
from typing import Any

from lpsphere.experiments.runs import Run, Runs
from lpsphere.training import TrainConfig

__all__ = ["SPACES", "Found", "load_optuna", "new_study", "rates", "search"]

SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "lpsgd": {"lr": (0.003, 0.05), "other_lr": (0.05, 0.6)},
    "sgd": {"lr": (0.005, 1.5)},
    "adamw": {"lr": (1e-4, 2e-2)},
}
"""What is searched for each optimizer, on a logarithmic scale."""


@dataclass(frozen=True)
class Found:
    """The best setting of a search.

    Attributes:
        config: The setting.
        accuracy: Its mean accuracy on the validation splits.
    """

    config: TrainConfig
    accuracy: float


def search(
    runs: Runs, settings: Sequence[tuple[dict[str, Any], TrainConfig]], trials: int, splits: int, seed: int = 0
) -> list[Found]:
    """Find learning rates for each setting; the first trial is the default.

    Args:
        runs: Where runs are trained and kept.
        settings: Key and configuration of each.
        trials: Learning rates tried for each; 1: the default.
        splits: Validation splits, and training seeds, that each trial is scored on.
        seed: Seed of the search.

    Returns:
        The best of each, by mean validation accuracy.

    Raises:
        ModuleNotFoundError: If Optuna is not installed and ``trials`` is more than 1.
    """
    optuna = load_optuna() if trials > 1 else None
    studies = [None if optuna is None else new_study(optuna, trials, seed) for _ in settings]
    best: list[Found | None] = [None] * len(settings)
    for trial in range(trials):
        asked = [None if study is None or trial == 0 else study.ask() for study in studies]
        tried = [_suggest(config, ask) for (_, config), ask in zip(settings, asked, strict=True)]
        results = runs.results(
            [run for (key, _), c in zip(settings, tried, strict=True) for run in _runs(key, c, splits)]
        )
        for i, config in enumerate(tried):
            accuracy = fmean(result["accuracy"] for result in results[i * splits : (i + 1) * splits])
            study, ask = studies[i], asked[i]
            if study is not None and ask is not None:
                study.tell(ask, accuracy)
            elif study is not None and optuna is not None:
                study.add_trial(_default_trial(optuna, config, accuracy))
            found = best[i]
            if found is None or accuracy > found.accuracy:
                best[i] = Found(config, accuracy)
    return [found for found in best if found is not None]


def rates(config: TrainConfig) -> dict[str, float]:
    """The learning rates that the search looks for, as a configuration has them."""
    values = {"lr": config.peak_lr, "other_lr": config.other_lr}
    return {name: values[name] for name in SPACES[config.optimizer]}


def _runs(key: dict[str, Any], config: TrainConfig, splits: int) -> list[Run]:
    return [
        Run({**key, "part": "validation", **rates(config), "seed": split}, replace(config, seed=split), split)
        for split in range(splits)
    ]


def _suggest(config: TrainConfig, ask: Any) -> TrainConfig:
    if ask is None:
        return replace(config, lr=config.peak_lr)
    space = SPACES[config.optimizer]
    asked = {name: _round(ask.suggest_float(name, low, high, log=True)) for name, (low, high) in space.items()}
    return TrainConfig.from_dict(config.to_dict() | asked)


def _default_trial(optuna: ModuleType, config: TrainConfig, accuracy: float) -> Any:
    space = SPACES[config.optimizer]
    return optuna.trial.create_trial(
        params=rates(config),
        distributions={name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in space.items()},
        value=accuracy,
    )


def new_study(optuna: ModuleType, trials: int, seed: int) -> Any:
    """A search whose first half is random, the rest by a tree of Parzen estimators."""
    sampler = optuna.samplers.TPESampler(n_startup_trials=max(1, trials // 2), seed=seed)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def load_optuna() -> ModuleType:
    """Optuna, quiet; ModuleNotFoundError says how to install it."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'searching learning rates needs Optuna: pip install "lpsphere[compare]", or pass --trials 1 to compare at '
            "the default rates"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: ModuleType = optuna
    return module
