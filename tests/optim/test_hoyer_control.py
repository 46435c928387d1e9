import io
import math

import pytest
import torch
from torch import nn

import lpsphere as lp
from lpsphere.data import load
from lpsphere.models import MLP
from lpsphere.optim import HoyerControl
from lpsphere.theory import expected_hoyer, hoyer, p_for_hoyer


def network(seed=0, widths=(24, 16)):
    torch.manual_seed(seed)
    return MLP(12, widths, 3)


def optimizer_of(model, p=1.5, lr=0.05, **kwargs):
    return lp.LpSGD(lp.param_groups(model, p=p, lr=lr, other_lr=0.05, **kwargs), momentum=0.9)


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 12, generator=generator)
    nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
    optimizer.step()
    optimizer.zero_grad()


def exponents(optimizer):
    return [group["p"] for group in optimizer.param_groups if group["p"] is not None]


@pytest.mark.parametrize("target", [0.45, 0.7])
def test_every_layer_of_a_trained_network_reaches_the_target(target):
    data, epochs, batch = load("digits"), 40, 64
    torch.manual_seed(0)
    model = MLP(64, (256, 256), 10)
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.3, lr=0.03, other_lr=0.2), momentum=0.9, nesterov=True)
    lp.HoyerControl(optimizer, target=target)
    steps = epochs * (len(data.x_train) // batch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, cycle_momentum=False
    )
    for _ in range(steps):
        rows = torch.randint(0, len(data.x_train), (batch,))
        nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    layers = lp.summary(model, optimizer).layers
    assert [layer.hoyer for layer in layers] == pytest.approx([target] * 2, abs=0.02)
    fixed = [float(expected_hoyer(layer.p, layer.fan_in)) for layer in layers]
    assert max(abs(value - target) for value in fixed) > 0.02  # the theory's own p would have missed it
    model.eval()
    assert (model(data.x_test).argmax(1) == data.y_test).float().mean() > 0.97


def test_a_schedule_is_followed():
    model = network()
    optimizer = optimizer_of(model, lr=0.1)
    control = lp.HoyerControl(optimizer, lambda step: 0.3 + 0.4 * min(step / 400, 1), every=5)
    assert control.target == 0.3
    seen = {}
    for i in range(1, 601):
        step(model, optimizer, i)
        seen[i] = [layer.measured for layer in control.layers]
    assert control.target == 0.7
    assert seen[200] == pytest.approx([0.5, 0.5], abs=0.08)  # it lags behind a target that moves,
    settled = torch.tensor([seen[i] for i in range(501, 601)]).mean(0)  # 0.1 is a rate that leaves the weights restless
    assert settled.tolist() == pytest.approx([0.7, 0.7], abs=0.02)  # and not behind one that stands


def test_p_starts_at_the_answer_of_the_theory():
    optimizer = optimizer_of(network())
    lp.HoyerControl(optimizer, target=0.6)
    assert exponents(optimizer) == pytest.approx([p_for_hoyer(0.6, 12), p_for_hoyer(0.6, 24)])


def test_an_update_changes_p_by_no_more_than_allowed():
    model = network()
    optimizer = optimizer_of(model, lr=0.2)
    lp.HoyerControl(optimizer, target=0.9, every=3, gain=50.0, max_change=0.05, limits=(1.04, 2.0))
    before, moved = exponents(optimizer), 0.0
    for i in range(60):
        step(model, optimizer, i)
        after = exponents(optimizer)
        changes = [abs(math.log((new - 1) / (old - 1))) for new, old in zip(after, before, strict=True)]
        assert max(changes) <= 0.05 + 1e-12
        assert i % 3 == 2 or changes == [0, 0]
        assert all(1.04 <= p <= 2.0 for p in after)
        before, moved = after, moved + max(changes)
    assert moved > 0.2


def test_the_law_is_the_one_written_down():
    model = network()
    optimizer = optimizer_of(model)
    control = lp.HoyerControl(optimizer, target=0.5, every=2, gain=1.5, max_change=10.0)
    weight = model.hidden[1].linear.weight

    def scale(value):
        return math.log(p_for_hoyer(value, 24) - 1)

    x = scale(0.5)
    m = x - 1.5 * (x - scale(float(hoyer(weight.detach().double()).mean())))
    for update in range(6):
        kept = 1.0
        for i in range(2):
            optimizer.param_groups[1]["lr"] = eta = 0.01 * (1 + update + i)
            step(model, optimizer, 2 * update + i)
            kept *= 1 - eta
        m += (1 - kept) * (x - m)
        x = m + 1.5 * (scale(0.5) - scale(float(hoyer(weight.detach().double()).mean())))
        assert optimizer.param_groups[1]["p"] == pytest.approx(1 + math.exp(x), rel=1e-12)
        assert control.layers[1].lagged == pytest.approx(m, rel=1e-12)


def test_training_continues_bit_for_bit_in_either_order_of_loading():
    reference, runs = None, []
    for first in (None, "optimizer", "control"):
        model = network()
        optimizer = optimizer_of(model)
        control = lp.HoyerControl(optimizer, target=0.6, every=4)
        if first is None:
            for i in range(30):
                if i == 13:
                    saved = [x.state_dict() for x in (model, optimizer, control)]
                    saved = torch.load(_file(saved), weights_only=True)
                step(model, optimizer, i)
            reference = model.state_dict(), exponents(optimizer)
            continue
        model.load_state_dict(saved[0])
        order = [(optimizer, saved[1]), (control, saved[2])]
        for target, state in order if first == "optimizer" else order[::-1]:
            target.load_state_dict(state)
        for i in range(13, 30):
            step(model, optimizer, i)
        runs.append((model.state_dict(), exponents(optimizer)))
    for state, p in runs:
        assert p == reference[1]
        assert all(torch.equal(state[name], value) for name, value in reference[0].items())


def _file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


def test_the_connections_of_a_mask_are_what_is_measured():
    model = network(widths=(24, 24))
    optimizer = optimizer_of(model)
    control = lp.HoyerControl(optimizer, target=0.4, every=1)
    topology = lp.Static(model, optimizer, sparsity=0.5, total_steps=5)
    step(model, optimizer, 0)
    layers = lp.summary(model, optimizer).layers
    assert topology.sparsity == 0.5
    assert [layer.measured for layer in control.layers] == pytest.approx([layer.hoyer for layer in layers], abs=1e-12)
    assert [layer.fan_in for layer in control.layers] == pytest.approx([6, 12], abs=0.2)


def test_layers_of_every_kind_are_measured_as_in_the_summary():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 36, 5), nn.Linear(5, 2)
    )
    optimizer = lp.LpSGD(lp.param_groups(model, p=1.4, lr=0.02, other_lr=0.02, radius="init"))
    control = lp.HoyerControl(optimizer, target=0.5, every=1)
    model(torch.randn(4, 3, 6, 6)).square().mean().backward()
    optimizer.step()
    measured = {optimizer.param_groups[layer.index]["params"][0]: layer.measured for layer in control.layers}
    names = dict(model.named_parameters())
    for layer in lp.summary(model, optimizer).layers:
        assert measured[names[layer.layer]] == pytest.approx(layer.hoyer, abs=1e-12)
    assert len(measured) == 3


def test_a_dead_layer_is_left_alone():
    model = network()
    with torch.no_grad():
        model.hidden[0].linear.weight.zero_()
    optimizer = optimizer_of(model)
    control = lp.HoyerControl(optimizer, target=0.5, every=1)
    assert control.layers[0].measured is None
    before = exponents(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer, 0)
    assert exponents(optimizer)[0] == before[0]


def test_detached_it_does_nothing():
    model = network()
    optimizer = optimizer_of(model)
    control = lp.HoyerControl(optimizer, target=0.5, every=1)
    control.detach()
    before = exponents(optimizer)
    step(model, optimizer, 0)
    assert exponents(optimizer) == before


def test_groups_are_split_in_order_and_keep_their_settings():
    model = network(widths=(24, 24, 24))
    optimizer = lp.LpSGD(
        lp.param_groups(model, p=1.3, lr=0.04, other_lr=0.3, rules=[lp.Rule("hidden.2.*", p=1.7)]), momentum=0.5
    )
    order = [param for group in optimizer.param_groups for param in group["params"]]
    lp.HoyerControl(optimizer, target=0.5)
    assert [len(group["params"]) for group in optimizer.param_groups[:3]] == [1, 1, 1]
    assert all(a is b for a, b in zip(order, (q for g in optimizer.param_groups for q in g["params"]), strict=True))
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups[:3]} == {(0.04, 0.5)}
    assert optimizer.param_groups[3]["lr"] == 0.3


def test_a_scheduler_that_came_first_is_refused_where_groups_are_split():
    optimizer = optimizer_of(network())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ValueError, match="make it before the scheduler"):
        lp.HoyerControl(optimizer, target=0.5)
    alone = optimizer_of(network(widths=(24,)))
    torch.optim.lr_scheduler.StepLR(alone, 1)
    lp.HoyerControl(alone, target=0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": 1.0}, ValueError, r"strictly between 0 and 1; got 1\.0 at step 0"),
        ({"target": lambda step: -0.1}, ValueError, r"got -0\.1 at step 0"),
        ({"target": "high"}, TypeError, "a number, or a function of the step; got 'high'"),
        ({"every": 0}, ValueError, "every must be a whole number of steps, at least 1; got 0"),
        ({"every": 2.5}, ValueError, r"got 2\.5"),
        ({"gain": 0}, ValueError, "gain must be positive"),
        ({"max_change": -1}, ValueError, "max_change must be positive and finite, got -1"),
        ({"limits": (2.0, 1.5)}, ValueError, "the smallest and the largest p"),
        ({"limits": (1.0, 1.5)}, ValueError, "a limit of p"),
    ],
)
def test_bad_arguments_name_the_value(arguments, error, message):
    with pytest.raises(error, match=message):
        lp.HoyerControl(optimizer_of(network()), **{"target": 0.5, **arguments})


def test_an_optimizer_without_spheres_is_refused():
    model = network()
    with pytest.raises(TypeError, match="needs an LpSGD, whose p it sets; got SGD"):
        HoyerControl(torch.optim.SGD(model.parameters(), lr=0.1))
    plain = lp.LpSGD([{"params": list(model.parameters()), "p": None}], lr=0.1)
    with pytest.raises(ValueError, match="no weight of the optimizer is on a sphere"):
        HoyerControl(plain)


def test_the_state_of_another_network_is_refused():
    control = HoyerControl(optimizer_of(network()))
    other = HoyerControl(optimizer_of(network(widths=(24,))))
    with pytest.raises(ValueError, match="the state is of 1 layers, other than the 2"):
        control.load_state_dict(other.state_dict())
