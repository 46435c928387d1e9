import copy
import pickle

import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.neurons import select


class Reader(nn.Module):
    """An embedding, two layers with a norm between, an output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(30, 16)
        self.first, self.norm, self.second = nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 16)
        self.output = nn.Linear(16, 30)

    def forward(self, x):
        return self.output(torch.relu(self.second(torch.relu(self.norm(self.first(self.embedding(x)))))))


def two_kinds(model, **settings):
    return lp.SpheresAndAdamW.of_model(model, **{"p": 1.3, "lr": 0.02, "adam_lr": 0.005, **settings})


def train(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randint(30, (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(x), (7 * x + 3) % 30)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def params_of(optimizer):
    return {id(param) for group in optimizer.param_groups for param in group["params"]}


def test_selected_weights_are_on_spheres_and_adamw_has_the_rest():
    model = Reader()
    optimizer = two_kinds(model, weight_decay=0.1)
    assert params_of(optimizer.spheres) == {id(neuron.weight) for neuron in select(model)}
    assert params_of(optimizer.rest) == {id(param) for param in model.parameters()} - params_of(optimizer.spheres)
    decays = {id(p): group["weight_decay"] for group in optimizer.rest.param_groups for p in group["params"]}
    assert decays[id(model.embedding.weight)] == decays[id(model.output.weight)] == 0.1
    assert decays[id(model.norm.weight)] == decays[id(model.first.bias)] == 0


def test_it_steps_as_the_two_do():
    model, twin = Reader(), Reader()
    optimizer = two_kinds(model)
    train(model, optimizer, 20)
    on_spheres = [neuron.weight for neuron in select(twin)]
    taken = {id(weight) for weight in on_spheres}
    spheres = lp.LpSGD(on_spheres, lr=0.02, p=1.3, radius="init", momentum=0.9, nesterov=True)
    rest = [param for param in twin.parameters() if id(param) not in taken]
    adam = torch.optim.AdamW(
        [{"params": [p for p in rest if p.ndim > 1]}, {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}],
        lr=0.005,
    )

    class Both:
        def zero_grad(self):
            spheres.zero_grad()
            adam.zero_grad()

        def step(self):
            spheres.step()
            adam.step()

    train(twin, Both(), 20)
    for (name, expected), found in zip(twin.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_a_scheduler_reaches_both_also_after_loading():
    model = Reader()
    optimizer = two_kinds(model)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert {group["lr"] for group in optimizer.spheres.param_groups} == {0.01}
    assert {group["lr"] for group in optimizer.rest.param_groups} == {0.0025}
    schedule.step()


def test_methods_and_summaries_take_it():
    model = Reader()
    optimizer = two_kinds(model)
    topology = lp.SemiPruning(model, optimizer, sparsity=0.8, total_steps=300)
    assert topology.optimizer is optimizer.spheres
    losses = train(model, optimizer, 300)
    assert topology.sparsity == pytest.approx(0.8, abs=1e-3)
    assert losses[-1] < 0.3 * losses[0]
    assert max(layer.sphere_error for layer in lp.summary(model, optimizer).layers if layer.sphere_error) < 1e-4
    assert {layer.p for layer in lp.summary(model, optimizer).layers if layer.layer != "output.weight"} == {1.3}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_as_the_original(copied):
    model = Reader()
    optimizer = two_kinds(model)
    train(model, optimizer, 5)
    other, twin = copied((model, optimizer))
    assert train(other, twin, 5, seed=1) == train(model, optimizer, 5, seed=1)
    assert twin.param_groups[0] is twin.spheres.param_groups[0]


def test_its_state_is_restored_to_the_last_bit():
    model, other = Reader(), Reader()
    optimizer = two_kinds(model)
    train(model, optimizer, 5)
    twin = two_kinds(other)
    other.load_state_dict(model.state_dict())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(other, twin, 5, seed=1) == train(model, optimizer, 5, seed=1)


def test_what_it_cannot_do_is_refused():
    optimizer = two_kinds(Reader())
    with pytest.raises(TypeError, match="cannot tell whose a new group is"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match="must have the keys spheres and rest, got state"):
        optimizer.load_state_dict({"state": {}})
    with pytest.raises(ValueError, match="p must be"):
        two_kinds(Reader(), p=1.0)
