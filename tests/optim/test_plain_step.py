"""Weights that are not on spheres, beside weights that make their steps compiled: those of torch.optim.SGD."""

import pytest
import torch
from torch import nn

import lpsphere as lp

SETTINGS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def pair(plain):
    """The optimizer and torch's, of copies of the plain weights; beside them LpSGD has enough weights to compile."""
    copies = [nn.Parameter(param.detach().clone(memory_format=torch.preserve_format)) for param in plain]
    large = nn.Parameter(torch.randn(128, 128))
    large.grad = torch.randn(128, 128)
    groups = [{"params": [large], "p": 1.2, "lr": 0.01, "weight_decay": 0.0}, {"params": plain, "p": None}]
    return copies, lp.LpSGD(groups, **SETTINGS), torch.optim.SGD(copies, **SETTINGS)


def check(plain, gradients):
    """Steps with some gradients, each a list with one for every weight."""
    copies, ours, theirs = pair(plain)
    for given in gradients:
        for params in (plain, copies):
            for param, gradient in zip(params, given, strict=True):
                param.grad = gradient
        ours.step()
        theirs.step()
        for param, copy in zip(plain, copies, strict=True):
            torch.testing.assert_close(param, copy, rtol=1e-5, atol=1e-6)


def draws(*shapes, steps=4):
    return [[torch.randn(shape) for shape in shapes] for _ in range(steps)]


def test_weights_and_biases():
    check([nn.Parameter(torch.randn(10, 20)), nn.Parameter(torch.randn(10))], draws((10, 20), (10,)))


@pytest.mark.parametrize("weight", ["channels last", "contiguous"])
def test_gradients_in_channels_last(weight):
    param = torch.randn(8, 4, 3, 3)
    if weight == "channels last":
        param = param.to(memory_format=torch.channels_last)
    gradients = [[g.to(memory_format=torch.channels_last)] for (g,) in draws((8, 4, 3, 3))]
    check([nn.Parameter(param)], gradients)


def test_gradients_of_one_number():
    check([nn.Parameter(torch.randn(5, 7))], [[torch.tensor(float(i)).expand(5, 7)] for i in range(4)])


def test_a_part_of_a_tensor_leaves_the_rest_as_it_is():
    whole = torch.randn(6, 8)
    rest = whole[:, 4:].clone()
    check([nn.Parameter(whole[:, :4])], draws((6, 4)))
    assert torch.equal(whole[:, 4:], rest)


def test_a_weight_whose_gradient_comes_later():
    first, second = draws((3, 4), (5,), steps=2), draws((3, 4), (5,), steps=3)
    check([nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))], [[a, None] for a, _ in first] + second)


def test_momenta_of_another_order_of_memory():
    param = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    copies, ours, theirs = pair([param])
    for step in range(4):
        if step == 2:
            for each in (param, *copies):
                each.data = each.data.contiguous()
        gradient = torch.randn(8, 4, 3, 3)
        param.grad, copies[0].grad = gradient, gradient
        ours.step()
        theirs.step()
    torch.testing.assert_close(param, copies[0], rtol=1e-5, atol=1e-6)
