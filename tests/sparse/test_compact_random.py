"""compact() on networks made up at random, of parts that are understood and parts that are not."""

import random
import sys

import pytest
import torch
from torch import nn

import lpsphere as lp
import lpsphere.sparse

PARTS = ["chain", "residual", "norm first", "pool", "concatenate", "scale"]


def part(choose, kind, channels):
    """A convolution and what may come after it; their sizes fit the kind."""
    width = choose.randint(2, 6) if kind == "chain" else channels
    kernel = 1 if kind == "chain" and choose.random() < 0.3 else 3
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=choose.random() < 0.5)
    conv.padding_mode = choose.choice(["zeros", "circular"]) if kernel == 1 else "zeros"
    return nn.ModuleDict(
        {
            "conv": conv,
            "norm": nn.BatchNorm2d(width) if choose.random() < 0.7 else nn.Identity(),
            "act": choose.choice([nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.PReLU(), nn.ReLU(True), nn.Hardswish()]),
            "pool": choose.choice([nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2)]),
            "drop": nn.Dropout(),
        }
    )


class Network(nn.Module):
    def __init__(self, choose):
        super().__init__()
        self.kinds = choose.choices(PARTS, k=choose.randint(2, 6))
        self.parts, channels = nn.ModuleList(), 3
        for kind in self.kinds:
            self.parts.append(part(choose, kind, channels))
            channels = self.parts[-1]["conv"].out_channels * (2 if kind == "concatenate" else 1)
        self.flat = choose.random() < 0.5
        self.pool, self.norm = nn.AdaptiveAvgPool2d(2), nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels * (4 if self.flat else 1), 4)

    def forward(self, x):
        for kind, layers in zip(self.kinds, self.parts, strict=True):
            conv, norm, act, pool, drop = layers.values()
            if kind == "chain":
                x = act(norm(conv(x)))
            elif kind == "residual":
                x = x + drop(act(norm(conv(x))))
            elif kind == "norm first":
                x = x + conv(act(norm(x)))
            elif kind == "pool":
                x = pool(x)
            elif kind == "concatenate":
                x = torch.cat([x, conv(x)], 1)
            else:
                x = norm(x * 2 - 1) * torch.sigmoid(x)
        return self.head(torch.flatten(self.pool(x), 1) if self.flat else self.norm(x.mean((2, 3))))


@torch.no_grad()
def thinned(model):
    """Few connections, some biases of 0, and batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            exists = torch.rand(module.weight.shape[:2]) < 0.3
            module.weight.mul_(exists.view(*exists.shape, *[1] * (module.weight.ndim - 2)))
            if module.bias is not None:
                module.bias.mul_(torch.rand(len(module.bias)) < 0.7)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_keep_their_outputs(seed, monkeypatch):
    monkeypatch.setattr(
        sys.modules["lpsphere.sparse.compact"], "microseconds", lambda calls, seconds=0: [1.0] * len(calls)
    )
    torch.manual_seed(seed)
    model = thinned(Network(random.Random(seed)))
    result = lp.compact(model, torch.randn(2, 3, 9, 9, dtype=torch.float64), goal="size", tolerance=1e-12)
    assert result.report.note == "" or "in place" in result.report.note
    x = torch.randn(3, 3, 11, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x), rtol=1e-11, atol=1e-11)
