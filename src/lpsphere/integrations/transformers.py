"""For Hugging Face's Trainer: a callback that attaches a topology method. Needs the extra transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lpsphere.integrations.methods import attach, find_method, hoyer_by_layer
from lpsphere.topology import Topology

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "lpsphere.integrations.transformers needs transformers: install it with pip install 'lpsphere[transformers]'",
        name=error.name,
    ) from error

__all__ = ["SparseTraining"]

_FILE = "topology.pt"


class SparseTraining(TrainerCallback):
    """Trains the Trainer's model with a topology method: attached when training starts, ended with it.

    Every checkpoint folder gets a file topology.pt with the method's state, masks included;
    ``trainer.train(resume_from_checkpoint=True)`` goes on from it. The model's own files are as they are without the
    callback. When training is done the model is left plain, with zeros where no connection is. With
    ``load_best_model_at_end`` the masks of the best checkpoint are taken.

    For neurons on spheres give the Trainer an `lpsphere.SpheresAndAdamW`: ``optimizers=(optimizer, None)``.

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
        ...         optimizers=(lpsphere.SpheresAndAdamW.of_model(model), None))
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
        model, optimizer = kwargs["model"], kwargs["optimizer"]
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
