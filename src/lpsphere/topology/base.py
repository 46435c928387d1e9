"""The frame of every topology method: masks, the order of a step by the optimizer's hooks, counts, state.

A method decides how many connections are dropped and grown, and by which scores; everything else is here. The
order of a step: gradients complete -> scores taken at an update -> gradients masked -> optimizer step -> weights
masked -> at an update: new masks, dropped weights and the optimizer state of dropped and grown entries zeroed,
neurons back on their spheres -> event.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import LpSphereWarning, NeuronWeight, Rule, select
from lpsphere.topology.distributions import layer_connections
from lpsphere.topology.masks import buffer_name, get_mask, lowest, random_mask, set_mask
from lpsphere.topology.schedules import UpdateSchedule

__all__ = ["Event", "Topology"]


@dataclass(frozen=True)
class Event:
    """One update of the topology.

    Attributes:
        step: Optimizer steps taken.
        sparsity: Sparsity after it, over the selected weights.
        threshold: The largest score that was dropped (relative magnitude for `SemiPruning`); 0 if none was.
        dropped: Connections dropped in each layer.
        regrown: Connections grown in each layer.
    """

    step: int
    sparsity: float
    threshold: float
    dropped: dict[str, int]
    regrown: dict[str, int]


class Topology(ABC):
    """Base of the topology methods; attaches to a model and any torch optimizer by the optimizer's step hooks.

    A method implements `budget`, `drop_scores` and `grow_scores`.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: The optimizer that trains them.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training.
        initial_sparsity: Sparsity of the random mask at the start, capped at the target; "keep": the connections
            whose weights are not zero, or that existing masks allow.
        begin: Fraction of training at the first update.
        end: Fraction of training at the last update.
        every: Optimizer steps between updates; None: max(1, min(40, total_steps // 100)).
        min_fan_in: Connections every neuron keeps.
        distribution: Densities of the layers in the initial mask, "uniform" or "erk".
        rules: As for `lpsphere.param_groups`; a rule with ``sparse=False`` leaves a layer dense.
        include_last: Mask the output layer too.
        seed: Seed of the random choices.

    Raises:
        ValueError: If an argument is out of range, the target leaves fewer than ``min_fan_in`` connections per
            neuron, the model has masks already, or the optimizer lacks a selected weight.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: float | Literal["keep"],
        begin: float,
        end: float,
        every: int | None,
        min_fan_in: int,
        distribution: str,
        rules: Sequence[Rule] | None,
        include_last: bool,
        seed: int,
    ) -> None:
        self.target = _check_sparsity("sparsity", sparsity)
        self.schedule = UpdateSchedule.of_training(total_steps, begin, end, every)
        if isinstance(min_fan_in, bool) or not isinstance(min_fan_in, int) or min_fan_in < 0:
            raise ValueError(f"min_fan_in must be a whole number of at least 0, got {min_fan_in!r}")
        self.min_fan_in = min_fan_in
        self.model = model
        self.optimizer: Optimizer = _unwrap(optimizer)
        self.layers = [neuron for neuron in select(model, rules, include_last) if neuron.sparse]
        self.events: list[Event] = []
        self._step = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._callbacks: list[Callable[[Event], None]] = []
        self._grow_scores: list[Tensor] | None = None
        self._ready = False
        self._overdue = False
        self._stale = False
        self._check_feasible()
        _check_owned(self.layers, self.optimizer)
        masks = self._initial_masks(initial_sparsity, distribution)
        for neuron, mask in zip(self.layers, masks, strict=True):
            set_mask(neuron, mask.to(neuron.weight.device))
        self.initial_sparsity = self.sparsity
        self._apply_masks()
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
            self.optimizer.register_load_state_dict_post_hook(self._mark_stale),
        ]

    # What a method decides.

    @abstractmethod
    def budget(self, progress: float, drop_scores: Tensor) -> tuple[int, int]:
        """How many connections to drop and to grow at an update.

        Args:
            progress: The fraction of the evolution that is done, in [0, 1].
            drop_scores: Scores of the connections that may be dropped, shape (candidates,).

        Returns:
            (dropped, grown).
        """

    @abstractmethod
    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """A score of at least 0 for each connection, in the shape of the weight; the smallest are dropped."""

    @abstractmethod
    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """A score for each weight, in its shape, from the dense gradient; the largest inactive ones are grown.

        Ranked by magnitude: a sign may tell `new_weights` where to start.
        """

    def new_weights(self, grow_scores: Tensor, grown: Tensor) -> Tensor | None:
        """Where new connections start, in units of their neuron's mean |v|, in the shape of the weight; None: at 0."""
        return None

    # What users ask for.

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name, bool in the shape of the weights: True where the connection exists."""
        return {neuron.name: self._mask(neuron) for neuron in self.layers}

    @property
    def weights(self) -> int:
        """N, the number of selected weights."""
        return sum(neuron.weight.numel() for neuron in self.layers)

    @property
    def connections(self) -> int:
        """A, the number of connections that exist: a count of masks, since weights may underflow to 0."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """1 - connections / weights, over the selected weights."""
        return 1 - self.connections / self.weights

    def on_update(self, function: Callable[[Event], None]) -> None:
        """Call ``function(event)`` after every update of the topology."""
        self._callbacks.append(function)

    @torch.no_grad()
    def mask_grads(self) -> None:
        """Mask the gradients in place now, for those who clip them before the optimizer's step."""
        self._take_gradients()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model and the optimizer: step, masks, generator, events."""
        return {
            "method": type(self).__name__,
            "target": self.target,
            "initial_sparsity": self.initial_sparsity,
            "step": self._step,
            "overdue": self._overdue,
            "schedule": asdict(self.schedule),
            "generator": self._generator.get_state(),
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "events": [asdict(event) for event in self.events],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, in any order with the model's and the optimizer's ``load_state_dict``.

        Args:
            state: What ``state_dict()`` returned.

        Raises:
            ValueError: If it is another method's, or another network's.
        """
        if state["method"] != type(self).__name__:
            raise ValueError(
                f"the saved topology is {state['method']}'s, this is {type(self).__name__}: build the same"
            )
        saved = {name: tuple(mask.shape) for name, mask in state["masks"].items()}
        ours = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        if saved != ours:
            differing = sorted(set(saved.items()) ^ set(ours.items()))[:4]
            raise ValueError(f"the saved masks are those of another network or selection; they differ in {differing}")
        self.target, self.initial_sparsity = state["target"], state["initial_sparsity"]
        self.schedule = UpdateSchedule(**state["schedule"])
        self._step, self._overdue = state["step"], state["overdue"]
        self._generator.set_state(state["generator"].cpu())
        self.events = [Event(**event) for event in state["events"]]
        for neuron in self.layers:
            set_mask(neuron, state["masks"][neuron.name])
        self._mark_stale()

    def detach(self) -> None:
        """Take the hooks off the optimizer; the masks stay on the model as buffers but are no longer enforced."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for neuron in self.layers:
            if hasattr(self.optimizer, "on_topology"):
                self.optimizer.on_topology(neuron.weight, None)

    @torch.no_grad()
    def finalize(self) -> nn.Module:
        """End the method: apply the masks a last time and leave a plain module with a plain state_dict.

        Returns:
            The model.

        Warns:
            LpSphereWarning: If the target was not reached.
        """
        if any(get_mask(neuron) is None for neuron in self.layers):
            return self.model
        goal = self._connections_at(self.target)
        if self.connections != goal:
            warnings.warn(
                f"finalized after {self._step} steps at sparsity {self.sparsity:.4f}, not at the target "
                f"{self.target:g}: the last update is due after step {self.schedule.last} (total_steps times end)",
                LpSphereWarning,
                stacklevel=2,
            )
        for neuron in self.layers:
            neuron.weight.masked_fill_(~self._mask(neuron), 0)
        self.detach()
        for neuron in self.layers:
            del neuron.module._buffers[buffer_name(neuron)]
        return self.model

    # The order of a step.

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._stale:
            self._apply_masks()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._take_gradients()
            return None

        def masked_closure() -> Any:
            loss = closure()
            with torch.no_grad():
                self._ready = False
                self._take_gradients()
            return loss

        if len(args) > 1:
            return (args[0], masked_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": masked_closure}

    def _take_gradients(self) -> None:
        """Scores at an update, then masked gradients; once a step."""
        if self._ready:
            return
        self._ready = True
        gradients = [neuron.weight.grad for neuron in self.layers]
        if self._overdue or self.schedule.is_update(self._step + 1):
            self._grow_scores = [
                torch.zeros_like(neuron.weight) if gradient is None else self.grow_scores(neuron, gradient)
                for neuron, gradient in zip(self.layers, gradients, strict=True)
            ]
        for neuron, gradient in zip(self.layers, gradients, strict=True):
            if gradient is not None:
                gradient.mul_(self._mask(neuron))

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._step += 1
        self._ready = False
        for neuron in self.layers:
            if not self._owned_by_optimizer(neuron):
                neuron.weight.mul_(self._mask(neuron))
        scores, self._grow_scores = self._grow_scores, None
        if scores is None:
            return
        self._overdue = not all(bool(score.isfinite().all()) for score in scores)
        if self._overdue:
            warnings.warn(
                f"the gradients of step {self._step} are not finite: the topology stays as it was and is updated after "
                "the next step whose gradients are",
                LpSphereWarning,
                stacklevel=3,
            )
            return
        self._update(scores)

    def _update(self, grow_scores: list[Tensor]) -> None:
        masks = [self._mask(neuron) for neuron in self.layers]
        device = masks[0].device
        drop_scores = [self.drop_scores(neuron, mask).float() for neuron, mask in zip(self.layers, masks, strict=True)]
        free = [
            mask & ~self._protected(neuron, mask, score)
            for neuron, mask, score in zip(self.layers, masks, drop_scores, strict=True)
        ]
        candidates = torch.cat([score[f].to(device) for score, f in zip(drop_scores, free, strict=True)])
        openings = torch.cat([score[~mask].float().to(device) for score, mask in zip(grow_scores, masks, strict=True)])
        drops, grows = self.budget(self.schedule.progress(self._step), candidates)
        dropped, grown = lowest(candidates, drops), lowest(-openings.abs(), grows)
        threshold = float(candidates[dropped].max()) if drops else 0.0
        dropped_in: dict[str, int] = {}
        grown_in: dict[str, int] = {}
        for neuron, mask, f, score in zip(self.layers, masks, free, grow_scores, strict=True):
            here_dropped, dropped = dropped[: int(f.sum())], dropped[int(f.sum()) :]
            here_grown, grown = grown[: int((~mask).sum())], grown[int((~mask).sum()) :]
            drop, grow = torch.zeros_like(mask), torch.zeros_like(mask)
            drop[f], grow[~mask] = here_dropped.to(mask.device), here_grown.to(mask.device)
            dropped_in[neuron.name], grown_in[neuron.name] = int(drop.sum()), int(grow.sum())
            set_mask(neuron, (mask & ~drop) | grow)
            self._apply_mask(neuron, changed=drop | grow, new_weights=self.new_weights(score, grow))
        event = Event(self._step, self.sparsity, threshold, dropped_in, grown_in)
        self.events.append(event)
        for function in self._callbacks:
            function(event)

    # Masks and what hangs on them.

    def _mask(self, neuron: NeuronWeight) -> Tensor:
        mask = get_mask(neuron)
        if mask is None:
            raise RuntimeError(f"{neuron.name} has no mask: the method was finalized, or its buffer was removed")
        return mask

    def _owned_by_optimizer(self, neuron: NeuronWeight) -> bool:
        return neuron.name in self._owned

    def _apply_masks(self) -> None:
        self._stale = False
        self._owned: set[str] = set()
        for neuron in self.layers:
            self._apply_mask(neuron)

    def _apply_mask(
        self, neuron: NeuronWeight, changed: Tensor | None = None, new_weights: Tensor | None = None
    ) -> None:
        """Zero what is inactive and the state of what changed; an optimizer that knows masks is asked first."""
        weight, mask = neuron.weight, self._mask(neuron)
        on_topology = getattr(self.optimizer, "on_topology", None)
        if on_topology is not None and on_topology(weight, mask, new_weights):
            self._owned.add(neuron.name)
            return
        cleared = ~mask if changed is None else ~mask | changed
        for value in self.optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(cleared, 0)
        weight.masked_fill_(~mask, 0)
        if new_weights is not None:
            split, dims = neuron.layout.split(weight), neuron.layout.fan_in_dims(weight)
            mean = split.abs().sum(dims, keepdim=True) / (split != 0).sum(dims, keepdim=True).clamp(min=1)
            split.add_(neuron.layout.split(new_weights) * mean)

    def _mark_stale(self, *_: Any) -> None:
        """State was loaded: weights, masks and optimizer state may disagree until the next step begins."""
        self._stale = True

    def _protected(self, neuron: NeuronWeight, mask: Tensor, scores: Tensor) -> Tensor:
        """The ``min_fan_in`` connections of each neuron with the largest scores; they are never dropped."""
        if self.min_fan_in == 0:
            return torch.zeros_like(mask)
        rows = neuron.layout.to_rows(scores.masked_fill(~mask, -1))
        largest = rows.sort(dim=1, descending=True, stable=True).indices[:, : self.min_fan_in]
        kept = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, largest, True)
        return neuron.layout.from_rows(kept, mask)

    def _initial_masks(self, initial: float | Literal["keep"], distribution: str) -> list[Tensor]:
        existing = [get_mask(neuron) for neuron in self.layers]
        if initial == "keep":
            kept = [n.weight != 0 if mask is None else mask for n, mask in zip(self.layers, existing, strict=True)]
            sparsity = 1 - sum(int(mask.sum()) for mask in kept) / self.weights
            if sum(int(mask.sum()) for mask in kept) < self._connections_at(self.target):
                raise ValueError(
                    f'initial_sparsity="keep" starts at {sparsity:.4f}, above the target {self.target:g}: raise '
                    "sparsity, or give initial_sparsity a number"
                )
            return kept
        if any(mask is not None for mask in existing):
            raise ValueError(
                "the model has masks already: finalize() the method that made them, or continue from them with "
                'initial_sparsity="keep"'
            )
        start = min(_check_sparsity("initial_sparsity", initial), self.target)
        counts = layer_connections(
            [neuron.weight.shape for neuron in self.layers],
            self._connections_at(start),
            [self._floor(neuron) for neuron in self.layers],
            distribution,
        )
        return [
            neuron.layout.from_rows(
                random_mask(neuron.neurons, neuron.fan_in, count, self.min_fan_in, self._generator), neuron.weight
            )
            for neuron, count in zip(self.layers, counts, strict=True)
        ]

    def _floor(self, neuron: NeuronWeight) -> int:
        return neuron.neurons * min(self.min_fan_in, neuron.fan_in)

    @property
    def _fewest(self) -> int:
        """F, the connections that must stay."""
        return sum(self._floor(neuron) for neuron in self.layers)

    def _connections_at(self, sparsity: float) -> int:
        """T, the connections at a sparsity."""
        return max(round(self.weights * (1 - sparsity)), self._fewest)

    def _check_feasible(self) -> None:
        if not self.layers:
            raise ValueError("no layer is left to make sparse: every selected weight has a rule with sparse=False")
        if round(self.weights * (1 - self.target)) < self._fewest:
            largest = math.floor((1 - self._fewest / self.weights) * 1e4) / 1e4
            raise ValueError(
                f"sparsity {self.target:g} leaves {round(self.weights * (1 - self.target)):,} of {self.weights:,} "
                f"connections, but {self._fewest:,} are needed so that each neuron keeps {self.min_fan_in}: the largest "
                f"feasible sparsity is {largest:.4f}. Choose that or less, or min_fan_in=0"
            )


def _check_sparsity(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1): the fraction of connections that are gone; got {value}")
    return float(value)


def _unwrap(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's, which have no step hooks of their own."""
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected a torch optimizer, got {type(optimizer).__name__}")
    return optimizer


def _check_owned(layers: Sequence[NeuronWeight], optimizer: Optimizer) -> None:
    owned = {id(param) for group in optimizer.param_groups for param in group["params"]}
    missing = [neuron.name for neuron in layers if id(neuron.weight) not in owned]
    if missing:
        raise ValueError(
            f"the optimizer does not have {', '.join(missing[:5])}: build it from the same model, or leave the layers "
            "out with Rule(name, p=None, sparse=False)"
        )
