"""Training from a configuration: data, network, optimizer and topology in; a run's folder out.

The folder holds config.yaml, history.jsonl, checkpoints/ and, at the end, model.safetensors and summary.json, beside
what trackers keep. Every file but theirs is complete at any moment; training continues from the newest checkpoint, on a
CPU bit for bit.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor
from torch.nn import functional

from lpsphere.data import Dataset
from lpsphere.distributed import anywhere, total
from lpsphere.flops import inference_flops, layer_costs, training_flops
from lpsphere.metrics import Summary, summary
from lpsphere.models import build
from lpsphere.training.augmentation import Augmentation, batch_rng
from lpsphere.training.averaging import new_average, take_average
from lpsphere.training.batches import batches
from lpsphere.training.checkpoints import newest_checkpoint, precision_so_far, save_checkpoint, save_model
from lpsphere.training.config import TrainConfig
from lpsphere.training.evaluation import Scores, evaluate, final_scores, score_of
from lpsphere.training.files import prepare_folder, replace_text
from lpsphere.training.learning_rate import SCHEDULES, set_learning_rates
from lpsphere.training.parts import WHOLE, Parts, keep_names_plain
from lpsphere.training.record import versions
from lpsphere.training.setup import load_data, make_optimizer, make_topology, model_config, precision
from lpsphere.training.stopping import stop_signal
from lpsphere.training.threads import threads_for, using_threads
from lpsphere.training.trackers import Trackers, tracker_settings

__all__ = ["Interrupted", "Progress", "Trainer"]


class Interrupted(Exception):  # noqa: N818 - not an error: everything is saved
    """Training was asked to stop, and did so after saving a checkpoint."""


@dataclass(frozen=True)
class Progress:
    """Where training stands, after each step.

    Attributes:
        epoch: The epoch under way, or just ended, from 1.
        epochs: Epochs in all.
        step: Optimizer steps taken.
        total_steps: Optimizer steps in all.
        sparsity: Over the selected weights.
        row: The epoch's row of the history, if the step ended an epoch.
    """

    epoch: int
    epochs: int
    step: int
    total_steps: int
    sparsity: float
    row: dict[str, Any] | None = None


class _State:
    """What a checkpoint holds beside model, optimizer, topology and random generators."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self.seconds = 0.0
        self.loss_sum = 0.0
        self.score_sum = 0.0
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Trainer:
    """One training run.

    Args:
        config: The run.
        folder: Where it is written.
        resume: Continue from the newest checkpoint in the folder, if there is one.
        command: The command line, for the record.
        data: Data to use in place of what the configuration names, such as a validation split of it.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If the data or the settings do not fit, or the folder's checkpoint is another network's.
        ModuleNotFoundError: If the package of a tracker is missing.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        resume: bool = False,
        command: str = "",
        data: Dataset | None = None,
    ) -> None:
        self.config, self.folder, self.command = config, folder, command
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        set_seed(config.seed)
        self.accelerator = _accelerator(config, folder, resume)  # from here on there are other processes, if any
        if self.is_main:
            prepare_folder(folder)
        self.data = load_data(config) if data is None else data
        self.augmentation = Augmentation(config.crop, config.flip, config.cutout)
        self.augmentation.check(self.data.input_shape)
        model = build(model_config(config, self.data)).to(self.accelerator.device)
        if len(self.data.input_shape) == 3:  # images; convolutions take less time in this order of memory
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rows = len(self.data.x_train)
        self.batch_size = min(config.batch_size, rows)
        self.parts = Parts(self.accelerator.num_processes, self.accelerator.process_index)
        self.parts.check(self.batch_size)
        self.steps_per_epoch = rows // self.batch_size
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimizer = make_optimizer(config, model)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.topology = make_topology(config, model, self.optimizer, self.total_steps)
        self.plain_model = model
        self.average = new_average(config, model, self.topology, self.steps_per_epoch)
        self.model, self.stepper = self.accelerator.prepare(model, self.optimizer)
        keep_names_plain(self.accelerator, model)
        self.compiled = torch.compile(self.model) if config.compile else self.model  # whose state has other names
        self.state = _State()
        self._stopping: list[int] = []
        for part in (self.state, self.topology, self.average):
            if part is not None:
                self.accelerator.register_for_checkpointing(part)
        self.train_rows = (self.data.x_train.to(self.accelerator.device), self.data.y_train.to(self.accelerator.device))
        self.test_rows = (self.data.x_test.to(self.accelerator.device), self.data.y_test.to(self.accelerator.device))
        by_itself = config.threads is None and self.accelerator.device.type == "cpu"
        self.threads = threads_for(model, self.train_rows[0][:1], self.batch_size) if by_itself else None
        checkpoint = newest_checkpoint(folder, model) if resume else None
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
        self.trackers = Trackers(self.accelerator, config, folder, self._layers)
        if self.is_main:
            replace_text(folder / "config.yaml", config.to_yaml())

    @property
    def is_main(self) -> bool:
        """Whether this process writes files; it is the only one, or the first of several."""
        return bool(self.accelerator.is_main_process)

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.state.epoch * self.steps_per_epoch + self.state.batch

    def fit(self, on_step: Callable[[Progress], None] | None = None) -> dict[str, Any]:
        """Train to the end, or until interrupted; several processes do it together.

        Args:
            on_step: Called after every optimizer step.

        Returns:
            The content of summary.json.

        Raises:
            Interrupted: After SIGINT (Ctrl-C) or SIGTERM, once the step under way is done and saved; a second signal
                stops at once.
            FloatingPointError: If the loss is not finite at the end of an epoch.
        """
        report = on_step or (lambda progress: None)
        with using_threads(self.threads), self.trackers.running(self.step, self.total_steps):
            with stop_signal() as self._stopping:
                while self.state.epoch < self.config.epochs:
                    self._epoch(report)
            return self._finish()

    def stop(self) -> None:
        """Stop as after Ctrl-C: once the step under way is done and saved. For ``on_step`` to call."""
        self._stopping.append(signal.SIGINT)

    def _epoch(self, report: Callable[[Progress], None]) -> None:
        state = self.state
        self.model.train()
        sums = [state.loss_sum, state.score_sum] if self.is_main else [0.0, 0.0]
        totals = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        order = batches(len(self.train_rows[0]), self.batch_size, self.config.seed, state.epoch)
        started = time.perf_counter()
        for rows in order[state.batch :]:
            self._set_learning_rates()
            totals += self._train_step(rows.to(self.accelerator.device))
            state.batch += 1
            if state.batch == self.steps_per_epoch:
                break
            report(self._progress())
            if self._asked_to_stop(state.batch % self.parts.patience == 0):
                state.loss_sum, state.score_sum = total(totals).tolist()
                state.seconds += time.perf_counter() - started
                self._save()
                raise Interrupted(f"stopped after step {self.step} of {self.total_steps}; everything is saved")
        state.seconds += time.perf_counter() - started
        self._end_epoch(total(totals).tolist())
        report(self._progress(state.rows[-1]))
        if state.epoch < self.config.epochs and self._asked_to_stop(True):
            self._save()
            raise Interrupted(f"stopped after epoch {state.epoch} of {self.config.epochs}; everything is saved")

    def _asked_to_stop(self, now: bool) -> bool:
        """Whether one of the processes was asked to stop, if it is now that they ask each other."""
        return now and anywhere(bool(self._stopping), self.accelerator.device)

    def _set_learning_rates(self) -> None:
        factor = SCHEDULES[self.config.schedule](self.step / self.total_steps)
        set_learning_rates(self.optimizer, self.peaks, factor)

    def _train_step(self, rows: Tensor) -> Tensor:
        """One optimizer step; returns the sums of the losses and of the scores of its rows."""
        x, y = (
            self._inputs(rows, self.state.epoch, self.state.batch, self.parts),
            self.train_rows[1][self.parts.of(rows)],
        )
        with self.accelerator.autocast():
            outputs = self.compiled(x)
        outputs = outputs.float()
        if self.config.task == "regression":
            loss = functional.mse_loss(outputs.squeeze(-1), y)
        else:
            loss = functional.cross_entropy(outputs, y, label_smoothing=self.config.label_smoothing)
        self.accelerator.backward(loss)
        self.stepper.step()
        self.stepper.zero_grad()
        return torch.stack([loss.detach().double() * len(y), score_of(outputs.detach(), y, self.config.task)])

    def _inputs(self, rows: Tensor, epoch: int, batch: int, parts: Parts = WHOLE) -> Tensor:
        rng, first = batch_rng(self.config.seed, epoch, batch), parts.first(len(rows))
        return self.augmentation(self.train_rows[0][parts.of(rows)], rng, first, len(rows))

    def _end_epoch(self, totals: list[float]) -> None:
        state, count = self.state, self.steps_per_epoch * self.batch_size
        loss = totals[0] / count
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss of epoch {state.epoch + 1} is {loss}: training diverged. Lower --lr or --other-lr "
                "and start anew"
            )
        train = Scores.from_sums(totals[0], totals[1], count, self.train_rows[1], self.config.task)
        test = self._evaluate()
        metric = "r2" if self.config.task == "regression" else "accuracy"
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        row = {
            "kind": "epoch",
            "epoch": state.epoch + 1,
            "step": self.step,
            "seconds": round(state.seconds, 3),
            "lr": rates[0],
            "other_lr": rates[-1],
            "train_loss": train.loss,
            f"train_{metric}": train.score,
            "test_loss": test.loss,
            f"test_{metric}": test.score,
            "sparsity": self._sparsity(),
        }
        state.rows.append(row)
        state.epoch, state.batch, state.loss_sum, state.score_sum = state.epoch + 1, 0, 0.0, 0.0
        self._write_history()
        if self.average is not None and state.epoch > self.config.epochs - self.config.average:
            self.average.update_parameters(self.plain_model)
        if state.epoch % self.config.checkpoint_every == 0 or state.epoch == self.config.epochs:
            self._save()

    def _evaluate(self) -> Scores:
        return evaluate(self.model, *self.test_rows, self.config.task)

    def _sparsity(self) -> float:
        if self.topology is None:
            return 0.0
        return self.topology.events[-1].sparsity if self.topology.events else self.topology.initial_sparsity

    def _progress(self, row: dict[str, Any] | None = None) -> Progress:
        epoch = self.state.epoch + (0 if row else 1)
        return Progress(epoch, self.config.epochs, self.step, self.total_steps, self._sparsity(), row)

    def _write_history(self) -> None:
        if not self.is_main:
            return
        events = [] if self.topology is None else self.topology.events
        rows = self.state.rows + [{"kind": "update", **asdict(event)} for event in events]
        rows.sort(key=lambda row: row["step"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        replace_text(self.folder / "history.jsonl", text)
        self.trackers.log(rows)

    def _save(self) -> None:
        self._write_history()
        if self.is_main:
            save_checkpoint(self.folder, self.step, self.accelerator)

    def _finish(self) -> dict[str, Any]:
        if self.average is not None:
            take_average(self.model, self.average, self._another_epoch())
        table = self._layers()
        if self.topology is not None:
            self.topology.finalize()
        result = self._summary(table)
        if self.is_main:
            save_model(self.folder / "model.safetensors", self.plain_model)
            replace_text(self.folder / "summary.json", json.dumps(result, indent=1) + "\n")
            self.trackers.log_result(result, self.step)
        return result

    def _layers(self) -> Summary:
        return summary(self.plain_model, self.optimizer, include_last=self.config.include_last)

    def _another_epoch(self) -> Iterator[Tensor]:
        """The inputs of the epoch that would come next."""
        epoch, device = self.config.epochs, self.accelerator.device
        order = batches(len(self.train_rows[0]), self.batch_size, self.config.seed, epoch)
        return (self._inputs(rows.to(device), epoch, i) for i, rows in enumerate(order))

    def _summary(self, table: Summary) -> dict[str, Any]:
        config, layers = self.config, table.to_dict()
        return {
            "data": self.data.name,
            "task": config.task,
            "method": config.method,
            "optimizer": config.optimizer,
            **final_scores(self.model, self.data),
            "target_sparsity": config.target_sparsity,
            **{key: value for key, value in layers.items() if key != "layers"},
            **self._flops(),
            "epochs": config.epochs,
            "steps": self.total_steps,
            "seconds": round(self.state.seconds, 3),
            "seed": config.seed,
            "device": self.accelerator.device.type,
            "mixed_precision": self.accelerator.mixed_precision,
            "threads": torch.get_num_threads(),
            **({"processes": self.parts.count} if self.parts.count > 1 else {}),
            "versions": versions(),
            "command": self.command,
            "layers": layers["layers"],
        }

    def _flops(self) -> dict[str, float]:
        """Operations of one prediction and of the training, in proportion to the connections, and dense."""
        costs = layer_costs(self.plain_model, self.train_rows[0][:1])
        cost = partial(training_flops, costs, steps=self.total_steps, batch_size=self.batch_size)
        history: list[tuple[int, dict[str, int]]] = []
        dense_gradients: list[int] = []
        if self.topology is not None:
            history = self.topology.history
            dense_gradients = [event.step for event in self.topology.events if self.topology.uses_gradient]
        return {
            "inference_flops": inference_flops(costs, history[-1][1] if history else {}),
            "inference_flops_dense": inference_flops(costs, {}),
            "training_flops": cost(connections=history, dense_gradients=dense_gradients),
            "training_flops_dense": cost(),
        }


def _accelerator(config: TrainConfig, folder: Path, resume: bool) -> Accelerator:
    cuda, trackers = _wants_cuda(config), tracker_settings(config, folder)
    so_far = precision_so_far(folder) if resume and config.mixed_precision == "auto" else None  # on any machine
    AcceleratorState._reset_state(reset_partial_state=True)  # or a process has one device and precision for all runs
    return Accelerator(cpu=not cuda, mixed_precision=so_far or precision(config, cuda), **trackers)


def _wants_cuda(config: TrainConfig) -> bool:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no CUDA device: use --device cpu")
    return config.device != "cpu" and torch.cuda.is_available()
