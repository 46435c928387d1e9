"""The same training in one process, under DDP and under FSDP2, on the same global batches."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lpsphere as lp
from lpsphere.distributed import whole

STEPS = 200
ROWS = 16


def network(seed: int = 0) -> nn.Sequential:
    """Without normalisation, in float64; rows that neither two nor four processes share evenly, or at all."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Unflatten(1, (2, 8)),
        nn.Conv1d(2, 6, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 13),
        nn.Tanh(),
        nn.Linear(13, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )
    return model.double()


def lpsgd(model: nn.Module) -> lp.LpSGD:
    groups = lp.param_groups(model, p=1.3, lr=0.03, other_lr=0.05, radius="init")
    return lp.LpSGD(groups, momentum=0.9, nesterov=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


OPTIMIZERS = {"lpsgd": lpsgd, "sgd": sgd, "adamw": adamw}
EVOLVING = {"sparsity": 0.7, "total_steps": STEPS, "begin": 0.05, "end": 0.8, "every": 10}
CASES: dict[str, tuple[type[lp.Topology], str, dict[str, Any]]] = {
    "semi-pruning": (lp.SemiPruning, "lpsgd", EVOLVING),
    "semi-pruning, started": (lp.SemiPruning, "lpsgd", {**EVOLVING, "grow_init": 0.5, "distribution": "erk"}),
    "semi-pruning, paper": (lp.SemiPruning, "adamw", {**EVOLVING, "adaptation": "paper", "drop_fraction": 0.4}),
    "set": (lp.SET, "lpsgd", EVOLVING),
    "rigl": (lp.RigL, "lpsgd", EVOLVING),
    "rigl, network": (lp.RigL, "sgd", {**EVOLVING, "ranking": "network", "min_fan_in": 1}),
    "snip": (lp.SNIP, "sgd", {"sparsity": 0.7, "total_steps": STEPS, "batches": 3}),
    "gmp": (lp.GMP, "adamw", EVOLVING),
}
FIRST = ("semi-pruning", "set", "rigl")


def wrapped(model: nn.Module, how: str) -> nn.Module:
    """Under DDP; or sharded in place, layer by layer."""
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp":
        for layer in model:
            if any(True for _ in layer.parameters()):
                fully_shard(layer)
        fully_shard(model)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, how: str) -> None:
    """One step on this process's part of a global batch."""
    generator = torch.Generator().manual_seed(1000 + number)
    x = torch.randn(ROWS, 16, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (ROWS,), generator=generator)
    if how != "single":
        x, y = (part.chunk(dist.get_world_size())[dist.get_rank()] for part in (x, y))
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def parts(case: str, how: str) -> tuple[nn.Module, torch.optim.Optimizer, lp.Topology]:
    method, optimizer_name, settings = CASES[case]
    model = wrapped(network(), how)
    optimizer = OPTIMIZERS[optimizer_name](model)
    return model, optimizer, method(model, optimizer, **settings)


def train(case: str, how: str, steps: int = STEPS) -> dict[str, Any]:
    """What training decided at each update, before any other forward pass, and where it ended."""
    torch.manual_seed(dist.get_rank() if how != "single" else 0)  # nothing may depend on it
    model, optimizer, topology = parts(case, how)
    torch.manual_seed(dist.get_rank() if how != "single" else 0)
    found: dict[str, Any] = {"decisions": [], "first": masks_of(topology)}
    topology.on_update(lambda event: found["decisions"].append((event.step, masks_of(topology))))
    for number in range(steps):
        step(model, optimizer, number, how)
    found["events"] = [(e.step, e.sparsity, e.threshold, e.dropped, e.regrown) for e in topology.events]
    names = [name.removeprefix("module.") for name, _ in model.named_parameters()]
    found["weights"] = dict(zip(names, (whole(p.detach()).clone() for p in model.parameters()), strict=True))
    found["names"] = list(topology.masks)
    return found


def masks_of(topology: lp.Topology) -> dict[str, torch.Tensor]:
    return {name: whole(mask).clone() for name, mask in topology.masks.items()}


def train_all(cases: tuple[str, ...], how: str) -> dict[str, Any]:
    return {case: train(case, how) for case in cases}
