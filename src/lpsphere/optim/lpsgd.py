"""LpSGD: stochastic gradient descent with every neuron on an Lp sphere (method, section 2).

Owns the weights' position: reads gradients, writes parameters and its own state. Knows masks only as what
`LpSGD.on_topology` is told; nothing of layers, schedules or data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lpsphere.distributed import local
from lpsphere.geometry import check_exponent, project, row_any, row_sums, signed_power, spread
from lpsphere.neurons import Layout, Radius, SegmentLayout
from lpsphere.optim.checks import check_eta, check_group, layout_of, refuse_duplicates
from lpsphere.optim.compiled import WORTH_COMPILING, Stepped, can_compile, compiled_steps
from lpsphere.optim.plain_step import plain_step
from lpsphere.optim.saved_state import loaded_state, saved_state
from lpsphere.optim.tensor_steps import Form, multi_tensor, on_radius, on_spheres, radii_of, single_tensor

__all__ = ["LpSGD"]


class LpSGD(Optimizer):
    r"""Gradient descent on the unit Lp sphere: p near 1 makes neurons sparse, p = 2 is the ordinary sphere.

    Per neuron with weights w of radius r, gradient g, learning rate :math:`\eta`, momentum :math:`\mu` and
    conjugate exponent q = p/(p-1)::

        m <- mu m + (1 - dampening) g;   d <- g + mu m (Nesterov) or m;   u <- d / ||d||_q
        dual form:    v <- (1 - eta) v - eta u;               v <- v / ||v||_q;    w <- r J_q(v)
        primal form:  w/r <- (1 - eta) w/r - eta J_q(u);      w <- r w / ||w||_p

    with J_q(v) = sign(v) \|v\|^(1/(p-1)). Groups with ``p=None`` take the step of ``torch.optim.SGD``,
    by its fused kernel where the weights on spheres take compiled steps.

    Weights are put on their spheres here in the constructor, in ``add_param_group``, after every step, and at the
    next step after anyone else has changed them (``model.load_state_dict``, an in-place operation; edits through
    ``.data`` go unnoticed). A changed ``group["p"]`` is honoured at the next step.

    Args:
        params: Parameters or groups, such as `lpsphere.param_groups` makes. Keys of a group: ``p``, ``radius``,
            ``neuron_dim`` (the dimension that counts the neurons, 0), ``neuron_groups`` (1), ``layouts`` (for weights
            of sparse layers, a `lpsphere.neurons.SegmentLayout` each) and the arguments below.
        lr: Learning rate; in [0, 1] where p is set. Peaks of 0.008 to 0.03 have worked well there.
        p: Exponent of the sphere for groups without one of their own, greater than 1.
        radius: Radius of the spheres, or "init": each neuron keeps the norm it comes with.
        momentum: Momentum factor, at least 0. The buffer starts as the first gradient.
        dampening: Dampening of the momentum.
        weight_decay: Weight decay of groups with ``p=None``; on a sphere it must be 0.
        nesterov: Nesterov momentum; needs momentum above 0 and no dampening.
        form: "dual" steps the dual weights v (the paper's), "primal" the weights (conditional gradient).
        maximize: Maximise instead of minimise.
        foreach: Use multi-tensor operations, or tensor after tensor; None: multi-tensor where all parameters are on
            CUDA, and compiled code for the dual form of float32 weights on a CPU if they are 16,384 or more or of
            sparse layers.

    Raises:
        TypeError, ValueError: If an argument is out of range, p is given nowhere, or a tensor cannot hold neurons.

    Source: arXiv:2103.16013; method, section 2.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        >>> optimizer = LpSGD([{"params": [model[0].weight], "p": 1.2}], lr=0.02, momentum=0.9)
        >>> lp_norm(model[0].weight.detach(), 1.2)
        tensor([1.0000, 1.0000, 1.0000, 1.0000])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float = 0.02,
        *,
        p: float | None = None,
        radius: Radius = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        form: Form = "dual",
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        self._versions: dict[Tensor, int] = {}
        self._masks: dict[Tensor, Tensor] = {}
        self._layouts: dict[Tensor, SegmentLayout] = {}  # which follow the structure of their layers by themselves
        if isinstance(params, Tensor):
            raise TypeError("params must be a list of parameters or groups, got one tensor: put it in a list")
        given: list[Any] = [params] if isinstance(params, dict) else list(params)
        if p is None and not any(isinstance(group, dict) and "p" in group for group in given):
            raise ValueError(
                "p is missing: pass LpSGD(params, p=1.2), or groups with a key 'p' as lpsphere.param_groups makes them"
            )
        defaults = {
            "lr": lr,
            "p": p,
            "radius": radius,
            "neuron_dim": 0,
            "neuron_groups": 1,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "form": form,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(given, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_masks": self._masks, "_layouts": self._layouts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._versions = {}  # every weight is compared with its state at the next step
        self.__dict__.setdefault("_masks", {})
        self.__dict__.setdefault("_layouts", {})

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and put its weights on their spheres; neurons that are there but for rounding stay as they are.

        Raises:
            TypeError, ValueError: As the constructor.
        """
        refuse_duplicates(param_group, self.param_groups)
        if "layouts" in param_group:  # kept here, since a group is saved with the state
            self._layouts |= zip(param_group["params"], param_group["layouts"], strict=True)
            param_group = {key: value for key, value in param_group.items() if key != "layouts"}
        super().add_param_group(param_group)
        try:
            check_group(param_group, self._layouts)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if param_group["p"] is not None:
            for param in param_group["params"]:
                self._synchronise(param, param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Re-evaluates the model and returns the loss; optional.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: If the learning rate of weights on spheres is outside [0, 1].
            RuntimeError: If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        worth = bool(self._layouts) or self._weights_on_spheres() >= WORTH_COMPILING  # as sparse layers are compiled
        for group in self.param_groups:
            if group["p"] is None:
                plain_step(group, self.state, fused=worth)
            else:
                self._sphere_step(group, worth)
        return loss

    def _weights_on_spheres(self) -> int:
        groups = (group for group in self.param_groups if group["p"] is not None)
        return sum(local(param).numel() for group in groups for param in group["params"])

    def _sphere_step(self, group: dict[str, Any], worth_compiling: bool) -> None:
        check_eta(group)
        weights = []
        for param in group["params"]:
            self._synchronise(param, group)
            weight = local(param)
            if param.grad is not None and len(weight):
                weights.append((param, weight, self.layout_of(param, group)))
        if not weights:
            return
        automatic = worth_compiling and group["foreach"] is None and group["form"] == "dual"
        if automatic and all(can_compile(weight, layout) for _, weight, layout in weights):
            self._compiled_steps(weights, group)
        else:
            self._tensor_steps(weights, group)
        for param, weight, _ in weights:
            self._versions[param] = weight._version

    def _compiled_steps(self, weights: list[tuple[Tensor, Tensor, Layout]], group: dict[str, Any]) -> None:
        compiled_steps(
            [
                Stepped(
                    weight,
                    layout,
                    self.state[param],
                    _dense_gradient(param),
                    self._masks.get(param),
                    self._radius(param, group),
                )
                for param, weight, layout in weights
            ],
            p=check_exponent(group["p"]),
            eta=float(group["lr"]),
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )

    def _tensor_steps(self, weights: list[tuple[Tensor, Tensor, Layout]], group: dict[str, Any]) -> None:
        directions = [self._direction(param, group) for param, _, _ in weights]
        form = group["form"]
        foreach = group["foreach"] if group["foreach"] is not None else all(weight.is_cuda for _, weight, _ in weights)
        segmented = any(isinstance(layout, SegmentLayout) for _, _, layout in weights)
        function = multi_tensor if foreach and not segmented else single_tensor
        function(
            [layout.split(weight) for _, weight, layout in weights],
            [layout.split(self.state[param][form]) for param, _, layout in weights],
            [layout.split(direction) for (_, _, layout), direction in zip(weights, directions, strict=True)],
            [self._radius(param, group) for param, _, _ in weights],
            [layout.fan_in_dims(weight) for _, weight, layout in weights],
            p=check_exponent(group["p"]),
            eta=float(group["lr"]),
            form=form,
        )

    def _direction(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        """The direction d of the method: the gradient with momentum, on the mask, at least float32."""
        state, mu = self.state[param], group["momentum"]
        gradient = _dense_gradient(param).to(state[group["form"]].dtype)
        if group["maximize"]:
            gradient = -gradient
        mask = self._masks.get(param)
        if mask is not None:
            gradient = gradient.masked_fill(~mask, 0)
        if mu == 0:
            return gradient
        momentum = state.get("momentum_buffer")
        if momentum is None:
            momentum = state["momentum_buffer"] = gradient.clone()
        else:
            momentum.mul_(mu).add_(gradient, alpha=1 - group["dampening"])
        return gradient.add(momentum, alpha=mu) if group["nesterov"] else momentum

    def layout_of(self, param: Tensor, group: dict[str, Any]) -> Layout:
        """Where the neurons of a weight of a group lie, as things stand now."""
        return self._layouts.get(param) or layout_of(group)

    def _radius(self, param: Tensor, group: dict[str, Any]) -> float | Tensor:
        if group["radius"] != "init":
            return float(group["radius"])
        radius: Tensor = self.state[param]["radius"]
        return radius

    def _synchronise(self, param: Tensor, group: dict[str, Any]) -> None:
        """Bring the state in line with the weights, the mask and p, whoever changed them; costs nothing otherwise."""
        state = self.state[param]
        p = check_exponent(group["p"])
        weight = local(param)
        resized = group["form"] in state and state[group["form"]].shape != weight.shape
        if resized:
            state.clear()  # a sparse layer was given other connections, and nobody has carried the state over
        if group["form"] not in state or (group["radius"] == "init" and "radius" not in state):
            self._start(param, group)
        elif self._versions.get(param) != weight._version:
            self._reread(param, group)
        if state["p"] != p:
            self._change_exponent(param, group)
        self._versions[param] = weight._version

    def _start(self, param: Tensor, group: dict[str, Any]) -> None:
        state, layout, p = self.state[param], self.layout_of(param, group), check_exponent(group["p"])
        state.pop("primal" if group["form"] == "dual" else "dual", None)
        weight = local(param)
        weights, dims = layout.split(_computable(weight)), layout.fan_in_dims(weight)
        state["p"] = p
        if group["radius"] == "init":
            state["radius"] = radii_of(weights, p, dims)
        unit = project(weights, p, dim=dims)
        point = signed_power(unit, p - 1) if group["form"] == "dual" else unit
        state[group["form"]] = point.reshape(weight.shape)
        moved = on_radius(self._radius(param, group), unit, dims)
        there = spread(~row_any(~_as_good_as(weights, moved, weight, point, p), dims), dims)  # such as restored weights
        layout.split(weight).copy_(torch.where(there, weights, moved))

    def _reread(self, param: Tensor, group: dict[str, Any]) -> None:
        """Take over the neurons whose weight is no longer the one that the state gives; the others keep their state."""
        state, layout, form, weight = self.state[param], self.layout_of(param, group), group["form"], local(param)
        p, dims, mask = state["p"], layout.fan_in_dims(weight), self._masks.get(param)
        if mask is not None:
            weight.masked_fill_(~mask, 0)
        point, weights = layout.split(state[form]), layout.split(_computable(weight))
        unit = signed_power(point, 1 / (p - 1)) if form == "dual" else point
        expected = on_radius(self._radius(param, group), unit, dims)
        same = _as_good_as(weights, expected, weight, point, p)
        if mask is not None:
            same &= layout.split(mask) | (point == 0)
        kept = spread(~row_any(~same, dims), dims)
        if kept.all():
            return
        unit = project(weights, p, dim=dims)
        taken = signed_power(unit, p - 1) if form == "dual" else unit
        point.copy_(torch.where(kept, point, taken))
        layout.split(weight).copy_(torch.where(kept, weights, on_radius(self._radius(param, group), unit, dims)))

    def _change_exponent(self, param: Tensor, group: dict[str, Any]) -> None:
        """Move the neurons radially to the sphere of the new p; with radius "init" the weights stay where they are."""
        state, layout, form, weight = self.state[param], self.layout_of(param, group), group["form"], local(param)
        p, dims = check_exponent(group["p"]), layout.fan_in_dims(weight)
        point = layout.split(state[form])
        scaled = signed_power(point, (p - 1) / (state["p"] - 1)) if form == "dual" else point
        moved, unit = on_spheres(scaled, p, form, dims)
        state["p"] = p
        point.copy_(moved)
        if group["radius"] == "init":
            state["radius"] = radii_of(layout.split(_computable(weight)), p, dims)
        else:
            layout.split(weight).copy_(on_radius(self._radius(param, group), unit, dims))

    @torch.no_grad()
    def on_topology(self, param: Tensor, mask: Tensor | None, new_dual: Tensor | None = None) -> bool:
        """Take note of which connections of a weight exist, and put its neurons back on their spheres.

        From here on gradients and momentum are restricted to the mask, and inactive weights stay 0.

        Args:
            param: A parameter of this optimizer.
            mask: bool, in the shape of ``param`` (of the rows here, if it is sharded), True where the connection
                exists; None: all of them, from now on.
            new_dual: Dual weights at which new connections start, in units of the mean |v| over their neuron's other
                connections; zero elsewhere, in the shape of the mask. None: they start at 0.

        Returns:
            Whether the parameter is on spheres; if not, nothing was done and its masking is left to the caller.

        Raises:
            ValueError: If the parameter is not one of this optimizer's, or the mask has another shape.
        """
        group = next((g for g in self.param_groups if any(param is q for q in g["params"])), None)
        if group is None:
            raise ValueError("this optimizer does not have that parameter: build it from the same model")
        if group["p"] is None:
            return False
        if mask is None:
            self._masks.pop(param, None)
            return True
        weight = local(param)
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"expected a bool mask of shape {tuple(weight.shape)}, got {mask.dtype} {tuple(mask.shape)}"
            )
        if param in self._masks:
            self._masks[param] = mask  # the weights that are compared now may be of this one
        self._synchronise(param, group)
        self._masks[param] = mask
        state, layout, form = self.state[param], self.layout_of(param, group), group["form"]
        p, dims = check_exponent(group["p"]), layout.fan_in_dims(weight)
        if "momentum_buffer" in state:
            state["momentum_buffer"].masked_fill_(~mask, 0)
        changed = ~mask & ((state[form] != 0) | (weight != 0))
        if new_dual is not None:
            changed |= new_dual != 0
        changed = spread(
            row_any(layout.split(changed), dims), dims
        )  # the other neurons stay as they are, to the last bit
        if not changed.any():
            return True
        point = state[form].masked_fill_(~mask, 0)
        split = layout.split(point)
        if new_dual is not None:
            size = split.abs() if form == "dual" else split.abs().pow(p - 1)
            mean = row_sums(size, dims) / row_sums((split != 0).to(size), dims).clamp(min=1)
            start = layout.split(new_dual).to(point) * spread(mean, dims)
            split.add_(start if form == "dual" else signed_power(start, 1 / (p - 1)))
        moved, unit = on_spheres(split, p, form, dims)
        split.copy_(torch.where(changed, moved, split))
        weights = layout.split(weight)
        moved = on_radius(self._radius(param, group), unit, dims).to(weight.dtype)
        weights.copy_(torch.where(changed, moved, weights))
        self._versions[param] = weight._version
        return True

    def mask_of(self, param: Tensor) -> Tensor | None:
        """The mask that `on_topology` gave for a parameter, True where the connection exists; None: there is none."""
        return self._masks.get(param)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """The state, as torch's optimizers give it: of sharded parameters, in DTensors placed as they are.

        It has an entry for every parameter, and a momentum for each that will get one (all NaN before the first step),
        so that what loads into it, such as ``torch.distributed.checkpoint``, finds a place for everything.
        """
        saved = super().state_dict()
        params = [(param, group) for group in self.param_groups for param in group["params"]]
        saved["state"] = {i: saved_state(*entry, saved["state"].get(i, {})) for i, entry in enumerate(params)}
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state exactly, as a copy; that of half-precision parameters stays float32.

        Args:
            state_dict: What ``state_dict()`` returned.

        Raises:
            ValueError: If the parameter groups do not fit.
        """
        super().load_state_dict(state_dict)
        identifiers = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [(param, group) for group in self.param_groups for param in group["params"]]
        for identifier, (param, group) in zip(identifiers, params, strict=True):
            saved = state_dict["state"].get(identifier)
            if saved is not None:
                self.state[param] = loaded_state(param, group, saved, self.state[param])


def _dense_gradient(param: Tensor) -> Tensor:
    gradient = param.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise RuntimeError("LpSGD takes dense gradients only: use nn.Embedding(..., sparse=False)")
    return local(gradient)


def _as_good_as(weights: Tensor, others: Tensor, param: Tensor, point: Tensor, p: float) -> Tensor:
    """Where weights of a parameter are equal to others but for rounding, theirs and that of a step's powers."""
    rounding = torch.finfo(param.dtype).eps + 16 * torch.finfo(point.dtype).eps / min(1.0, p - 1)
    return torch.isclose(weights, others, rtol=rounding, atol=torch.finfo(param.dtype).tiny)


def _computable(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
