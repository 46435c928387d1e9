import pytest
import torch
from torch import nn

from lpsphere import LpSGD
from lpsphere.neurons import NeuronLayout
from lpsphere.optim import compiled, lpsgd
from lpsphere.optim.compiled import can_compile


@pytest.fixture
def counted(monkeypatch):
    """The shapes of the weights that took compiled steps."""
    shapes = []

    def steps(weights, **settings):
        shapes.extend(tuple(stepped.param.shape) for stepped in weights)
        compiled.compiled_steps(weights, **settings)

    monkeypatch.setattr(lpsgd, "compiled_steps", steps)
    return shapes


def trained(weight, steps=5, mask=None, **settings):
    param = nn.Parameter(weight.clone(memory_format=torch.preserve_format))
    optimizer = LpSGD([param], **{"p": 1.2, "lr": 0.05, "momentum": 0.9, "nesterov": True, **settings})
    if mask is not None:
        optimizer.on_topology(param, mask)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        gradient = torch.randn(param.shape, generator=generator)
        param.grad = torch.empty_like(param).copy_(gradient)
        optimizer.step()
    return param.detach(), optimizer.state[param]


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.0, "nesterov": False}, {"nesterov": False, "dampening": 0.3}, {"maximize": True},
     {"radius": 3.0}, {"radius": "init"}, {"p": 1.05}, {"p": 3.0}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(7, 33), (6, 4, 3, 3), (1, 4608), (5, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_steps_are_those_of_tensor_operations(counted, settings, shape, masked):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    mask = torch.randn(shape, generator=generator) > 0 if masked else None
    found, state = trained(weight, mask=mask, **settings)
    assert counted == [shape] * 5
    expected, other = trained(weight, mask=mask, foreach=False, **settings)
    assert counted == [shape] * 5
    torch.testing.assert_close(state["dual"], other["dual"], rtol=0, atol=3e-6)
    tolerance = (2e-5 if settings.get("p") == 3.0 else 6e-6) * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    if "momentum_buffer" in other:
        torch.testing.assert_close(state["momentum_buffer"], other["momentum_buffer"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_the_order_of_memory_makes_no_difference(counted, masked):
    weight = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(2)) > 0 if masked else None
    rows, _ = trained(weight, mask=mask)
    channels, state = trained(weight.contiguous(memory_format=torch.channels_last), mask=mask)
    assert len(counted) == 10
    assert channels.is_contiguous(memory_format=torch.channels_last)
    assert state["dual"].stride() == state["momentum_buffer"].stride() == channels.stride()
    torch.testing.assert_close(channels, rows, rtol=0, atol=2e-6)


def test_a_gradient_in_another_order_of_memory_is_understood(counted):
    weight = torch.randn(8, 5, 3, 3)
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        param = nn.Parameter(weight.clone())
        optimizer = LpSGD([param], p=1.2, lr=0.05)
        param.grad = (weight.flip(0) + 1).contiguous(memory_format=order)
        optimizer.step()
        found.append(param.detach())
    assert len(counted) == 2
    assert torch.equal(*found)


def test_only_rows_in_one_piece_of_float32_on_a_cpu_are_compiled():
    weight = torch.randn(4, 6)
    assert can_compile(weight, NeuronLayout())
    assert not can_compile(weight.double(), NeuronLayout())
    assert not can_compile(weight.bfloat16(), NeuronLayout())
    assert not can_compile(weight.t(), NeuronLayout())
    assert not can_compile(weight, NeuronLayout(1))
    assert not can_compile(torch.empty(4, 6, device="meta"), NeuronLayout())


def test_a_group_is_compiled_only_if_all_of_its_weights_can_be(counted):
    params = [nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6, dtype=torch.float64))]
    optimizer = LpSGD(params, p=1.2, lr=0.05)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert not counted


def test_few_weights_take_no_compiled_steps(counted, monkeypatch):
    monkeypatch.setattr(lpsgd, "WORTH_COMPILING", 100)
    trained(torch.randn(9, 11), steps=1)
    assert not counted
    trained(torch.randn(10, 10), steps=1)
    assert counted


def test_autograd_notices_a_compiled_step():
    param = nn.Parameter(torch.randn(4, 6))
    optimizer = LpSGD([param], p=1.2, lr=0.1)
    x = torch.randn(3, 6, requires_grad=True)
    loss = (x @ param.t()).square().sum()
    param.grad = torch.randn(4, 6)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_of_another_type_is_read_as_numbers(counted):
    weight = torch.randn(6, 20)
    expected, _ = trained(weight)
    param = nn.Parameter(weight.clone())
    optimizer = LpSGD([param], p=1.2, lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
        state = optimizer.state[param]
        state["dual"], state["momentum_buffer"] = state["dual"].double(), state["momentum_buffer"].double()
    assert len(counted) == 10
    torch.testing.assert_close(param.detach(), expected)


def test_the_gradient_is_left_as_it_is():
    param = nn.Parameter(torch.randn(4, 6))
    optimizer = LpSGD([param], p=1.2, lr=0.1, momentum=0.9, maximize=True)
    gradient = torch.randn(4, 6)
    param.grad = gradient.clone()
    optimizer.step()
    assert torch.equal(param.grad, gradient)


@pytest.mark.parametrize("fan_in", [2, 5, 8, 20, 31, 33, 64, 100])
def test_what_a_process_computed_before_makes_no_difference(fan_in):
    weight = torch.randn(6, fan_in, generator=torch.Generator().manual_seed(3))
    first, state = trained(weight)
    trained(torch.randn(2, 5000), steps=1)
    again, other = trained(weight)
    assert torch.equal(first, again)
    assert torch.equal(state["dual"], other["dual"])


@pytest.mark.parametrize("how", [{}, {"foreach": False}, {"foreach": True}, {"form": "primal"}], ids=str)
def test_gradients_too_small_for_a_normal_number_count_by_their_direction(counted, how):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-9, 10, (6, 20), generator=generator).float()
    found = []
    for gradient in (whole, whole * 2.0**-149):
        param = nn.Parameter(torch.randn(6, 20, generator=torch.Generator().manual_seed(1)))
        optimizer = LpSGD([param], p=1.2, lr=0.05, **how)
        param.grad = gradient
        optimizer.step()
        found.append(param.detach())
    assert len(counted) == (0 if how else 2)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("how", [{}, {"foreach": False}, {"foreach": True}, {"form": "primal"}], ids=str)
def test_a_neuron_without_gradients_stays_on_its_sphere_while_its_momentum_fades(how):
    param = nn.Parameter(torch.randn(4, 9))
    optimizer = LpSGD([param], p=1.15, lr=0.01, momentum=0.9, nesterov=True, **how)
    for step in range(1200):
        param.grad = torch.randn(4, 9)
        if step > 3:
            param.grad[1] = 0
        optimizer.step()
    torch.testing.assert_close(param.detach().abs().pow(1.15).sum(1), torch.ones(4))
