"""The frame of every topology method: what a method decides, counts, updates and state.

A method decides by which scores connections are dropped and grown, and how many. At an update the masks change, dropped
weights become 0, the optimizer state of dropped and grown entries is reset and neurons return to their spheres; when
that is, and how masks hold in between, is in `steps.py`.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import processes, rows_of
from lpsphere.neurons import LpSphereWarning, NeuronWeight, Rule, select
from lpsphere.topology.agreement import broadcast_again, check_sharded, keep_from_broadcast
from lpsphere.topology.checks import (
    check_choice,
    check_feasible,
    check_fraction,
    check_min_fan_in,
    check_owned,
    check_rules,
    check_saved,
    check_sparse_layers,
    check_sparsity,
    unwrap,
)
from lpsphere.topology.counts import Event, Pool
from lpsphere.topology.distributions import check_distribution
from lpsphere.topology.exchange import Exchange, MaskExchange, PlaceExchange
from lpsphere.topology.granularity import Granularity
from lpsphere.topology.growth import Gradient
from lpsphere.topology.masks import drop_mask, set_mask
from lpsphere.topology.places import (
    Reconnection,
    fresh_values,
    has_places,
    places_of,
    reconnect,
    saved_places,
    saved_structure,
    sparse_mask,
)
from lpsphere.topology.ranking import RankedExchanges
from lpsphere.topology.schedules import UpdateSchedule, half_cosine
from lpsphere.topology.start import first_connections

__all__ = ["Event", "Pool", "Topology"]


class Topology(RankedExchanges):
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
            the connections whose weights are not zero, that existing masks allow, or that a sparse layer holds.
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

    needs_dense: ClassVar[bool] = False
    """Whether it chooses among the weights of a dense network, which layers that hold only connections do not have."""

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
        units = Granularity.parse(granularity)
        self.ranking = check_choice("ranking", ranking, ("layer", "network"))
        layers = [neuron for neuron in select(model, rules, include_last) if neuron.sparse]
        super().__init__(model, unwrap(optimizer), layers, units, seed)
        self.events: list[Event] = []
        self._left: int | None = None  # connections, once finalized
        self._callbacks: list[Callable[[Event], None]] = []
        check_sparse_layers(self.layers, self.granularity, type(self).__name__, self.needs_dense)
        check_feasible(self.layers, self.granularity, self.target, self.min_fan_in)
        check_rules(self.layers, self.ranking, type(self).__name__)
        check_owned(self.layers, self.optimizer)
        check_sharded(self.layers, self.granularity)
        self._check_alone()
        found, self._starts, self._goals = first_connections(
            self.layers,
            self.granularity,
            initial_sparsity,
            self.target,
            min_fan_in=self.min_fan_in,
            distribution=check_distribution(distribution),
            constant=self.regrows_dropped,
            generator=self._generator,
            shards=self._shards,
        )
        self.check_start(1 - sum(self._starts) / sum(map(self.granularity.units, self.layers)))
        for neuron, connections in zip(self.layers, found, strict=True):
            if connections is None:
                continue  # the layer keeps those that it has
            if has_places(neuron):
                self._place_first(neuron, connections, seed)
            else:
                set_mask(neuron, connections.to(neuron.weight.device))
        self._counts = self.history[-1][1]
        self.initial_sparsity = self.sparsity
        keep_from_broadcast(model, self._mask_names, processes() > 1)
        self._attach()
        if processes() > 1:
            self._compare(Topology.state_dict(self))  # a subclass may not be complete yet
        self._give_back()

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
            drop_scores: Scores of the units that may be dropped, shape (candidates,); of sharded layers those of the
                rows here, of which `total` counts all.

        Returns:
            (dropped, grown), the same in every process.
        """
        stay = min(pool.active, pool.goal)
        dropped = pool.active - stay + int(half_cosine(self.drop_fraction, progress) * stay)
        dropped = min(dropped, self.total(len(drop_scores)))
        return dropped, max(0, pool.goal - (pool.active - dropped))

    def new_weights(self, grow_scores: Tensor, grown: Tensor) -> Tensor | None:
        """Where new connections start, in units of their neuron's mean |v|, in the shape of the weight; None: at 0."""
        return None

    # What users ask for.

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name, bool, (neurons, ...): True where the connection exists.

        In the shape of the weights, and sharded as they are; that of a layer which holds only its connections is a new
        tensor in torch's COO format, of which ``to_dense()`` makes a mask.
        """
        return {n.name: sparse_mask(n) if has_places(n) else self._shared_mask(n) for n in self.layers}

    @property
    def weights(self) -> int:
        """N, the number of selected weights."""
        return sum(neuron.size for neuron in self.layers)

    @property
    def connections(self) -> int:
        """A, the number of connections that exist: a count of masks, since weights may underflow to 0.

        Of sharded layers, the count of the last update, which asks no other process.
        """
        return sum(map(self._connections_of, self.layers)) if self._left is None else self._left

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
            "masks": {
                n.name: saved_structure(n) if has_places(n) else self._shared_mask(n).clone() for n in self.layers
            },
            "events": tuple(asdict(event) for event in self.events),  # one value to torch.distributed.checkpoint
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
        shapes = {n.name: (*n.shape, "held") if has_places(n) else n.shape for n in self.layers}
        check_saved(state, type(self).__name__, shapes)
        self.target, self.initial_sparsity = state["target"], state["initial_sparsity"]
        self.drop_fraction, self.min_fan_in = state["drop_fraction"], state["min_fan_in"]
        self.granularity, self.ranking = Granularity.parse(state["granularity"]), state["ranking"]
        self._starts, self._goals = list(state["starts"]), list(state["goals"])
        self.schedule = UpdateSchedule(**state["schedule"])
        self._step, self._overdue = state["step"], state["overdue"]
        self._generator.set_state(state["generator"].cpu())
        self.events = [Event(**event) for event in state["events"]]
        for neuron in self.layers:
            saved = state["masks"][neuron.name]
            if has_places(neuron):
                self._place(neuron, saved_places(saved).to(neuron.weight.device))
            else:
                set_mask(neuron, rows_of(saved, neuron.parameter))
        self._counts = self.history[-1][1]
        self._taken, self._gradients = None, None
        self._joined = False
        self._mark_stale()
        self._keep_factors()

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
        if self._left is not None:
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
        for neuron in self._masked:
            neuron.weight.masked_fill_(~self._mask(neuron), 0)
        self.detach()
        self._left = self.connections
        broadcast_again(self.model, self._mask_names)
        for neuron in self._masked:
            drop_mask(neuron)
        return self.model

    def _update(self, gradients: list[Gradient | None]) -> None:
        self._give_back()
        exchanges, threshold = self._exchange(gradients)
        changes = []
        for i, neuron in enumerate(self.layers):
            changes.append(self._carry_out(neuron, exchanges.pop(i, None)))
            self._give_back()
        counts = self.totals([count for change in zip(*changes, strict=True) for count in change])
        names = [neuron.name for neuron in self.layers]
        dropped = dict(zip(names, counts[: len(names)], strict=True))
        regrown = dict(zip(names, counts[len(names) :], strict=True))
        self._counts = {name: self._counts[name] - dropped[name] + regrown[name] for name in names}
        event = Event(self._step, self.sparsity, threshold, dropped, regrown)
        self.events.append(event)
        for function in self._callbacks:
            function(event)

    def _carry_out(self, neuron: NeuronWeight, exchange: Exchange | None) -> tuple[int, int]:
        """Do what was chosen; returns how many connections exist no more, and how many are new."""
        if isinstance(exchange, PlaceExchange):
            now, starts = exchange.outcome()
            return reconnect(self.optimizer, neuron, now, self._fresh_state, starts=starts)
        if has_places(neuron):
            return 0, 0
        mask = self._mask(neuron)
        new_mask, starts = (exchange.mask, exchange.starts) if isinstance(exchange, MaskExchange) else (mask, None)
        changed = new_mask ^ mask
        counts = int((changed & mask).sum()), int((changed & new_mask).sum())
        set_mask(neuron, new_mask)
        self._apply_mask(neuron, changed, starts)
        return counts

    def _place_first(self, neuron: NeuronWeight, places: Tensor, seed: int) -> None:
        """Give a layer the connections to start from; those that it had keep their weights."""
        if torch.equal(places, places_of(neuron)):
            return
        now = Reconnection.to_places(neuron, places)
        lacking = int(now.new.sum())
        values = fresh_values(neuron, lacking, seed) if lacking else None
        reconnect(self.optimizer, neuron, now, self._fresh_state, values=values)

    def _place(self, neuron: NeuronWeight, places: Tensor) -> None:
        """Give a layer saved connections; its weights, and the optimizer's state, may be loaded before or after."""
        if not torch.equal(places, places_of(neuron)):
            now = Reconnection.to_places(neuron, places)
            reconnect(None if self._loaded else self.optimizer, neuron, now, self._fresh_state)
