"""Methods and LpSGD on layers that `fully_shard` has divided: what works as ever, and what is refused."""

import re

import torch
import torch.distributed as dist
from processes import run
from same_training import OPTIMIZERS, network, step, wrapped
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import lpsphere as lp
from lpsphere.distributed import whole


def message(function):
    try:
        function()
    except (ValueError, RuntimeError, TypeError) as error:
        return str(error)
    return "nothing was raised"


def set_(model, **changes):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return lp.SET(model, optimizer, **{"sparsity": 0.5, "total_steps": 10, **changes})


def transposed():
    model = nn.Sequential(nn.Unflatten(1, (8, 2)), nn.ConvTranspose1d(8, 6, 2), nn.Flatten(), nn.Linear(18, 3))
    return fully_shard(model)


def columns():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3))
    return fully_shard(model, shard_placement_fn=lambda param: Shard(param.ndim - 1))


def a_part():
    model = network()
    fully_shard(model[4])
    return model


def lpsgd(model):
    return lp.LpSGD(lp.param_groups(model, 1.2, lr=0.02, other_lr=0.1, radius="init"))


def refusals():
    return {
        "transposed": message(lambda: set_(transposed())),
        "transposed, LpSGD": message(lambda: lpsgd(transposed())),
        "columns": message(lambda: set_(columns())),
        "columns, LpSGD": message(lambda: lpsgd(columns())),
        "a part": message(lambda: set_(a_part())),
        "blocks": message(
            lambda: set_(wrapped(nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 3)), "fsdp"), granularity="4x1")
        ),
        "control": message(lambda: lp.HoyerControl(lpsgd(wrapped(network(), "fsdp")))),
    }


def test_what_is_not_rows_on_a_process_is_refused_with_a_remedy(tmp_path):
    first, second = run(2, tmp_path / "run", refusals)
    assert first == second
    assert "leave it out with Rule('1', p=None, sparse=False)" in first["transposed"]
    assert "leave transposed convolutions to SGD" in first["transposed, LpSGD"]
    assert "Shard along dimension 0 only" in first["columns"]
    assert "Shard along dimension 0 only" in first["columns, LpSGD"]
    assert "apply fully_shard to the whole model" in first["a part"]
    assert "blocks of 4 neurons do not fit" in first["blocks"]
    assert "use it without fully_shard" in first["control"]


def life(how, name):
    """A whole life of a method in a few steps; returns all that a user may look at on the way."""
    model = wrapped(network(), how)
    optimizer = OPTIMIZERS[name](model)
    with torch.no_grad():
        for parameter in model.parameters():
            whole_mask = torch.arange(parameter.numel()).reshape(parameter.shape) % 5 != 0
            if how == "single":
                parameter.mul_(whole_mask)
            else:
                rows = whole_mask.chunk(dist.get_world_size())
                here = rows[dist.get_rank()] if dist.get_rank() < len(rows) else whole_mask[:0]
                parameter.to_local().mul_(here)
    settings = {"sparsity": 0.6, "total_steps": 12, "every": 2, "initial_sparsity": "keep", "begin": 0.1}
    topology = lp.SemiPruning(model, optimizer, **settings)
    found = {"start": topology.sparsity, "kinds": {type(mask).__name__ for mask in topology.masks.values()}}
    for number in range(12):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(12, 16, generator=generator, dtype=torch.float64)
        if how != "single":
            x = x.chunk(dist.get_world_size())[dist.get_rank()]
        model(x).square().mean().backward()
        if number % 3 == 0:
            topology.mask_grads()
        optimizer.step()
        if number == 6 and name == "lpsgd":
            found["stationarity"] = str(lp.stationarity(model, optimizer))
        optimizer.zero_grad()
    found["summary"] = re.sub(r" +(0e[+]00|\de-1[5-7]) ", " rounding ", str(lp.summary(model, optimizer)))
    found["prediction"] = str(lp.predict(model, p=1.3))
    found["end"], found["connections"], found["history"] = topology.sparsity, topology.connections, topology.history
    topology.finalize()
    found["weights"] = {name: whole(value).clone() for name, value in model.state_dict().items()}
    return found


def lives(how):
    return {name: life(how, name) for name in OPTIMIZERS}


def test_everything_a_user_asks_for_is_as_in_one_process(tmp_path):
    expected = lives("single")
    for found in run(3, tmp_path / "run", lives, "fsdp"):
        for name in OPTIMIZERS:
            assert found[name].pop("kinds") == {"DTensor"}
            weights = found[name].pop("weights")
            for key, value in expected[name]["weights"].items():
                torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-12)
            wanted = {key: value for key, value in expected[name].items() if key not in ("weights", "kinds")}
            assert found[name] == wanted


def overflow():
    """A gradient that is not finite in one process alone puts the update off in all."""
    model = wrapped(network(), "fsdp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    topology = lp.RigL(model, optimizer, sparsity=0.5, total_steps=4, every=1)
    for number in range(3):
        step_without_update(model, number)
        gradient = model[4].weight.grad
        assert isinstance(gradient, DTensor)
        if number == 1 and dist.get_rank() == 1:
            gradient.to_local()[0, 0] = torch.inf
        optimizer.step()
        optimizer.zero_grad()
    return [event.step for event in topology.events]


def step_without_update(model, number):
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    model(x).square().mean().backward()


def test_a_gradient_that_is_not_finite_in_one_process_puts_the_update_off_in_all(tmp_path):
    assert run(2, tmp_path / "run", overflow) == [[1, 3], [1, 3]]


def on_spheres():
    model = wrapped(network(), "fsdp")
    optimizer = OPTIMIZERS["lpsgd"](model)
    for number in range(5):
        step(model, optimizer, number, "fsdp")
        with torch.no_grad():
            if number == 2:
                model[4].weight.mul_(2.0)  # anyone may change weights: they return to their spheres
    return max(layer.sphere_error for layer in lp.summary(model, optimizer).layers if layer.p)


def test_neurons_that_a_process_holds_stay_on_their_spheres(tmp_path):
    assert all(error < 1e-12 for error in run(4, tmp_path / "run", on_spheres))
