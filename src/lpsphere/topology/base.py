"""The frame of every topology method: what a method decides, counts, updates and state.

A method decides by which scores connections are dropped and grown, and how many. At an update the masks change, dropped
weights become 0, the optimizer state of dropped and grown entries is reset and neurons return to their spheres; when
that is, and how masks hold in between, is in `steps.py`.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.neurons import LpSphereWarning, NeuronWeight, Rule, select
from lpsphere.topology.checks import (
    check_choice,
    check_feasible,
    check_fraction,
    check_min_fan_in,
    check_owned,
    check_rules,
    check_saved,
    check_sparsity,
    unwrap,
)
from lpsphere.topology.distributions import check_distribution
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.masks import buffer_name, lowest, scatter, set_mask, top_of_group
from lpsphere.topology.schedules import UpdateSchedule, half_cosine
from lpsphere.topology.start import first_masks
from lpsphere.topology.steps import MaskedSteps

__all__ = ["Event", "Pool", "Topology"]


@dataclass(frozen=True)
class Event:
    """One update of the topology.

    Attributes:
        step: Optimizer steps taken.
        sparsity: Sparsity after it, over the selected weights.
        threshold: The largest score that was dropped (relative magnitude for `SemiPruning`); 0 if none was.
        dropped: Connections of each layer that exist no more.
        regrown: Connections of each layer that did not exist before.
    """

    step: int
    sparsity: float
    threshold: float
    dropped: dict[str, int]
    regrown: dict[str, int]


@dataclass(frozen=True)
class Pool:
    """What is ranked together, one layer or the whole network, in units: connections, or blocks of them.

    Attributes:
        units: N, all of them.
        active: A, those that exist.
        fewest: F, those that must stay.
        start: Those that existed when the method was attached.
        goal: Those that exist at the target sparsity.
    """

    units: int
    active: int
    fewest: int
    start: int
    goal: int

    def at(self, sparsity: float) -> int:
        """T, the units at a sparsity."""
        return max(round(self.units * (1 - sparsity)), self.fewest)


class Topology(MaskedSteps):
    """Base of the topology methods; attaches to a model and any torch optimizer by the optimizer's step hooks.

    A method is a subclass with `drop_scores` and `grow_scores`. As it stands, the base keeps the sparsity constant:
    at an update each layer drops a fraction of its connections, which falls to 0 by a half cosine, and grows as many.
    What was dropped may be grown back at once and then keeps its weight and its optimizer state.

    Args:
        model: The model; `lpsphere.neurons.select` decides which weights are masked.
        optimizer: The optimizer that trains them; any of torch's but LBFGS and SparseAdam.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        total_steps: Optimizer steps of the whole training.
        initial_sparsity: Sparsity of the random mask at the start, capped at the target; None: the target; "keep":
            the connections whose weights are not zero, or that existing masks allow.
        begin: Fraction of training at the first update.
        end: Fraction of training at the last update.
        every: Optimizer steps between updates; None: max(1, min(40, total_steps // 100)), and at least 10 where an
            update takes the place of a gradient step.
        drop_fraction: Fraction of the connections dropped at the first update.
        min_fan_in: Connections every neuron keeps.
        distribution: Densities of the layers, "uniform" or "erk"; a rule with ``sparsity`` fixes a layer's.
        granularity: What exists or not as one: "weight", N of every M consecutive weights of a neuron such as "2:4",
            or blocks of neurons x inputs such as "4x1".
        ranking: Whether connections compete within their "layer" or in the whole "network"; there every layer finds
            its own density, and ``distribution`` shapes the first mask only.
        rules: As for `lpsphere.param_groups`; a rule with ``sparse=False`` leaves a layer dense.
        include_last: Mask the output layer too.
        seed: Seed of the random choices.

    Raises:
        TypeError, ValueError: If an argument is out of range, the target leaves fewer than ``min_fan_in`` connections
            per neuron, the model has masks already, or the optimizer lacks a selected weight or is not supported.
    """

    regrows_dropped: ClassVar[bool] = True
    """Whether what an update drops may be grown back by it; the sparsity of such a method is constant."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sparsity: float,
        total_steps: int,
        initial_sparsity: float | Literal["keep"] | None = None,
        begin: float = 0.0,
        end: float = 0.75,
        every: int | None = None,
        drop_fraction: float = 0.3,
        min_fan_in: int = 0,
        distribution: str = "uniform",
        granularity: str = "weight",
        ranking: str = "layer",
        rules: Sequence[Rule] | None = None,
        include_last: bool = False,
        seed: int = 0,
    ) -> None:
        self.target = check_sparsity("sparsity", sparsity)
        self.schedule = UpdateSchedule.of_training(total_steps, begin, end, every, 10 if self.replaces_step else 1)
        self.drop_fraction = check_fraction("drop_fraction", drop_fraction)
        self.min_fan_in = check_min_fan_in(min_fan_in)
        self.granularity = Granularity.parse(granularity)
        self.ranking = check_choice("ranking", ranking, ("layer", "network"))
        self.model = model
        super().__init__(unwrap(optimizer), [neuron for neuron in select(model, rules, include_last) if neuron.sparse])
        self.events: list[Event] = []
        self._finalized = False
        self._generator = torch.Generator().manual_seed(seed)
        self._callbacks: list[Callable[[Event], None]] = []
        check_feasible(self.layers, self.granularity, self.target, self.min_fan_in)
        check_rules(self.layers, self.ranking, type(self).__name__)
        check_owned(self.layers, self.optimizer)
        self._check_alone()
        masks, self._starts, self._goals = first_masks(
            self.layers,
            self.granularity,
            initial_sparsity,
            self.target,
            min_fan_in=self.min_fan_in,
            distribution=check_distribution(distribution),
            constant=self.regrows_dropped,
            generator=self._generator,
        )
        self.check_start(1 - sum(self._starts) / sum(map(self.granularity.units, self.layers)))
        for neuron, mask in zip(self.layers, masks, strict=True):
            set_mask(neuron, mask.to(neuron.weight.device))
        self.initial_sparsity = self.sparsity
        self._attach()

    # What a method decides.

    @abstractmethod
    def drop_scores(self, neuron: NeuronWeight, mask: Tensor) -> Tensor:
        """A score of at least 0 for each connection, in the shape of the weight; the smallest are dropped."""

    @abstractmethod
    def grow_scores(self, neuron: NeuronWeight, gradient: Tensor) -> Tensor:
        """A score for each weight, in its shape; the connections of largest magnitude are grown.

        Args:
            neuron: The layer.
            gradient: The dense gradient of this step, without a loss scale.

        Ranked by magnitude: a sign may tell `new_weights` where to start.
        """

    def check_start(self, sparsity: float) -> None:
        """Refuse a sparsity to start from; nothing has been changed yet."""

    def budget(self, progress: float, pool: Pool, drop_scores: Tensor) -> tuple[int, int]:
        """How many units to drop and to grow at an update: here, a fraction of them and as many.

        Args:
            progress: The fraction of the evolution that is done, in [0, 1].
            pool: The counts.
            drop_scores: Scores of the units that may be dropped, shape (candidates,).

        Returns:
            (dropped, grown).
        """
        stay = min(pool.active, pool.goal)
        dropped = pool.active - stay + int(half_cosine(self.drop_fraction, progress) * stay)
        dropped = min(dropped, len(drop_scores))
        return dropped, max(0, pool.goal - (pool.active - dropped))

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

    @property
    def history(self) -> list[tuple[int, dict[str, int]]]:
        """After which step each layer had how many connections: first at the start, then after every update."""
        counts = {n.name: start * self.granularity.unit for n, start in zip(self.layers, self._starts, strict=True)}
        found = [(0, dict(counts))]
        for event in self.events:
            for name in counts:
                counts[name] += event.regrown[name] - event.dropped[name]
            found.append((event.step, dict(counts)))
        return found

    def on_update(self, function: Callable[[Event], None]) -> None:
        """Call ``function(event)`` after every update of the topology."""
        self._callbacks.append(function)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model and the optimizer: settings, step, masks, generator, events."""
        return {
            "method": type(self).__name__,
            "target": self.target,
            "drop_fraction": self.drop_fraction,
            "min_fan_in": self.min_fan_in,
            "granularity": str(self.granularity),
            "ranking": self.ranking,
            "initial_sparsity": self.initial_sparsity,
            "starts": list(self._starts),
            "goals": list(self._goals),
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
        check_saved(state, type(self).__name__, self.masks)
        self.target, self.initial_sparsity = state["target"], state["initial_sparsity"]
        self.drop_fraction, self.min_fan_in = state["drop_fraction"], state["min_fan_in"]
        self.granularity, self.ranking = Granularity.parse(state["granularity"]), state["ranking"]
        self._starts, self._goals = list(state["starts"]), list(state["goals"])
        self.schedule = UpdateSchedule(**state["schedule"])
        self._step, self._overdue = state["step"], state["overdue"]
        self._generator.set_state(state["generator"].cpu())
        self.events = [Event(**event) for event in state["events"]]
        for neuron in self.layers:
            set_mask(neuron, state["masks"][neuron.name])
        self._taken, self._gradients = None, None
        self._mark_stale()

    @torch.no_grad()
    def finalize(self) -> nn.Module:
        """End the method: apply the masks a last time and leave a plain module with a plain state_dict.

        Returns:
            The model.

        Raises:
            ValueError: If this method was detached and another one holds the masks now.

        Warns:
            LpSphereWarning: If the target was not reached.
        """
        if self._finalized:
            return self.model
        self._check_alone()
        if self.connections != sum(self._goals) * self.granularity.unit:
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
        self._finalized = True
        for neuron in self.layers:
            del neuron.module._buffers[buffer_name(neuron)]
        return self.model

    def _update(self, gradients: list[Tensor | None]) -> None:
        new_masks, starts, threshold = self._exchange(gradients)
        dropped, regrown = {}, {}
        for neuron, new_mask, start in zip(self.layers, new_masks, starts, strict=True):
            mask = self._mask(neuron)
            changed = new_mask ^ mask
            dropped[neuron.name] = int((changed & mask).sum())
            regrown[neuron.name] = int((changed & new_mask).sum())
            set_mask(neuron, new_mask)
            self._apply_mask(neuron, changed, start)
        event = Event(self._step, self.sparsity, threshold, dropped, regrown)
        self.events.append(event)
        for function in self._callbacks:
            function(event)

    def _exchange(self, gradients: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None], float]:
        """The new masks, where new connections start, and the largest score dropped."""
        masks, largest = [self._mask(neuron) for neuron in self.layers], 0.0
        starts: list[Tensor | None] = [None] * len(masks)
        for pool in self._pools():
            counts = self._count(pool)
            moving = [i for i in pool if gradients[i] is not None]
            if self.regrows_dropped and counts.active == counts.goal and moving != pool:
                if not moving:
                    continue
                pool, counts = moving, self._count(moving)  # the others, such as frozen ones, are left alone
                counts = replace(counts, goal=counts.active)
            kept, threshold, grow, scores = self._drop_then_grow(pool, counts, gradients)
            for i, keep, new, score in zip(pool, kept, grow, scores, strict=True):
                masks[i] = self.granularity.spread(self.layers[i], keep | new)
                starts[i] = self.new_weights(score, masks[i] & ~self._mask(self.layers[i]))
            largest = max(largest, threshold)
        return masks, starts, largest

    def _drop_then_grow(
        self, pool: Sequence[int], counts: Pool, gradients: list[Tensor | None]
    ) -> tuple[list[Tensor], float, list[Tensor], list[Tensor]]:
        """Of layers that are ranked together: units kept, the largest score dropped, units grown, scores of weights."""
        layers, grid = [self.layers[i] for i in pool], self.granularity.grid
        device = layers[0].weight.device
        active = [grid(neuron, self._mask(neuron)) for neuron in layers]
        size = [grid(n, self.drop_scores(n, self._mask(n)).float()) for n in layers]
        free = [
            units & ~top_of_group(score, units, self._fewest_in_group(neuron))
            for neuron, units, score in zip(layers, active, size, strict=True)
        ]
        candidates = torch.cat([score[f].to(device) for score, f in zip(size, free, strict=True)])
        drops, grows = self.budget(self.schedule.progress(self._step), counts, candidates)
        dropped = lowest(candidates, drops)
        kept = [units & ~drop for units, drop in zip(active, scatter(dropped, free), strict=True)]
        scores = [
            torch.zeros_like(neuron.weight) if gradient is None else self.grow_scores(neuron, gradient)
            for neuron, gradient in zip(layers, [gradients[i] for i in pool], strict=True)
        ]
        appeal = [grid(neuron, score.float().abs()) for neuron, score in zip(layers, scores, strict=True)]
        open_ = [~units for units in (kept if self.regrows_dropped else active)]
        if self.regrows_dropped and self.granularity.pattern is not None:
            room = [self.granularity.pattern[0] - units.sum(1) for units in kept]
            open_ = [top_of_group(a, o, r) for a, o, r in zip(appeal, open_, room, strict=True)]
        openings = torch.cat([a[o].to(device) for a, o in zip(appeal, open_, strict=True)])
        grown = scatter(lowest(-openings, grows), open_)
        return kept, float(candidates[dropped].max()) if drops else 0.0, grown, scores

    def _pools(self) -> list[list[int]]:
        """The layers, by index, that are ranked together."""
        indices = list(range(len(self.layers)))
        return [indices] if self.ranking == "network" else [[i] for i in indices]

    def _count(self, pool: Sequence[int]) -> Pool:
        layers = [self.layers[i] for i in pool]
        return Pool(
            units=sum(self.granularity.units(neuron) for neuron in layers),
            active=sum(int(self._mask(neuron).sum()) for neuron in layers) // self.granularity.unit,
            fewest=sum(self.granularity.fewest(neuron, self.min_fan_in) for neuron in layers),
            start=sum(self._starts[i] for i in pool),
            goal=sum(self._goals[i] for i in pool),
        )

    def _fewest_in_group(self, neuron: NeuronWeight) -> int:
        """Units of a group that are never dropped; where a pattern is full at all times, growing restores it."""
        if self.regrows_dropped and self.granularity.pattern is not None:
            return 0
        return self.granularity.fewest_in_group(neuron, self.min_fan_in)
