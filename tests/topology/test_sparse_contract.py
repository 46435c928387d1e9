"""What the methods promise, of layers that hold only their connections: alone, and beside masked ones."""

import copy
import itertools
import warnings

import pytest
import torch
from small_networks import METHODS, OPTIMIZERS, UPDATES, assert_identical, batch, saved, train
from sparse_networks import masks_of, perceptron, spread_state, weight_of, with_sparse_layers
from torch import nn

import lpsphere as lp
from lpsphere.geometry import Segments, lp_norm
from lpsphere.sparse import SparseLinear

STEPS = 20
SPARSE_METHODS = ["static", "set", "rigl", "semi_pruning"]
NETWORKS = {"sparse": None, "mixed": 1}
CASES = list(itertools.product(SPARSE_METHODS, OPTIMIZERS, NETWORKS))
ORDERS = list(itertools.permutations(["model", "optimizer", "topology"]))


def network(kind="sparse", seed=0, dtype=torch.float32):
    return with_sparse_layers(perceptron(norm=True, dtype=dtype, seed=seed), NETWORKS[kind])


def parts(method, optimizer_name, kind="sparse", seed=0, **changes):
    model = network(kind, seed)
    optimizer = OPTIMIZERS[optimizer_name](model)
    return {"model": model, "optimizer": optimizer, "topology": METHODS[method](model, optimizer, seed=seed, **changes)}


def weights(model, topology):
    return {name: weight_of(model, name).clone() for name in topology.masks}


def held(model):
    return [module for module in model if isinstance(module, SparseLinear)]


@pytest.mark.parametrize(("method", "optimizer_name", "kind"), CASES)
def test_every_step_keeps_the_contract_and_the_end_is_at_the_target(method, optimizer_name, kind):
    model, optimizer, topology = parts(method, optimizer_name, kind).values()
    parameters, changes = list(model.parameters()), 0
    for step in range(1, STEPS + 1):
        masks, before = masks_of(topology), weights(model, topology)
        train(model, optimizer, range(step - 1, step))
        after, now = masks_of(topology), weights(model, topology)
        for name in masks:
            changed, both = masks[name] ^ after[name], masks[name] & after[name]
            assert (now[name][~after[name] | changed] == 0).all()
            assert now[name].isfinite().all()
            for key, value in spread_state(model, optimizer, name).items():
                assert (value[changed] == 0).all(), key
            replaced = method == "rigl" and step in UPDATES["rigl"]
            if not replaced:
                assert not torch.equal(now[name][both], before[name][both])
            elif optimizer_name != "lpsgd":
                assert torch.equal(now[name][both], before[name][both])
        if step in UPDATES[method]:
            event = topology.events[-1]
            assert event.step == step
            assert event.sparsity == topology.sparsity
            for name in masks:
                assert event.dropped[name] == int((masks[name] & ~after[name]).sum())
                assert event.regrown[name] == int((after[name] & ~masks[name]).sum())
                changes += event.dropped[name]
        else:
            assert all(torch.equal(masks[name], after[name]) for name in masks)
    assert [event.step for event in topology.events] == UPDATES[method]
    assert (changes > 0) == (method != "static")
    assert (
        topology.connections == round(topology.weights * 0.3) == sum(int(m.sum()) for m in masks_of(topology).values())
    )
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert topology.finalize() is model
    x = batch(0)[0]
    plain = nn.Sequential(*(m.to_dense() if isinstance(m, SparseLinear) else m for m in model)).eval()
    torch.testing.assert_close(model.eval()(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_neurons_are_on_their_spheres_after_every_step(kind):
    model, optimizer, _ = parts("semi_pruning", "lpsgd", kind).values()
    for step in range(STEPS):
        train(model, optimizer, range(step, step + 1))
        for layer in held(model):
            norms = lp_norm(layer.weight.detach(), 1.2, dim=Segments(layer.row_pointers))
            radii = optimizer.state[layer.weight]["radius"].flatten()
            torch.testing.assert_close(norms, radii, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("method", "optimizer_name", "kind", "step", "order"),
    [(*case, 7 * i % STEPS, ORDERS[i % 6]) for i, case in enumerate(CASES)]
    + [("set", "sgd", "sparse", 9, order) for order in ORDERS]
    + [("semi_pruning", "lpsgd", "sparse", 9, order) for order in ORDERS],
)
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(method, optimizer_name, kind, step, order):
    things = parts(method, optimizer_name, kind)
    train(things["model"], things["optimizer"], range(step))
    state = saved(things)
    train(things["model"], things["optimizer"], range(step, STEPS))
    resumed = parts(method, optimizer_name, kind, seed=5)
    train(resumed["model"], resumed["optimizer"], range(50, 55))
    for name in order:
        resumed[name].load_state_dict(copy.deepcopy(state[name]))
    train(resumed["model"], resumed["optimizer"], range(step, STEPS))
    assert_identical(saved(resumed), saved(things))


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_after_loading_the_topology_alone_what_stays_keeps_its_weight_and_state(optimizer_name):
    old, things = parts("set", optimizer_name), parts("set", optimizer_name, seed=5)
    train(old["model"], old["optimizer"], range(6))
    train(things["model"], things["optimizer"], range(6))
    masks, state = masks_of(things["topology"]), spread_state(things["model"], things["optimizer"], "0.weight")
    things["topology"].load_state_dict(saved(old)["topology"])
    now = masks_of(things["topology"])
    for name, mask in masks_of(old["topology"]).items():
        assert torch.equal(now[name], mask)
    both = masks["0.weight"] & now["0.weight"]
    after = spread_state(things["model"], things["optimizer"], "0.weight")
    for key in set(state) - {"dual"}:
        assert torch.equal(after[key][both], state[key][both])
        assert (after[key][~both] == 0).all()
    train(things["model"], things["optimizer"], range(6, STEPS))


def test_a_state_of_masked_layers_is_refused_and_changes_nothing():
    topology = parts("set", "sgd")["topology"]
    model = perceptron(norm=True, dtype=torch.float32)
    masked = METHODS["set"](model, OPTIMIZERS["sgd"](model))
    before = topology.state_dict()
    with pytest.raises(ValueError, match="another network or selection"):
        topology.load_state_dict(masked.state_dict())
    with pytest.raises(ValueError, match="another network or selection"):
        masked.load_state_dict(before)
    assert_identical(topology.state_dict(), before)


@pytest.mark.parametrize("method", ["snip", "gmp"])
def test_methods_that_need_a_dense_network_say_what_to_use(method):
    model = network("mixed")
    optimizer = OPTIMIZERS["sgd"](model)
    with pytest.raises(
        ValueError, match=r"chooses among the weights of a dense network, and 3\.weight holds only its "
    ):
        METHODS[method](model, optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not hasattr(model[0], "weight_mask")


@pytest.mark.parametrize("granularity", ["2:4", "2x1"])
def test_only_single_connections_come_and_go(granularity):
    model = network()
    with pytest.raises(ValueError, match=r'leave it at "weight", or use nn\.Linear layers'):
        METHODS["set"](model, OPTIMIZERS["sgd"](model), granularity=granularity)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_connections_that_a_layer_lacks_at_the_start_begin_like_those_that_it_has(optimizer_name):
    model = nn.Sequential(SparseLinear(200, 80, sparsity=0.95, seed=1), nn.ReLU(), nn.Linear(80, 3))
    size = model[0].weight.detach().square().mean()
    optimizer = OPTIMIZERS[optimizer_name](model)
    with pytest.warns(lp.LpSphereWarning, match=r"holds 800 connections and is given 1,600 to start from: pass init"):
        METHODS["set"](model, optimizer, sparsity=0.9)
    assert model[0].connections == 1600
    if optimizer_name == "lpsgd":
        norms = lp_norm(model[0].weight.detach(), 1.2, dim=Segments(model[0].row_pointers))
        torch.testing.assert_close(norms, optimizer.state[model[0].weight]["radius"].flatten())
        assert (model[0].weight != 0).all()
    else:
        assert model[0].weight.detach().square().mean() == pytest.approx(float(size), rel=0.1)


def test_a_layer_keeps_its_connections_if_it_is_told_to():
    model = nn.Sequential(SparseLinear(20, 8, sparsity=0.75), nn.ReLU(), nn.Linear(8, 3))
    optimizer = OPTIMIZERS["lpsgd"](model)
    before = copy.deepcopy(model.state_dict())
    topology = METHODS["set"](model, optimizer, sparsity=0.75, initial_sparsity="keep")
    assert_identical(dict(model.state_dict()), dict(before))
    assert topology.sparsity == 0.75
    topology.detach()
    with pytest.raises(ValueError, match="which a static mask cannot change"):
        METHODS["static"](model, optimizer, sparsity=0.8, initial_sparsity="keep")


def test_the_factors_of_the_gradient_are_kept_at_updates_alone():
    for method, kept_at in (("rigl", UPDATES["rigl"]), ("semi_pruning", UPDATES["semi_pruning"]), ("set", [])):
        model, optimizer, topology = parts(method, "sgd").values()
        kept = []
        for step in range(1, STEPS + 1):
            model.zero_grad()
            nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            if model[0].gradient_factors() is not None:
                kept.append(step)
            optimizer.step()
            assert model[0].gradient_factors() is None
        assert kept == kept_at
        topology.finalize()
        assert model[0]._factors is None


def test_growth_follows_the_gradient_of_all_batches_that_were_accumulated():
    model, optimizer, _ = parts("rigl", "sgd").values()
    train(model, optimizer, range(3))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch(90)[0]), batch(90)[1]).backward()
    optimizer.zero_grad()  # such as of a step that was left out
    for part in (3, 4):
        nn.functional.cross_entropy(model(batch(part)[0]), batch(part)[1]).backward()
    dy, x = model[0].gradient_factors()
    found = (dy @ x.t())[model[0].rows.long(), model[0].columns.long()]
    torch.testing.assert_close(found, model[0].weight.grad)


def test_gradients_that_were_set_by_hand_cannot_tell_where_to_grow():
    model, optimizer, _ = parts("rigl", "sgd").values()
    train(model, optimizer, range(3))
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match=r"did not keep what 0\.weight needs to grow"):
        optimizer.step()


def test_an_update_whose_gradients_are_not_finite_is_made_up_for():
    model, optimizer, topology = parts("rigl", "sgd").values()
    train(model, optimizer, range(3))
    optimizer.zero_grad()
    x = batch(3)[0]
    x[0, 0] = torch.inf
    model.eval()(x).sum().backward()
    with pytest.warns(lp.LpSphereWarning, match="the gradients of step 4 are not finite"):
        optimizer.step()
    assert not topology.events
    model.train()
    with torch.no_grad():
        for param in model.parameters():
            param.nan_to_num_(0.1)
    train(model, optimizer, range(4, 5))
    assert [event.step for event in topology.events] == [5]


def test_closures_and_masked_gradients_are_understood():
    losses = []
    ends = []
    for how in ("plain", "closure", "mask_grads"):
        model, optimizer, topology = parts("rigl", "sgd").values()

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        for step in range(8):
            x, y = batch(step)
            if how == "closure":
                losses.append(optimizer.step(closure))
                continue
            closure()
            if how == "mask_grads":
                topology.mask_grads()
            optimizer.step()
        ends.append(saved({"model": model, "optimizer": optimizer, "topology": topology}))
    assert_identical(ends[1], ends[0])
    assert_identical(ends[2], ends[0])


def test_a_layer_without_a_gradient_is_left_alone():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.used = SparseLinear(9, 8, sparsity=0.5), network()

        def forward(self, x):
            return self.used(x)

    model = Idle()
    optimizer = OPTIMIZERS["sgd"](model)
    topology = METHODS["rigl"](model, optimizer)
    before = masks_of(topology)["idle.weight"]
    train(model, optimizer, range(STEPS))
    assert torch.equal(masks_of(topology)["idle.weight"], before)
    assert topology.events[-1].dropped["idle.weight"] == 0


def test_state_of_connections_that_others_have_exchanged_is_forgotten():
    model, optimizer, _ = parts("set", "adamw").values()
    train(model, optimizer, range(2))
    layer = model[0]
    layer.set_structure(torch.arange(16), torch.arange(16) % 12, torch.randn(16))
    train(model, optimizer, range(2, 3))
    assert optimizer.state[layer.weight]["exp_avg"].shape == (16,)
    assert optimizer.state[layer.weight]["step"] == 1


def test_a_method_of_ones_own_works_as_it_stands():
    class Sensitivity(lp.Topology):
        def drop_scores(self, neuron, mask):
            return (neuron.weight * neuron.weight.grad).abs()

        def grow_scores(self, neuron, gradient):
            return gradient.abs()

    ends = []
    for model in (perceptron(), with_sparse_layers(perceptron())):
        optimizer = torch.optim.AdamW(model.parameters())
        topology = Sensitivity(model, optimizer, sparsity=0.7, total_steps=STEPS, every=2)
        train(model, optimizer, range(STEPS))
        assert len(topology.events) == 8
        ends.append(masks_of(topology))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
