"""Networks of a few hundred weights, optimizers for them, and steps whose data depend on the step alone."""

import itertools
from typing import Any

import torch
from torch import nn

import lpsphere as lp


def perceptron(seed: int = 0, sizes: tuple[int, ...] = (12, 16, 14, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def convolutions(seed: int = 0) -> nn.Sequential:
    """A grouped convolution and a grouped transposed one, whose neurons lie along different dimensions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (4, 3, 1)),
        nn.Conv2d(4, 8, (3, 1), padding=(1, 0), groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 5, 2),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


class Attention(nn.Module):
    """Its input projection is an ``in_proj_weight``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(1, (2, 6))
        return self.head(self.norm(self.attend(x, x, x, need_weights=False)[0]).mean(1))


NETWORKS = {"perceptron": perceptron, "convolutions": convolutions, "attention": Attention}


def lpsgd(model: nn.Module, **changes: Any) -> lp.LpSGD:
    settings = {"p": 1.2, "lr": 0.03, "other_lr": 0.1, "radius": "init", **changes}
    return lp.LpSGD(lp.param_groups(model, **settings), momentum=0.9, nesterov=True)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05, amsgrad=True)


OPTIMIZERS = {"lpsgd": lpsgd, "sgd": sgd, "adamw": adamw}


def semi_pruning(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.SemiPruning:
    settings = {"sparsity": 0.7, "total_steps": 20, "every": 3, "begin": 0.2, "end": 0.8, **changes}
    return lp.SemiPruning(model, optimizer, **settings)


def batch(step: int, rows: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(rows, 12, generator=generator), torch.randint(0, 3, (rows,), generator=generator)


def backward(model: nn.Module, step: int) -> torch.Tensor:
    x, y = batch(step)
    loss = nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def copies(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: mask.clone() for name, mask in masks.items()}


class Rows(nn.Module):
    """Bias-free Linear layers with the weights written out; gradients are set by hand, so it is never run."""

    def __init__(self, *weights: list[list[float]], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for name, rows in zip("abcd", weights, strict=False):
            values = torch.tensor(rows, dtype=dtype)
            layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
            layer.weight = nn.Parameter(values)
            self.add_module(name, layer)

    def set_gradients(self, *gradients: list[list[float]]) -> None:
        for layer, rows in zip(self.children(), gradients, strict=True):
            layer.weight.grad = torch.tensor(rows, dtype=layer.weight.dtype)


def still(model: nn.Module) -> torch.optim.SGD:
    """An optimizer whose steps move nothing."""
    return torch.optim.SGD(model.parameters(), lr=0.0)
