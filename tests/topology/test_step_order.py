import warnings

import pytest
import torch
from small_networks import (
    NETWORKS,
    OPTIMIZERS,
    Idle,
    backward,
    batch,
    copies,
    lpsgd,
    perceptron,
    semi_pruning,
    sgd,
    train,
)
from torch import nn

import lpsphere as lp
from lpsphere.geometry import lp_norm
from lpsphere.neurons import select

STEPS = 20


def state_tensors(optimizer, param):
    return {k: v for k, v in optimizer.state[param].items() if isinstance(v, torch.Tensor) and v.shape == param.shape}


def assert_on_spheres(model, optimizer):
    spheres = {id(param): group for group in optimizer.param_groups if group["p"] for param in group["params"]}
    for neuron in select(model):
        group = spheres[id(neuron.weight)]
        rows = neuron.layout.to_rows(neuron.weight.detach().double())
        radius = optimizer.state[neuron.weight]["radius"].flatten().double()
        torch.testing.assert_close(lp_norm(rows, group["p"]), radius, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_after_every_step_zeros_are_zero_and_changed_entries_have_no_state(network, optimizer_name):
    model = NETWORKS[network]()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = semi_pruning(model, optimizer)
    weights = {name: param for name, param in model.named_parameters() if name in topology.masks}
    changes = 0
    for step in range(STEPS):
        before = copies(topology.masks)
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        train(model, optimizer, range(step, step + 1))
        for name, mask in topology.masks.items():
            assert (weights[name][~mask] == 0).all()
            assert weights[name].isfinite().all()
            assert not torch.equal(weights[name][mask & before[name]], start[name][mask & before[name]])
            changed = mask ^ before[name]
            changes += int(changed.sum())
            assert (weights[name][changed] == 0).all()
            found = state_tensors(optimizer, weights[name])
            assert len(found) >= 1
            for value in found.values():
                assert (value[~mask | changed] == 0).all()
                assert (value[mask & before[name]] != 0).any()
        if optimizer_name == "lpsgd":
            assert_on_spheres(model, optimizer)
    assert changes > 20
    assert topology.connections == round(topology.weights * 0.3)


@pytest.mark.parametrize("network", ["convolutions", "attention"])
def test_counts_are_conserved_and_every_neuron_keeps_its_min_fan_in_in_every_layout(network):
    model = NETWORKS[network]()
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer, min_fan_in=2, sparsity=0.4)
    held = {name: int(mask.sum()) for name, mask in topology.masks.items()}

    def check(event):
        for neuron in select(model):
            held[neuron.name] += event.regrown[neuron.name] - event.dropped[neuron.name]
            mask = topology.masks[neuron.name]
            assert int(mask.sum()) == held[neuron.name]
            assert int(neuron.layout.to_rows(mask).sum(1).min()) >= 2

    topology.on_update(check)
    train(model, optimizer, range(STEPS))
    assert len(topology.events) == 5
    assert topology.connections == round(topology.weights * 0.6)


# Closures.


def trained(style, optimizer_name="lpsgd", **settings):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = semi_pruning(model, optimizer, **settings)
    for step in range(STEPS):

        def closure(step=step):
            optimizer.zero_grad()
            loss = backward(model, step)
            if "clip" in style:
                topology.mask_grads()
                nn.utils.clip_grad_norm_(model.parameters(), 1e6)
            return loss

        if style.startswith("positional closure"):
            assert optimizer.step(closure) > 0
        elif style.startswith("keyword closure"):
            assert optimizer.step(closure=closure) > 0
        else:
            closure()
            if style == "closure=None":
                optimizer.step(closure=None)
            else:
                optimizer.step()
    return model, topology


def assert_same(one, other):
    model, topology = one
    assert topology.events == other[1].events
    assert sum(sum(event.regrown.values()) for event in topology.events) > 0
    for (name, value), (_, expected) in zip(model.state_dict().items(), other[0].state_dict().items(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize(
    "style",
    [
        "positional closure",
        "keyword closure",
        "closure=None",
        "clip",
        "positional closure, clip inside",
        "keyword closure, clip inside",
    ],
)
def test_a_closure_or_masking_before_clipping_changes_no_decision(style, optimizer_name):
    assert_same(trained(style, optimizer_name), trained("plain", optimizer_name))


class Twice(torch.optim.SGD):
    """Sharpness-aware in kind: it evaluates the closure, moves uphill, evaluates again there and steps from below."""

    def step(self, closure):
        with torch.enable_grad():
            closure()
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        climbs = [0.05 * param.grad for param in params]
        with torch.no_grad():
            for param, climb in zip(params, climbs, strict=True):
                param.add_(climb)
            with torch.enable_grad():
                loss = closure()
            for param, climb in zip(params, climbs, strict=True):
                param.sub_(climb).sub_(param.grad, alpha=0.05)
        return loss


def test_an_optimizer_that_calls_its_closure_several_times_has_every_gradient_masked():
    model = perceptron()
    optimizer = Twice(model.parameters(), lr=0.05)
    topology = semi_pruning(model, optimizer)
    for step in range(STEPS):

        def closure(step=step):
            optimizer.zero_grad()
            return backward(model, step)

        optimizer.step(closure)
        for neuron in select(model):
            assert (neuron.weight[~topology.masks[neuron.name]] == 0).all()
            assert (neuron.weight.grad[~topology.masks[neuron.name]] == 0).all() or step + 1 in (4, 7, 10, 13, 16)
    assert topology.connections == round(topology.weights * 0.3)
    assert len(topology.events) == 5


@pytest.mark.parametrize(
    ("optimizer_class", "reason"),
    [(torch.optim.LBFGS, "evaluates the model several times"), (torch.optim.SparseAdam, "sparse")],
)
def test_optimizers_that_cannot_train_masked_weights_are_refused(optimizer_class, reason):
    model = perceptron()
    with pytest.raises(TypeError, match=f"{optimizer_class.__name__} .*{reason}.*: use LpSGD, SGD, AdamW"):
        semi_pruning(model, optimizer_class(model.parameters()))
    assert not hasattr(model[0], "weight_mask")


# Gradients.


@pytest.mark.parametrize("masked_first", [False, True])
def test_gradients_are_masked_in_place_before_the_step(masked_first):
    model = perceptron()
    optimizer = sgd(model)
    topology = semi_pruning(model, optimizer)
    backward(model, 0)
    before = {neuron.name: neuron.weight.grad.clone() for neuron in select(model)}
    topology.mask_grads() if masked_first else optimizer.step()
    for neuron in select(model):
        mask = topology.masks[neuron.name]
        assert (before[neuron.name][~mask] != 0).any()
        assert torch.equal(neuron.weight.grad, torch.where(mask, before[neuron.name], 0.0))


def test_a_masked_gradient_whose_step_is_left_out_is_forgotten():
    """A GradScaler that finds an overflow after mask_grads() does not step; the next gradient is another one."""
    plain = trained("plain")
    model = perceptron()
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer)
    for step in range(STEPS):
        statistics = {name: value.clone() for name, value in model.named_buffers() if "mask" not in name}
        optimizer.zero_grad()
        backward(model, step + 100)
        for neuron in select(model):
            neuron.weight.grad[0, 0] = torch.inf
        topology.mask_grads()  # and no step
        model.load_state_dict(statistics, strict=False)
        optimizer.zero_grad()
        backward(model, step)
        if step % 2:
            topology.mask_grads()
            for neuron in select(model):
                assert (neuron.weight.grad[~topology.masks[neuron.name]] == 0).all()
        optimizer.step()
    assert_same((model, topology), plain)


def test_accumulated_gradients_make_one_step():
    def run(accumulate):
        model = perceptron().double()
        optimizer = sgd(model)
        topology = semi_pruning(model, optimizer)
        for step in range(STEPS):
            optimizer.zero_grad()
            losses = [
                nn.functional.cross_entropy(model(x.double()), y) for x, y in (batch(2 * step), batch(2 * step + 1))
            ]
            if accumulate:
                for loss in losses:
                    loss.backward()
            else:
                sum(losses).backward()
            optimizer.step()
        return model, topology

    (model, topology), (expected, expected_topology) = run(True), run(False)
    assert [event.step for event in topology.events] == [4, 7, 10, 13, 16]
    assert topology.events == expected_topology.events
    for param, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_layer_that_never_receives_a_gradient_takes_part_without_growing(optimizer_name):
    model = Idle()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = semi_pruning(model, optimizer, initial_sparsity=0.6)
    train(model, optimizer, range(STEPS))
    assert topology.connections == round(topology.weights * 0.3)
    assert model.idle.weight.grad is None
    assert (model.idle.weight[~model.idle.weight_mask] == 0).all()
    assert model.idle.weight_mask.any(1).all()
    assert sum(event.regrown["idle.weight"] for event in topology.events) == 0
    assert sum(event.dropped["idle.weight"] for event in topology.events) > 0
    assert sum(event.regrown["used.0.weight"] for event in topology.events) > 0


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_puts_the_update_off_to_the_next_step(optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(3))
    before = copies(topology.masks)
    for step, broken in ((3, torch.nan), (4, torch.inf)):  # the first update is due after the fourth step
        optimizer.zero_grad()
        backward(model, step)
        inactive = (~model[3].weight_mask).nonzero()[0]
        model[3].weight.grad[tuple(inactive)] = broken
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        told = [str(warning.message) for warning in caught]
        assert len(told) == (step == 3)  # once for all of them
        assert all("gradients of step 4 are not finite: the topology stays" in words for words in told)
        assert topology.events == []
        assert all(torch.equal(before[name], mask) for name, mask in topology.masks.items())
        assert all(param.isfinite().all() for param in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, range(5, STEPS))
    assert [event.step for event in topology.events] == [6, 7, 10, 13, 16]
    assert topology.connections == round(topology.weights * 0.3)


def test_an_update_that_is_put_off_past_the_end_still_reaches_the_target():
    model = perceptron()
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer, begin=0.8)
    train(model, optimizer, range(15))
    backward(model, 15)
    model[0].weight.grad[tuple((~model[0].weight_mask).nonzero()[0])] = torch.nan
    with pytest.warns(lp.LpSphereWarning, match="step 16"):
        optimizer.step()
    train(model, optimizer, range(16, STEPS))
    assert [event.step for event in topology.events] == [17]
    assert topology.connections == round(topology.weights * 0.3)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_grad_scaler_skips_inside_a_fused_optimizer_does_not_count(optimizer_class):
    model = perceptron()
    optimizer = optimizer_class(model.parameters(), lr=0.01, fused=True)
    topology = semi_pruning(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    skipped = 0
    for step in range(STEPS + 3):
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if step in (3, 8, 9):  # the fourth step is an update
            skipped += 1
            model[0].weight.grad[0, 0] = torch.inf
        start = {name: value.clone() for name, value in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scaler.step(optimizer)
        same = all(torch.equal(start[name], value) for name, value in model.state_dict().items())
        assert same == (step in (3, 8, 9))
        scaler.update()
    assert skipped == 3
    assert topology.state_dict()["step"] == STEPS
    assert [event.step for event in topology.events] == [4, 7, 10, 13, 16]
    assert topology.connections == round(topology.weights * 0.3)


# What was there before.


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_attaching_after_dense_steps_clears_the_state_of_what_is_taken_away(optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    train(model, optimizer, range(5))
    topology = semi_pruning(model, optimizer, initial_sparsity=0.5)
    for neuron in select(model):
        mask = topology.masks[neuron.name]
        assert (neuron.weight[~mask] == 0).all()
        for key, value in state_tensors(optimizer, neuron.weight).items():
            assert (value[~mask] == 0).all(), key
            assert (value[mask] != 0).any(), key
    if optimizer_name == "lpsgd":
        assert_on_spheres(model, optimizer)


def test_weights_that_another_hand_changes_are_masked_at_the_next_step():
    for make in (lpsgd, sgd):
        model = perceptron()
        optimizer = make(model)
        topology = semi_pruning(model, optimizer)
        with torch.no_grad():
            model[0].weight.add_(1)
        train(model, optimizer, range(1))
        assert (model[0].weight[~topology.masks["0.weight"]] == 0).all()


@pytest.mark.parametrize("make", [lpsgd, sgd])
def test_masks_that_moving_the_model_has_replaced_are_still_followed(make):
    """``model.to(device)`` keeps the parameters but makes new buffers."""
    model = perceptron()
    optimizer = make(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(2))
    old = model[0].weight_mask
    model._apply(torch.clone)
    assert model[0].weight_mask is not old
    old.resize_(0)  # stands for a mask on another device: whoever still uses it fails
    train(model, optimizer, range(2, STEPS))
    assert topology.connections == round(topology.weights * 0.3)
    for name, mask in topology.masks.items():
        weight = dict(model.named_parameters())[name]
        assert (weight[~mask] == 0).all()
        for value in state_tensors(optimizer, weight).values():
            assert (value[~mask] == 0).all()


def test_training_goes_on_at_the_target_after_the_last_update():
    model = perceptron()
    optimizer = lpsgd(model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(16))
    held = copies(topology.masks)
    train(model, optimizer, range(16, 40))
    assert len(topology.events) == 5
    assert all(torch.equal(held[name], mask) for name, mask in topology.masks.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_other_floating_point_types_work(optimizer_name, dtype):
    model = perceptron().to(dtype)
    optimizer = OPTIMIZERS[optimizer_name](model)
    topology = semi_pruning(model, optimizer)
    train(model, optimizer, range(STEPS))
    assert topology.connections == round(topology.weights * 0.3)
    for name, mask in topology.masks.items():
        weight = dict(model.named_parameters())[name]
        assert weight.dtype == dtype
        assert (weight[~mask] == 0).all()
        assert weight.isfinite().all()
