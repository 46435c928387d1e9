"""The frame of every topology method: masks, the order of a step by the optimizer's hooks, counts, state.

A method decides how many connections are dropped and grown, and by which scores; everything else is here. The
order of a step: gradients complete -> scores taken at an update -> gradients masked -> optimizer step -> weights
masked -> at an update: new masks, dropped weights and the optimizer state of dropped and grown entries zeroed,
neurons back on their spheres -> event.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import LpSphereWarning, NeuronWeight, Rule, select
from lpsphere.topology.checks import check_feasible, check_min_fan_in, check_owned, check_sparsity, unwrap
from lpsphere.topology.distributions import check_distribution
from lpsphere.topology.masks import (
    buffer_name,
    existing_masks,
    fewest_connections,
    get_mask,
    lowest,
    protected,
    random_masks,
    set_mask,
)
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
        self.target = check_sparsity("sparsity", sparsity)
        self.schedule = UpdateSchedule.of_training(total_steps, begin, end, every)
        self.min_fan_in = check_min_fan_in(min_fan_in)
        self.model = model
        self.optimizer: Optimizer = unwrap(optimizer)
        self.layers = [neuron for neuron in select(model, rules, include_last) if neuron.sparse]
        self.events: list[Event] = []
        self._step = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._callbacks: list[Callable[[Event], None]] = []
        self._grow_scores: list[Tensor] | None = None
        self._ready = False
        self._overdue = False
        self._stale = False
        self._owned: dict[str, Tensor] = {}
        check_feasible(self.layers, self.target, self.min_fan_in)
        check_owned(self.layers, self.optimizer)
        self._check_alone()
        masks = self._initial_masks(initial_sparsity, check_distribution(distribution))
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
        """Mask the gradients in place now, for those who clip them: call it once, when they are complete."""
        self._take_gradients()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model and the optimizer: settings, step, masks, generator, events."""
        return {
            "method": type(self).__name__,
            "target": self.target,
            "min_fan_in": self.min_fan_in,
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

        Its settings replace those that were given here, as an optimizer's do.

        Args:
            state: What ``state_dict()`` returned.

        Raises:
            ValueError: If it is another method's, or another network's.
        """
        if state.get("method") != type(self).__name__:
            raise ValueError(
                f"the saved topology is {state.get('method')}'s, this is {type(self).__name__}: build the same, and "
                "give it what its own state_dict() returned"
            )
        saved = {name: tuple(mask.shape) for name, mask in state["masks"].items()}
        ours = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        if saved != ours:
            differing = sorted(set(saved.items()) ^ set(ours.items()))[:4]
            raise ValueError(f"the saved masks are those of another network or selection; they differ in {differing}")
        self.target, self.initial_sparsity = state["target"], state["initial_sparsity"]
        self.min_fan_in, self.schedule = state["min_fan_in"], UpdateSchedule(**state["schedule"])
        self._step, self._overdue = state["step"], state["overdue"]
        self._generator.set_state(state["generator"].cpu())
        self.events = [Event(**event) for event in state["events"]]
        for neuron in self.layers:
            set_mask(neuron, state["masks"][neuron.name])
        self._ready, self._grow_scores = False, None
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
            due = "is due" if self._step < self.schedule.last else "was"
            warnings.warn(
                f"finalized after {self._step} steps at sparsity {self.sparsity:.4f}, not at the target "
                f"{self.target:g}: the last update {due} after step {self.schedule.last} (total_steps times end)",
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
        if self._stale or self._moved():
            self._apply_masks()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._take_gradients()
            return None

        def masked_closure() -> Any:
            self._ready = False
            loss = closure()
            with torch.no_grad():
                self._take_gradients()
            return loss

        if len(args) > 1:
            return (args[0], masked_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": masked_closure}

    def _take_gradients(self) -> None:
        """Scores at an update, then masked gradients; gradients that `mask_grads` has masked keep their scores."""
        gradients = [(neuron, self._mask(neuron), neuron.weight.grad) for neuron in self.layers]
        if self._ready and not any(g is not None and (g.masked_fill(mask, 0) != 0).any() for _, mask, g in gradients):
            return
        self._ready = True
        if self._overdue or self.schedule.is_update(self._step + 1):
            self._grow_scores = [
                torch.zeros_like(neuron.weight) if gradient is None else self.grow_scores(neuron, gradient)
                for neuron, _, gradient in gradients
            ]
        for _, mask, gradient in gradients:
            if gradient is not None:
                gradient.masked_fill_(~mask, 0)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        scores, self._grow_scores, self._ready = self._grow_scores, None, False
        if bool(getattr(optimizer, "found_inf", False)):
            return  # GradScaler makes a fused optimizer skip the step, but not its hooks
        self._step += 1
        for neuron in self.layers:
            if neuron.name not in self._owned:
                neuron.weight.masked_fill_(~self._mask(neuron), 0)
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
        drop_scores = [self.drop_scores(neuron, mask).float() for neuron, mask in zip(self.layers, masks, strict=True)]
        drops, grows, threshold = self._choose(masks, drop_scores, grow_scores)
        for neuron, mask, drop, grow, score in zip(self.layers, masks, drops, grows, grow_scores, strict=True):
            new_mask = (mask & ~drop) | grow
            changed = new_mask ^ mask
            set_mask(neuron, new_mask)
            self._apply_mask(neuron, changed, self.new_weights(score, grow))
        names = [neuron.name for neuron in self.layers]
        event = Event(
            self._step,
            self.sparsity,
            threshold,
            {name: int(drop.sum()) for name, drop in zip(names, drops, strict=True)},
            {name: int(grow.sum()) for name, grow in zip(names, grows, strict=True)},
        )
        self.events.append(event)
        for function in self._callbacks:
            function(event)

    def _choose(
        self, masks: list[Tensor], drop_scores: list[Tensor], grow_scores: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], float]:
        """What to drop and to grow in each layer, ranked over all of them, and the largest score dropped."""
        device = masks[0].device
        free = [
            mask & ~protected(neuron, mask, score, self.min_fan_in)
            for neuron, mask, score in zip(self.layers, masks, drop_scores, strict=True)
        ]
        closed = [~mask for mask in masks]
        candidates = torch.cat([score[f].to(device) for score, f in zip(drop_scores, free, strict=True)])
        openings = torch.cat([score[c].float().to(device) for score, c in zip(grow_scores, closed, strict=True)])
        drops, grows = self.budget(self.schedule.progress(self._step), candidates)
        dropped, grown = lowest(candidates, drops), lowest(-openings.abs(), grows)
        threshold = float(candidates[dropped].max()) if drops else 0.0
        return _scatter(dropped, free), _scatter(grown, closed), threshold

    # Masks and what hangs on them.

    def _mask(self, neuron: NeuronWeight) -> Tensor:
        mask = get_mask(neuron)
        if mask is None:
            raise RuntimeError(f"{neuron.name} has no mask: the method was finalized, or its buffer was removed")
        return mask

    def _moved(self) -> bool:
        """Whether the optimizer was given masks that ``model.to(device)`` has replaced since."""
        return any(get_mask(neuron) is not self._owned.get(neuron.name, get_mask(neuron)) for neuron in self.layers)

    @torch.no_grad()
    def _apply_masks(self) -> None:
        self._stale = False
        self._owned = {}  # masks that the optimizer keeps to by itself
        for neuron in self.layers:
            self._apply_mask(neuron)

    def _apply_mask(
        self, neuron: NeuronWeight, changed: Tensor | None = None, new_weights: Tensor | None = None
    ) -> None:
        """Zero what is inactive and the state of what changed; an optimizer that knows masks is asked first."""
        weight, mask = neuron.weight, self._mask(neuron)
        on_topology = getattr(self.optimizer, "on_topology", None)
        if on_topology is not None and on_topology(weight, mask, new_weights):
            self._owned[neuron.name] = mask
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

    def _check_alone(self) -> None:
        ours = {id(neuron.weight) for neuron in self.layers}
        for hook in self.optimizer._optimizer_step_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, Topology) and any(id(neuron.weight) in ours for neuron in other.layers):
                raise ValueError(
                    f"a {type(other).__name__} is attached to this model and optimizer already: finalize() it, or "
                    'detach() it and continue from its masks with initial_sparsity="keep"'
                )

    def _initial_masks(self, initial: float | Literal["keep"], distribution: str) -> list[Tensor]:
        if initial == "keep":
            kept = existing_masks(self.layers)
            connections = sum(int(mask.sum()) for mask in kept)
            if connections < self._connections_at(self.target):
                raise ValueError(
                    f'initial_sparsity="keep" starts at {1 - connections / self.weights:.4f}, above the target '
                    f"{self.target:g}: raise sparsity, or give initial_sparsity a number"
                )
            return kept
        if any(get_mask(neuron) is not None for neuron in self.layers):
            raise ValueError(
                "the model has masks already: finalize() the method that made them, or detach() it and continue from "
                'them with initial_sparsity="keep"'
            )
        start = min(check_sparsity("initial_sparsity", initial), self.target)
        return random_masks(self.layers, self._connections_at(start), self.min_fan_in, distribution, self._generator)

    @property
    def _fewest(self) -> int:
        """F, the connections that must stay."""
        return sum(fewest_connections(neuron, self.min_fan_in) for neuron in self.layers)

    def _connections_at(self, sparsity: float) -> int:
        """T, the connections at a sparsity."""
        return max(round(self.weights * (1 - sparsity)), self._fewest)


def _scatter(chosen: Tensor, among: Sequence[Tensor]) -> list[Tensor]:
    """A choice among the True entries of several masks, as masks."""
    chosen_in = []
    for mask, part in zip(among, torch.split(chosen, [int(mask.sum()) for mask in among]), strict=True):
        entries = torch.zeros_like(mask)
        entries[mask] = part.to(mask.device)
        chosen_in.append(entries)
    return chosen_in
