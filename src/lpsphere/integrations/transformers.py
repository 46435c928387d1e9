"""For Hugging Face's Trainer: a callback with a topology method, and an optimizer. Needs the extra transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from lpsphere.groups import param_groups
from lpsphere.integrations.methods import attach, find_method, hoyer_by_layer
from lpsphere.neurons import Rule
from lpsphere.optim import LpSGD
from lpsphere.topology import Topology

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "lpsphere.integrations.transformers needs transformers: install it with pip install 'lpsphere[transformers]'",
        name=error.name,
    ) from error

__all__ = ["SparseTraining", "SpheresAndAdamW", "make_optimizer"]

_FILE = "topology.pt"


class SpheresAndAdamW(Optimizer):
    """Two optimizers as one: `lpsphere.LpSGD` for the weights on spheres, AdamW for everything else.

    Their groups are those of the two, one after the other, so that a scheduler changes the learning rates of both;
    their state is kept side by side. Topology methods attach to ``spheres``; `SparseTraining` knows that.

    Attributes:
        spheres: The `lpsphere.LpSGD`.
        rest: The AdamW.

    Args:
        spheres: The optimizer of the weights on spheres.
        rest: The optimizer of the others.
    """

    def __init__(self, spheres: LpSGD, rest: torch.optim.AdamW) -> None:
        self.spheres, self.rest = spheres, rest
        super().__init__([*spheres.param_groups, *rest.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """Have the groups of the two, not copies: loading a state replaces them."""
        self.param_groups = [*self.spheres.param_groups, *self.rest.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of both; a closure is evaluated once, before."""
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
            KeyError: If the state is not one of these two.
            ValueError: If the parameter groups do not fit.
        """
        self.spheres.load_state_dict(state_dict["spheres"])
        self.rest.load_state_dict(state_dict["rest"])
        self._share_groups()


def make_optimizer(
    model: nn.Module,
    *,
    p: float | Literal["auto"] = 1.2,
    lr: float = 0.01,
    adam_lr: float = 1e-3,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    radius: float | Literal["init"] = "init",
    sparsity: float | None = None,
    rules: Sequence[Rule] | None = None,
) -> SpheresAndAdamW:
    """The optimizer for a transformer: weights of attention and MLP on spheres, the rest with AdamW.

    What is on a sphere is what `lpsphere.param_groups` selects: every Linear weight (and ``Conv1D``'s of GPT-2) but
    those that are shared with an embedding, and the last Linear. Embeddings, norms and biases are the rest.

    Args:
        model: The model.
        p: Exponent of the spheres, or "auto": what suits ``sparsity``.
        lr: Peak learning rate of the spheres, in [0, 1].
        adam_lr: Peak learning rate of the rest.
        weight_decay: Of the rest, but for norms and biases.
        betas: Of AdamW.
        momentum: Nesterov momentum on the spheres.
        radius: Radius of the spheres; "init": each neuron keeps the norm it was initialised with, which suits networks
            whose layers are not each followed by a norm.
        sparsity: The target, for ``p="auto"``.
        rules: As for `lpsphere.param_groups`.

    Returns:
        The optimizer, for ``Trainer(..., optimizers=(optimizer, None))``.

    Raises:
        TypeError, ValueError: As `lpsphere.param_groups` and `lpsphere.LpSGD`.
    """
    groups = param_groups(model, p, sparsity=sparsity, rules=rules, lr=lr, other_lr=adam_lr, radius=radius)
    on_spheres = [group for group in groups if group.get("p") is not None]
    taken = {id(param) for group in on_spheres for param in group["params"]}
    rest = [param for param in model.parameters() if id(param) not in taken and param.requires_grad]
    adam = [
        {"params": [param for param in rest if param.ndim > 1], "weight_decay": weight_decay},
        {"params": [param for param in rest if param.ndim <= 1], "weight_decay": 0.0},
    ]
    spheres = LpSGD(on_spheres, lr=lr, momentum=momentum, nesterov=momentum > 0)
    return SpheresAndAdamW(spheres, torch.optim.AdamW([g for g in adam if g["params"]], lr=adam_lr, betas=betas))


class SparseTraining(TrainerCallback):
    """Trains the Trainer's model with a topology method: attached when training starts, ended with it.

    Every checkpoint folder gets a file topology.pt with the method's state, masks included;
    ``trainer.train(resume_from_checkpoint=True)`` goes on from it. The model's own files are as they are without the
    callback. When training is done the model is left plain, with zeros where no connection is. With
    ``load_best_model_at_end`` the masks of the best checkpoint are taken.

    The Trainer's logs get ``sparsity``, ``threshold`` (the largest score dropped at the last update) and ``hoyer``,
    Hoyer's sparsity of the connections, mean over layers. ``max_grad_norm`` counts the gradients of all weights, as the
    Trainer offers no place between the backward pass and the clipping; a step on spheres depends on the gradient's
    direction alone.

    Attributes:
        topology: The method, from the start of training on; None before, and after its end.

    Args:
        method: "semi-pruning", "set", "rigl", "snip", "gmp", "static", or a `lpsphere.Topology` class.
        sparsity: Target sparsity over the selected weights, in [0, 1).
        resume_from: The checkpoint folder to go on from, where it does not lie in the Trainer's output_dir.
        **settings: More arguments of the method, such as ``regrow=0.5`` or ``rules=[...]``.

    Raises:
        TypeError, ValueError: If the method is unknown or, when training starts, an argument is not allowed.
        FileNotFoundError: When training resumes, if the checkpoint has no topology.pt.

    Example:
        >>> Trainer(model, args, train_dataset=data, callbacks=[SparseTraining("semi-pruning", sparsity=0.9)],
        ...         optimizers=(make_optimizer(model), None))
    """

    def __init__(
        self,
        method: str | type[Topology] = "semi-pruning",
        *,
        sparsity: float = 0.9,
        resume_from: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self.method = find_method(method)
        self.settings = {"sparsity": sparsity, **settings}
        self.resume_from = None if resume_from is None else Path(resume_from)
        self.topology: Topology | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the method, or go on with what was saved; model and optimizer are restored by now."""
        model, optimizer = kwargs["model"], _inner(kwargs["optimizer"])
        saved = None
        if state.global_step > 0:
            saved = _read(self.resume_from or _folder(args, state.global_step))

        def make() -> Topology:
            return self.method(model, optimizer, total_steps=state.max_steps, **self.settings)

        self.topology = attach(make, model, optimizer, saved)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the method's state to the checkpoint."""
        if self.topology is not None and state.is_world_process_zero:
            torch.save(self.topology.state_dict(), _folder(args, state.global_step) / _FILE)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add what there is to say of the topology."""
        if self.topology is None or logs is None or "loss" not in logs:
            return
        found = {"sparsity": self.topology.sparsity}
        if self.topology.events:
            found["threshold"] = self.topology.events[-1].threshold
        hoyer = list(hoyer_by_layer(self.topology).values())
        if hoyer:
            found["hoyer"] = sum(hoyer) / len(hoyer)
        logs.update(found)
        state.log_history[-1].update(found)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the method."""
        if self.topology is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.topology.load_state_dict(_read(state.best_model_checkpoint))
        self.topology.finalize()
        self.topology = None


def _inner(optimizer: Any) -> Optimizer:
    """The torch optimizer that trains the weights on spheres, or all."""
    while not isinstance(optimizer, Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer.spheres if isinstance(optimizer, SpheresAndAdamW) else optimizer


def _folder(args: TrainingArguments, step: int) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{step}"


def _read(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / _FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: training goes on from a checkpoint that was saved with SparseTraining; where that "
            "lies elsewhere, give SparseTraining(resume_from=FOLDER)"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
