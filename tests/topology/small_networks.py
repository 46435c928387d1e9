"""Networks of a few hundred weights, optimizers for them, and steps whose data depend on the step alone."""

import io
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


class Idle(nn.Module):
    """A perceptron beside a layer that never receives a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.idle = nn.Linear(9, 8)
        self.used = perceptron()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


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


def _settings(**changes: Any) -> dict[str, Any]:
    return {"sparsity": 0.7, "total_steps": 20, **changes}


def _evolving(**changes: Any) -> dict[str, Any]:
    """Updates follow steps 4, 7, 10, 13 and 16, as in `semi_pruning`."""
    return _settings(every=3, begin=0.2, end=0.8, **changes)


def static(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.Static:
    return lp.Static(model, optimizer, **{**_settings(), **changes})


def set_(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.SET:
    return lp.SET(model, optimizer, **{**_evolving(), **changes})


def rigl(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.RigL:
    return lp.RigL(model, optimizer, **{**_evolving(), **changes})


def snip(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.SNIP:
    """One update, after step 3; until then nothing moves."""
    return lp.SNIP(model, optimizer, **{**_settings(batches=3), **changes})


def gmp(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> lp.GMP:
    return lp.GMP(model, optimizer, **{**_evolving(), **changes})


METHODS = {"static": static, "set": set_, "rigl": rigl, "snip": snip, "gmp": gmp, "semi_pruning": semi_pruning}
UPDATES = {name: [4, 7, 10, 13, 16] for name in METHODS} | {"static": [], "snip": [3]}
DYNAMIC = {name: method for name, method in METHODS.items() if name != "static"}


def convolution(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)),
        nn.Conv2d(3, 8, 2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def grouped_convolution(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (4, 3, 1)),
        nn.Conv2d(4, 8, (3, 1), padding=(1, 0), groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def transposed_convolution(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (4, 3, 1)),
        nn.ConvTranspose2d(4, 6, 2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


LAYERS = {
    "Linear": perceptron,
    "Conv2d": convolution,
    "grouped Conv2d": grouped_convolution,
    "ConvTranspose2d": transposed_convolution,
    "MultiheadAttention": Attention,
}


def parts(method: str, optimizer: str, seed: int = 0, network: str = "Linear", **changes: Any) -> dict[str, Any]:
    """A model, its optimizer and the method on them, by name."""
    model = LAYERS[network](seed)
    opt = OPTIMIZERS[optimizer](model)
    return {"model": model, "optimizer": opt, "topology": METHODS[method](model, opt, seed=seed, **changes)}


def saved(things: dict[str, Any]) -> dict[str, Any]:
    """Their states, through a file."""
    buffer = io.BytesIO()
    torch.save({name: thing.state_dict() for name, thing in things.items()}, buffer)
    buffer.seek(0)
    states: dict[str, Any] = torch.load(buffer, weights_only=True)
    return states


def assert_identical(value: Any, expected: Any, path: str = "") -> None:
    """Bit by bit."""
    if isinstance(expected, torch.Tensor):
        assert value.dtype == expected.dtype, path
        assert torch.equal(value, expected), path
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), path
        for key in expected:
            assert_identical(value[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(value) == len(expected), path
        for i, (one, other) in enumerate(zip(value, expected, strict=True)):
            assert_identical(one, other, f"{path}/{i}")
    else:
        assert value == expected, path


def shaped_state(optimizer: torch.optim.Optimizer, param: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state tensors of a parameter that have one entry for each of its weights."""
    state = optimizer.state.get(param, {})
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.shape == param.shape}


def assert_masked(model: nn.Module, topology: lp.Topology) -> None:
    """What does not exist is 0, and all is finite."""
    for name, mask in topology.masks.items():
        weight = model.get_parameter(name)
        assert (weight[~mask] == 0).all(), name
        assert weight.isfinite().all(), name
