"""Trackers of experiments, by Accelerate: they are told what history.jsonl and summary.json hold.

Knows Accelerate's trackers and plain values; of a network only the figures of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from lpsphere.metrics import Summary
from lpsphere.training.config import TrainConfig

__all__ = ["FOLDER", "Trackers", "check_trackers", "tracker_settings"]

FOLDER = "trackers"
"""Where in a run's folder trackers keep their files, those that do."""

_PROJECT = "lpsphere"


def check_trackers(names: Sequence[str]) -> None:
    """See that these trackers can be had; Accelerate itself leaves out those that cannot.

    Args:
        names: Accelerate's names, or those of classes that its `register_tracker_class` was given.

    Raises:
        ValueError: If a name is unknown.
        ModuleNotFoundError: If a tracker's package is missing; the message says what to install.
    """
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"unknown tracker {name!r}: choose from {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name in LoggerType.list() and name not in map(str, get_available_trackers()):
            package = "'lpsphere[tensorboard]'" if name == "tensorboard" else name
            raise ModuleNotFoundError(
                f"the tracker {name} needs its package: install it with pip install {package}", name=name
            )


def tracker_settings(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """The arguments of an `Accelerator` for a run's trackers.

    Raises:
        ValueError, ModuleNotFoundError: As `check_trackers`.
    """
    if not config.trackers:
        return {}
    check_trackers(config.trackers)
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / FOLDER))
    return {"log_with": list(config.trackers), "project_config": project}


class Trackers:
    """What tells a run's trackers; it does nothing where there are none, nor in other processes than the main one.

    Each number goes under the kind of its record: ``epoch/train_loss``, ``epoch/hoyer/LAYER`` (the connections' Hoyer
    sparsity, mean over the neurons), ``update/threshold``, ``update/dropped/LAYER``, ``result/test_accuracy``.

    Args:
        accelerator: Made with `tracker_settings`.
        config: The run's settings, which the trackers get too.
        folder: The run's folder.
        measure: Measures the network's layers.
    """

    def __init__(
        self, accelerator: Accelerator, config: TrainConfig, folder: Path, measure: Callable[[], Summary]
    ) -> None:
        self.accelerator, self.config, self.folder, self.measure = accelerator, config, folder, measure
        self._told = 0

    @contextmanager
    def running(self, step: int, total_steps: int) -> Iterator[None]:
        """Trackers from their start to their end, however it comes; none of a run whose result is there.

        Args:
            step: Optimizer steps taken so far; what they showed has been told.
            total_steps: Optimizer steps in all.
        """
        finished = step == total_steps and (self.folder / "summary.json").exists()
        if self.accelerator.is_main_process and self.accelerator.log_with and not finished:
            self._start(step)
        try:
            yield
        finally:  # not end_training, which would leave the other processes too
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers.clear()

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Tell the records of the history that are new.

        Args:
            records: All of them, by step.
        """
        if not self.accelerator.trackers:
            return
        for record in records:
            if record["step"] > self._told:
                values = {key: value for key, value in record.items() if key != "step"}
                if record["kind"] == "epoch":
                    values["hoyer"] = {layer.layer: layer.hoyer for layer in self.measure().layers}
                self.accelerator.log(dict(_numbers(record["kind"], values)), step=record["step"])
        self._told = records[-1]["step"] if records else self._told

    def log_result(self, result: Mapping[str, Any], step: int) -> None:
        """Tell the numbers of summary.json, at the last step."""
        if self.accelerator.trackers:
            self.accelerator.log(dict(_numbers("result", result)), step=step)

    def _start(self, step: int) -> None:
        self._told = step
        goes_on = step > 0 and (self.folder / FOLDER / _PROJECT).exists()
        hidden = {"purge_step": step + 1}  # hides what was told after the checkpoint from which a crashed run goes on
        self.accelerator.init_trackers(_PROJECT, init_kwargs={"tensorboard": hidden})
        settings = {name: _plain(value) for name, value in self.config.to_dict().items()}
        for tracker in self.accelerator.trackers:
            if not (goes_on and tracker.name == "tensorboard"):  # which would show them as another run's
                tracker.store_init_configuration(settings)


def _plain(value: Any) -> bool | int | float | str | None:
    """A setting as trackers take them."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The numbers among some values, nested or not, by their path."""
    for name, value in values.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            yield from _numbers(path, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value
