"""Methods under DistributedDataParallel: the ways to attach them, and disagreements that must not go unseen."""

import pytest
import torch
import torch.distributed as dist
from processes import run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lpsphere as lp
from lpsphere.sparse import SparseLinear


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Outer(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def method(model, **changes):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer, lp.SET(model, optimizer, **{"sparsity": 0.5, "total_steps": 100, "every": 50, **changes})


def step(model, optimizer):
    model(torch.randn(8, 12)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def before_inner():
    inner = network()
    optimizer, topology = method(inner)
    return DistributedDataParallel(inner), optimizer, topology


def after_inner():
    inner = network()
    model = DistributedDataParallel(inner)
    return model, *method(inner)


def after_wrapped():
    model = DistributedDataParallel(network())
    return model, *method(model)


def after_compiled():
    model = torch.compile(DistributedDataParallel(network()), backend="eager")
    return model, *method(model)


def of_compiled():
    inner = torch.compile(network(), backend="eager")
    optimizer, topology = method(inner)
    return DistributedDataParallel(inner), optimizer, topology


def part_of_wrapped():
    outer = Outer(network())
    optimizer, topology = method(outer.net)
    return DistributedDataParallel(outer), optimizer, topology


WAYS = (before_inner, after_inner, after_wrapped, after_compiled, of_compiled, part_of_wrapped)


def masks_stay():
    """By way to attach: the names of the masks, and whether a mask changed in one process is still so later."""
    found = {}
    for way in WAYS:
        model, optimizer, topology = way()
        step(model, optimizer)
        mask = topology.masks["0.weight"]
        if dist.get_rank() == 1:
            mask.logical_not_()
        expected = mask.clone()
        model(torch.randn(8, 12))
        found[way.__name__] = (list(topology.masks), torch.equal(mask, expected))
        topology.finalize()
        found[way.__name__] += (hasattr(topology.layers[0].module, "_ddp_params_and_buffers_to_ignore"),)
    return found


def test_masks_are_left_out_of_the_broadcast_however_the_method_is_attached(tmp_path):
    for found in run(2, tmp_path / "run", masks_stay):
        assert found == {way.__name__: (["0.weight"], True, False) for way in WAYS}


def message(function):
    try:
        function()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def different_seeds():
    method(network(), seed=dist.get_rank())


def different_weights():
    inner = network(seed=dist.get_rank())
    with torch.no_grad():
        inner[0].weight[inner[0].weight.abs() < 0.15] = 0
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    lp.GMP(inner, optimizer, sparsity=0.9, total_steps=10, initial_sparsity="keep")


def different_arguments():
    method(network(), drop_fraction=0.2 + 0.1 * dist.get_rank())


def different_checkpoints():
    model, optimizer, topology = after_wrapped()
    state = topology.state_dict()
    step(model, optimizer)
    if dist.get_rank() == 0:
        topology.load_state_dict({**state, "step": 7})
    else:
        topology.load_state_dict(state)
    step(model, optimizer)


def sparse_layers_that_change():
    model = nn.Sequential(SparseLinear(12, 16, sparsity=0.5), nn.ReLU(), nn.Linear(16, 3))
    method(model, initial_sparsity="keep")


def same_weights():
    """The same as `different_weights` after DDP has made the weights equal."""
    inner = network(seed=dist.get_rank())
    model = DistributedDataParallel(inner)
    with torch.no_grad():
        inner[0].weight[inner[0].weight.abs() < 0.15] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lp.GMP(model, optimizer, sparsity=0.9, total_steps=10, initial_sparsity="keep")
    step(model, optimizer)


def disagreements():
    cases = (
        different_seeds,
        different_weights,
        different_arguments,
        different_checkpoints,
        sparse_layers_that_change,
        same_weights,
    )
    return {case.__name__: message(case) for case in cases}


def test_a_disagreement_is_an_error_in_every_process_that_says_what_to_do(tmp_path):
    first, second = run(2, tmp_path / "run", disagreements)
    assert first == second
    assert "SET starts from different connections" in first["different_seeds"]
    assert "Attach the method after DistributedDataParallel" in first["different_weights"]
    assert "give every process the same arguments" in first["different_arguments"]
    assert "load the same checkpoint or none" in first["different_checkpoints"]
    assert "use Static with sparse layers" in first["sparse_layers_that_change"]
    assert first["same_weights"] == "nothing was raised"


def static_sparse_layer(how):
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(12, 16, sparsity=0.5), nn.Tanh(), nn.Linear(16, 3)).double()
    optimizer = lp.LpSGD(lp.param_groups(model, 1.2, lr=0.05, other_lr=0.1, radius="init"), momentum=0.9)
    lp.Static(model, optimizer, sparsity=0.5, total_steps=20, initial_sparsity="keep")
    trained = DistributedDataParallel(model) if how == "ddp" else model
    for number in range(20):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        if how == "ddp":
            x = x.chunk(2)[dist.get_rank()]
        trained(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.slow  # two processes load Numba and compile
def test_sparse_layers_that_stay_as_they_are_train_as_in_one_process(tmp_path):
    expected = static_sparse_layer("single")
    for found in run(2, tmp_path / "run", static_sparse_layer, "ddp"):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_a_method_attached_before_there_is_a_group_is_compared_at_its_first_step(tmp_path, seeds):
    found = run(2, tmp_path / "run", attach_then_join, tmp_path, seeds)
    agreed = "nothing was raised" if seeds[0] == seeds[1] else "RuntimeError: SET starts from different connections"
    assert all(text.startswith(agreed) for text in found)


def attach_then_join(folder, seeds):
    rank = dist.get_rank()
    dist.destroy_process_group()
    model = network()
    optimizer, _ = method(model, seed=seeds[rank])
    dist.init_process_group("gloo", f"file://{folder / 'again'}", rank=rank, world_size=2)
    model = DistributedDataParallel(model)
    return message(lambda: step(model, optimizer))
