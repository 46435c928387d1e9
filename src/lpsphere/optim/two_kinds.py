"""LpSGD for the weights on spheres and AdamW for all the rest, as one optimizer: what transformers need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from lpsphere.groups import param_groups
from lpsphere.neurons import Rule
from lpsphere.optim.lpsgd import LpSGD

__all__ = ["SpheresAndAdamW"]


class SpheresAndAdamW(Optimizer):
    """Two optimizers as one: `LpSGD` for the weights on spheres, AdamW for embeddings, norms, biases and the output.

    Plain SGD, which `LpSGD` alone leaves the rest to, is slow on embeddings and norms. The groups are those of the two,
    one after the other, so that a scheduler changes the learning rates of both. Topology methods, which are given this
    optimizer, attach to ``spheres``.

    Attributes:
        spheres: The `LpSGD`.
        rest: The AdamW.

    Args:
        spheres: The optimizer of the weights on spheres.
        rest: The optimizer of the others.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 8), torch.nn.Linear(8, 50))
        >>> optimizer = SpheresAndAdamW.of_model(model, p=1.2, lr=0.02, adam_lr=1e-3)
        >>> sum(param.numel() for group in optimizer.spheres.param_groups for param in group["params"])
        128
    """

    def __init__(self, spheres: LpSGD, rest: torch.optim.AdamW) -> None:
        super().__init__([*spheres.param_groups, *rest.param_groups], {})
        self.spheres, self.rest = spheres, rest
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "spheres": self.spheres, "rest": self.rest}

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        *,
        p: float | Literal["auto"] = 1.2,
        lr: float = 0.02,
        adam_lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        radius: float | Literal["init"] = "init",
        sparsity: float | None = None,
        rules: Sequence[Rule] | None = None,
    ) -> SpheresAndAdamW:
        """The optimizer of a model: on spheres is what `lpsphere.param_groups` selects, such as attention and MLP.

        Args:
            model: The model.
            p: Exponent of the spheres, or "auto": what suits ``sparsity``.
            lr: Learning rate of the spheres, in [0, 1].
            adam_lr: Learning rate of the rest.
            weight_decay: Of the rest, but for norms and biases.
            betas: Of AdamW.
            momentum: Nesterov momentum on the spheres.
            radius: Radius of the spheres; "init": each neuron keeps the norm it was initialised with, which suits
                networks whose layers are not each followed by a norm.
            sparsity: The target, for ``p="auto"``.
            rules: As for `lpsphere.param_groups`.

        Raises:
            TypeError, ValueError: As `lpsphere.param_groups`, `LpSGD` and AdamW.
        """
        groups = param_groups(model, p, sparsity=sparsity, rules=rules, lr=lr, other_lr=adam_lr, radius=radius)
        on_spheres = [group for group in groups if group.get("p") is not None]
        taken = {id(param) for group in on_spheres for param in group["params"]}
        rest = [param for param in model.parameters() if id(param) not in taken and param.requires_grad]
        decayed = {"params": [param for param in rest if param.ndim > 1], "weight_decay": weight_decay}
        others = {"params": [param for param in rest if param.ndim <= 1], "weight_decay": 0.0}
        spheres = LpSGD(on_spheres, lr=lr, momentum=momentum, nesterov=momentum > 0)
        adam = torch.optim.AdamW([group for group in (decayed, others) if group["params"]], lr=adam_lr, betas=betas)
        return cls(spheres, adam)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups are added to ``spheres`` or ``rest`` before this is made.

        Raises:
            TypeError: Always, but while this is made.
        """
        if hasattr(self, "rest"):
            raise TypeError("SpheresAndAdamW cannot tell whose a new group is: add it to the two and make this anew")
        super().add_param_group(param_group)

    def _share(self) -> None:
        """Hold the groups of the two, not copies: loading a state replaces them."""
        self.param_groups = [*self.spheres.param_groups, *self.rest.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of both; a closure is evaluated once, before.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.spheres.step()
        self.rest.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"spheres": self.spheres.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both.

        Raises:
            ValueError: If it is not the state of such two, or the parameter groups do not fit.
        """
        if set(state_dict) != {"spheres", "rest"}:
            raise ValueError(f"the state must have the keys spheres and rest, got {', '.join(map(str, state_dict))}")
        self.spheres.load_state_dict(state_dict["spheres"])
        self.rest.load_state_dict(state_dict["rest"])
        self._share()
