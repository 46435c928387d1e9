"""Masks kept through the steps of any torch optimizer, by its step hooks; and when a step is one that updates them.

The order of a step: gradients complete -> dense gradients kept at an update -> gradients masked -> optimizer step
(none, where the update replaces it) -> weights masked -> the update. A layer that holds only its connections needs no
masking; it is asked to keep the factors of its dense gradient when the step that comes is an update. Knows layers,
masks and optimizer state; which connections exist is decided by its subclasses.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import local, shards_of
from lpsphere.geometry import row_sums
from lpsphere.memory import give_back
from lpsphere.neurons import LpSphereWarning, NeuronWeight
from lpsphere.topology.growth import FactoredGradient, Gradient
from lpsphere.topology.masks import get_mask, zero_outside
from lpsphere.topology.places import clear_misfits, has_places, layer_of
from lpsphere.topology.schedules import UpdateSchedule

__all__ = ["MaskedSteps"]


class MaskedSteps(ABC):
    """Layers whose masks hold at every step of an optimizer.

    Args:
        optimizer: A torch optimizer, which has the weights of the layers.
        layers: The layers; each has a mask when `_attach` is called, or holds only its connections.
    """

    replaces_step: ClassVar[bool] = False
    """Whether an update takes the place of the gradient step: then no parameter moves, and it counts as a step."""
    uses_gradient: ClassVar[bool] = True
    """Whether an update looks at the dense gradient, which is then kept over the step before it."""

    schedule: UpdateSchedule

    def __init__(self, optimizer: Optimizer, layers: list[NeuronWeight]) -> None:
        self.optimizer, self.layers = optimizer, layers
        self._masked = [neuron for neuron in layers if not has_places(neuron)]
        self._held = [neuron for neuron in layers if has_places(neuron)]
        self._shards = shards_of([neuron.parameter for neuron in layers])
        self._handles: list[Any] = []
        self._step = 0
        self._gradients: list[Tensor | None] | None = None  # kept for the update that follows this step
        self._withheld: list[tuple[Tensor, Tensor]] = []  # gradients that this step must not follow
        self._taken: list[Tensor | None] | None = None  # the gradients that were masked for the coming step
        self._stepping = False
        self._overdue = False
        self._rebuilt = False  # whether the last step was an update
        self._warned = False
        self._joined = False
        self._stale, self._loaded = False, False
        self._owned: dict[str, Tensor] = {}  # masks that the optimizer keeps to by itself

    @abstractmethod
    def _join(self) -> None:
        """See, before the first step, that all processes that train together start from the same."""

    @abstractmethod
    def _update(self, gradients: list[Gradient | None]) -> None:
        """Change the masks after a step; the dense gradients are without a loss scale, None where there is none.

        They may be taken out of the list.
        """

    @torch.no_grad()
    def mask_grads(self) -> None:
        """Mask the gradients in place now, for those who clip them: call it once, when they are complete."""
        self._take_gradients()

    def detach(self) -> None:
        """Take the hooks off the optimizer; the masks stay on the model as buffers but are no longer enforced."""
        if not self._handles:
            return  # another method may be attached by now
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for neuron in self._held:
            layer_of(neuron).keep_factors(False)
        for neuron in self._masked:
            if hasattr(self.optimizer, "on_topology"):
                self.optimizer.on_topology(neuron.parameter, None)

    def _attach(self) -> None:
        self._apply_masks()
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
            self.optimizer.register_load_state_dict_post_hook(self._mark_loaded),
        ]
        self._keep_factors()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None and self._is_blank():
            return None
        if not self._joined:
            self._join()
        self._stepping = True
        for neuron in self._held:
            clear_misfits(optimizer, neuron)
        if self._stale or self._moved():
            self._apply_masks()
        if closure is None:
            self._take_gradients()
            self._withhold_gradients()
            return None

        def masked_closure() -> Any:
            self._taken = None
            loss = closure()
            with torch.no_grad():
                self._take_gradients()
                self._withhold_gradients()
            return loss

        if len(args) > 1:
            return (args[0], masked_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": masked_closure}

    def _is_blank(self) -> bool:
        """Whether the step is only to make an optimizer's state.

        ``torch.distributed.checkpoint`` takes it, with rates and gradients of 0, before it saves or loads a new one's.
        """
        groups = self.optimizer.param_groups
        if any(group.get("lr", 1) != 0 for group in groups):
            return False
        gradients = [p.grad for group in groups for p in group["params"] if p.requires_grad]
        return not self._anywhere(any(g is None or bool(local(g).any()) for g in gradients))

    def _anywhere(self, value: bool) -> bool:
        """Whether it holds in one of the processes that share the layers."""
        return value if self._shards is None else self._shards.any(value)

    def _take_gradients(self) -> None:
        """Keep dense gradients at an update, then mask; gradients that `mask_grads` has masked are kept already."""
        gradients = [(neuron, self._mask(neuron), neuron.gradient) for neuron in self._masked]
        if self._taken is not None and not self._anywhere(self._renewed(gradients)):
            return
        self._taken = [gradient for _, _, gradient in gradients]
        self._gradients = None
        if self._is_due():
            self._gradients = [g.clone() if g is not None and self.uses_gradient else g for _, _, g in gradients]
        for _, mask, gradient in gradients:
            if gradient is not None:
                zero_outside(gradient, mask)

    def _is_due(self) -> bool:
        """Whether the step that comes is one that updates the masks."""
        return self._overdue or self.schedule.is_update(self._step + 1)

    def _keep_factors(self) -> None:
        """Ask for the factors of the dense gradients of the step that comes, if they are needed."""
        due = self._is_due()
        for neuron in self._held:
            layer_of(neuron).keep_factors(self.uses_gradient and due)
        if due:
            self._give_back()

    def _give_back(self) -> None:
        """Where layers hold only their connections, let what is freed at an update leave no holes in memory.

        What is left of a network is small beside them, and hardly any later tensor would fit into them.
        """
        if self._held:
            give_back()

    def _dense_gradients(self, kept: list[Tensor | None]) -> list[Gradient | None]:
        """Those of all layers, of which those behind masks have been kept."""
        of_masked = iter(kept)
        return [self._gradient_of(neuron) if has_places(neuron) else next(of_masked) for neuron in self.layers]

    def _gradient_of(self, neuron: NeuronWeight) -> Gradient | None:
        gradient = neuron.gradient
        if gradient is None or not self.uses_gradient:
            return gradient
        factors = layer_of(neuron).gradient_factors()
        if factors is None:
            raise RuntimeError(
                f"the forward pass of step {self._step} did not keep what {neuron.name} needs to grow: it was run "
                "before the topology method was attached, loaded or stepped, or the gradient was set by hand. Run "
                "forward and backward of the model between the optimizer's steps"
            )
        layer_of(neuron).keep_factors(False)  # once they are used up, their memory is free for the update
        return FactoredGradient(*factors)

    def _renewed(self, gradients: list[tuple[NeuronWeight, Tensor, Tensor | None]]) -> bool:
        """Whether these are others than those that were masked, whose step a GradScaler may have left out."""
        if any(g is not None and (g.masked_fill(mask, 0) != 0).any() for _, mask, g in gradients):
            return True
        assert self._taken is not None
        others = any(g is not None and g is not old for (_, _, g), old in zip(gradients, self._taken, strict=True))
        return others and all(bool(mask.all()) for _, mask, _ in gradients)  # masking leaves a dense network no trace

    def _withhold_gradients(self) -> None:
        """Where the update replaces the gradient step: without gradients an optimizer moves nothing."""
        if self._gradients is None or not self.replaces_step:
            return
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._withheld.append((param, param.grad))
                    param.grad = None

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for param, gradient in self._withheld:
            param.grad = gradient
        kept, self._gradients, self._withheld, self._taken = self._gradients, None, [], None
        if bool(getattr(optimizer, "found_inf", False)):
            self._keep_factors()
            return  # GradScaler makes a fused optimizer skip the step, but not its hooks
        for neuron in self._masked:
            if neuron.name not in self._owned:
                zero_outside(neuron.weight, self._mask(neuron))
        if not self._stepping:
            return  # torch calls the hooks within super().step() too: that is the same step
        self._stepping, self._loaded = False, False
        self._step += 1
        if self._rebuilt:
            self._give_back()  # the step after an update makes the index of the new connections, among its own tensors
        self._rebuilt = kept is not None
        if kept is not None:
            self._make_up_for(self._dense_gradients(kept))
        self._keep_factors()

    def _make_up_for(self, gradients: list[Gradient | None]) -> None:
        """The update that is due, or a warning that it is put off."""
        told = self._warned
        self._overdue = self._anywhere(not all(gradient is None or _is_finite(gradient) for gradient in gradients))
        self._warned = self._overdue
        if self._overdue and not told:
            warnings.warn(
                f"the gradients of step {self._step} are not finite: the topology stays as it was and is updated after "
                "the next step whose gradients are",
                LpSphereWarning,
                stacklevel=4,
            )
        if self._overdue:
            return
        scale = getattr(self.optimizer, "grad_scale", None)  # GradScaler leaves the unscaling to a fused optimizer
        for neuron in self._held:
            layer_of(neuron).forget_index()
        if scale is not None:
            gradients = [g if g is None else g / scale.to(g.device) for g in gradients]
        self._update(gradients)

    def _mask(self, neuron: NeuronWeight) -> Tensor:
        mask = get_mask(neuron)
        if mask is None:
            raise RuntimeError(f"{neuron.name} has no mask: the method was finalized, or its buffer was removed")
        return mask

    def _moved(self) -> bool:
        """Whether the optimizer was given masks that ``model.to(device)`` has replaced since."""
        return any(get_mask(neuron) is not self._owned.get(neuron.name, get_mask(neuron)) for neuron in self._masked)

    @torch.no_grad()
    def _apply_masks(self) -> None:
        self._stale, self._loaded = False, False
        self._owned = {}
        for neuron in self._masked:
            self._apply_mask(neuron)

    def _apply_mask(
        self, neuron: NeuronWeight, changed: Tensor | None = None, new_weights: Tensor | None = None
    ) -> None:
        """Zero what is inactive and reset the state of what changed; an optimizer that knows masks is asked first."""
        weight, mask = neuron.weight, self._mask(neuron)
        on_topology = getattr(self.optimizer, "on_topology", None)
        if on_topology is not None and on_topology(neuron.parameter, mask, new_weights):
            self._owned[neuron.name] = mask
            return
        cleared = ~mask if changed is None else ~mask | changed
        for key, value in self.optimizer.state.get(neuron.parameter, {}).items():
            if isinstance(value, Tensor) and local(value).shape == weight.shape:
                local(value).masked_fill_(cleared, self._fresh_state(key, neuron.parameter))
        weight.masked_fill_(~mask, 0)
        if new_weights is not None:
            split, dims = neuron.layout.split(weight), neuron.layout.fan_in_dims(weight)
            mean = row_sums(split.abs(), dims) / row_sums(split != 0, dims).clamp(min=1)
            split.add_(neuron.layout.split(new_weights) * mean)

    def _fresh_state(self, key: str, weight: Tensor) -> float:
        """What an optimizer's state begins with: 0, but for the step sizes of Rprop and the sums of Adagrad."""
        group = next(g for g in self.optimizer.param_groups if any(weight is param for param in g["params"]))
        if key == "step_size":
            return float(group["lr"])
        return float(group.get("initial_accumulator_value", 0)) if key == "sum" else 0.0

    def _mark_loaded(self, *_: Any) -> None:
        """The optimizer's state was loaded."""
        self._stale = self._loaded = True

    def _mark_stale(self) -> None:
        """State was loaded: weights, masks and optimizer state may disagree until the next step begins."""
        self._stale = True

    def _check_alone(self) -> None:
        ours = {id(neuron.parameter) for neuron in self.layers}
        for hook in self.optimizer._optimizer_step_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if (
                other is not self
                and isinstance(other, MaskedSteps)
                and any(id(neuron.parameter) in ours for neuron in other.layers)
            ):
                raise ValueError(
                    f"a {type(other).__name__} is attached to this model and optimizer already: finalize() it, or "
                    'detach() it and continue from its masks with initial_sparsity="keep"'
                )


def _is_finite(gradient: Gradient) -> bool:
    return gradient.is_finite() if isinstance(gradient, FactoredGradient) else bool(gradient.isfinite().all())
