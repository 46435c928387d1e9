"""Every method beside torch.compile, weight averaging, Accelerate, pickle and copies, and from other starts."""

import copy
import io
import pickle

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
from small_networks import (
    DYNAMIC,
    METHODS,
    OPTIMIZERS,
    UPDATES,
    assert_identical,
    assert_masked,
    backward,
    batch,
    convolution,
    copies,
    parts,
    perceptron,
    saved,
    sgd,
    train,
)
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lpsphere as lp

STEPS = 20


def parameters(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


# torch.compile.


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


@pytest.mark.parametrize("optimizer_name", ["lpsgd", "sgd"])
@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_model_is_compiled_once_and_trained_as_the_model_itself(compiler, method, optimizer_name):
    plain = parts(method, optimizer_name)
    train(plain["model"], plain["optimizer"], range(STEPS))
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    compiled = torch.compile(model, backend=compiler)
    topology = METHODS[method](compiled, optimizer)
    train(compiled, optimizer, range(1))
    assert compiler.frame_count == 1
    train(compiled, optimizer, range(1, STEPS))
    assert compiler.frame_count == 1
    assert [event.step for event in topology.events] == UPDATES[method]
    assert_identical(topology.state_dict(), plain["topology"].state_dict())
    assert_identical(model.state_dict(), plain["model"].state_dict())
    topology.finalize()
    assert list(model.state_dict()) == list(perceptron().state_dict())


# Weight averaging.


def averaged_over_updates(**settings):
    """The model, its average over steps 6 to 20, and what was averaged."""
    things = parts("set", "sgd")
    model, optimizer, topology = things.values()
    train(model, optimizer, range(5))
    average, seen = AveragedModel(model, **settings), []
    for step in range(5, STEPS):
        train(model, optimizer, range(step, step + 1))
        average.update_parameters(model)
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        seen.append({name: value.detach().clone() for name, value in values.items()})
    return topology, average, seen


def equal(values):
    return torch.stack(values).mean(0)


def exponential(values):
    result = values[0]
    for value in values[1:]:
        result = 0.7 * result + 0.3 * value
    return result


@pytest.mark.parametrize(("function", "by_hand"), [(None, equal), (get_ema_multi_avg_fn(0.7), exponential)])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_averaged_model_has_the_newest_masks_and_apply_masks_makes_it_sparse(use_buffers, function, by_hand):
    if use_buffers:
        function = lp.masked_average(function)
    topology, average, seen = averaged_over_updates(multi_avg_fn=function, use_buffers=use_buffers)
    copied = 0
    for name, value in {**dict(average.module.named_parameters()), **dict(average.module.named_buffers())}.items():
        values = [entry[name] for entry in seen]
        is_buffer = name not in dict(average.module.named_parameters())
        if is_buffer and (not use_buffers or not value.is_floating_point()):
            assert torch.equal(value, values[-1]), name
            copied += 1
        else:
            torch.testing.assert_close(value.detach(), by_hand(values), msg=name)
    assert copied == (4 if use_buffers else 8)  # masks and counts of batches; means and variances too
    dense = parameters(average.module)
    for name, mask in topology.masks.items():
        assert (dense[name][~mask] != 0).any()  # connections that have gone
    assert lp.apply_masks(average) is average
    for name, value in average.module.named_parameters():
        mask = topology.masks.get(name)
        assert torch.equal(value, dense[name] if mask is None else dense[name] * mask), name
    assert average.eval()(batch(0)[0]).isfinite().all()


def test_masked_average_averages_every_floating_point_type():
    values = [torch.tensor([1.0, 2.0], dtype=dtype) for dtype in (torch.float64, torch.bfloat16, torch.complex64)]
    for value in values:
        lp.masked_average()([value], [value + 2], torch.tensor(1))
        assert torch.equal(value, torch.tensor([2.0, 3.0], dtype=value.dtype))


# Copies and pickles.


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_in_mid_training_goes_its_own_way_after_attaching_anew(method, optimizer_name):
    plain, things = parts(method, optimizer_name), parts(method, optimizer_name)
    train(plain["model"], plain["optimizer"], range(STEPS))
    train(things["model"], things["optimizer"], range(8))
    twin = copy.deepcopy(things["model"])
    optimizer = OPTIMIZERS[optimizer_name](twin)
    before = copies(things["topology"].masks)
    with pytest.raises(ValueError, match=r'the model has masks already: .* initial_sparsity="keep"'):
        METHODS[method](twin, optimizer)
    topology = METHODS[method](twin, optimizer, initial_sparsity="keep", seed=1)
    assert_identical(topology.masks, before)
    train(twin, optimizer, range(30, 30 + STEPS))
    assert_masked(twin, topology)
    assert topology.connections == round(topology.weights * 0.3)
    assert_identical(things["topology"].masks, before)
    train(things["model"], things["optimizer"], range(8, STEPS))
    assert_identical(saved(things), saved(plain))
    assert not torch.equal(twin[0].weight, things["model"][0].weight)


def through_pickle(objects):
    return pickle.loads(pickle.dumps(objects))


def through_a_file(objects):
    buffer = io.BytesIO()
    torch.save(objects, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("step", [2, 7, 11])
@pytest.mark.parametrize("through", [through_pickle, through_a_file])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_pickled_objects_are_attached_anew_and_continue_bit_by_bit(method, optimizer_name, through, step):
    things = parts(method, optimizer_name)
    train(things["model"], things["optimizer"], range(step))
    model, optimizer, state = through((things["model"], things["optimizer"], things["topology"].state_dict()))
    train(things["model"], things["optimizer"], range(step, STEPS))
    assert not optimizer._optimizer_step_pre_hooks  # pickle has lost them
    topology = METHODS[method](model, optimizer, initial_sparsity="keep", seed=9)
    topology.load_state_dict(state)
    train(model, optimizer, range(step, STEPS))
    assert [event.step for event in topology.events] == UPDATES[method]
    assert_identical(saved({"model": model, "optimizer": optimizer, "topology": topology}), saved(things))


# Accelerate.


@pytest.fixture
def accelerator(tmp_path):
    """A maker of accelerators, whose state is global."""

    def make(**settings):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return Accelerator(cpu=True, project_dir=tmp_path, **settings)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def accelerated(accelerate, method, optimizer_name):
    model = perceptron()
    model, optimizer = accelerate.prepare(model, OPTIMIZERS[optimizer_name](model))
    assert isinstance(optimizer, AcceleratedOptimizer)
    return {"model": model, "optimizer": optimizer, "topology": METHODS[method](model, optimizer)}


def train_accelerated(accelerate, things, steps):
    model, optimizer, _ = things.values()
    for step in steps:
        x, y = batch(step)
        with accelerate.accumulate(model):
            accelerate.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_that_accelerate_wraps_trains_as_the_one_inside(accelerator, method, optimizer_name):
    plain = parts(method, optimizer_name)
    train(plain["model"], plain["optimizer"], range(STEPS))
    accelerate = accelerator()
    things = accelerated(accelerate, method, optimizer_name)
    train_accelerated(accelerate, things, range(STEPS))
    assert_identical(saved(things), saved(plain))


@pytest.mark.parametrize("method", METHODS)
def test_accelerates_accumulated_batches_make_one_step(accelerator, method):
    accelerate = accelerator(gradient_accumulation_steps=2)
    things = accelerated(accelerate, method, "adamw")
    train_accelerated(accelerate, things, range(2 * STEPS))
    assert things["topology"].state_dict()["step"] == STEPS
    assert [event.step for event in things["topology"].events] == UPDATES[method]
    assert things["topology"].connections == round(things["topology"].weights * 0.3)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_accelerates_bfloat16_reaches_the_target(accelerator, method, optimizer_name):
    accelerate = accelerator(mixed_precision="bf16")
    things = accelerated(accelerate, method, optimizer_name)
    inside = []
    things["model"][0].register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    for step in range(STEPS):
        train_accelerated(accelerate, things, range(step, step + 1))
        assert_masked(things["model"], things["topology"])
    assert set(inside) == {torch.bfloat16}
    assert [event.step for event in things["topology"].events] == UPDATES[method]
    assert things["topology"].connections == round(things["topology"].weights * 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_accelerates_loss_scale_skips_does_not_count(accelerator, method):
    plain = parts(method, "sgd")
    train(plain["model"], plain["optimizer"], range(STEPS))
    accelerator()
    things = parts(method, "sgd")
    model, optimizer, topology = things.values()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=1)
    wrapped = AcceleratedOptimizer(optimizer, device_placement=False, scaler=scaler)
    for step in range(STEPS):
        for broken in (True, False) if step + 1 in (3, 7, 13) else (False,):
            wrapped.zero_grad()
            x, y = batch(step)
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if broken:
                model[3].weight.grad[0, 0] = torch.inf
            wrapped.step()
            assert wrapped.step_was_skipped == broken
    assert_identical(topology.state_dict(), plain["topology"].state_dict())
    assert_identical(parameters(model), parameters(plain["model"]))


@pytest.mark.parametrize("step", [2, 9])
@pytest.mark.parametrize("optimizer_name", ["lpsgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_accelerates_checkpoints_hold_the_topology(accelerator, tmp_path, method, optimizer_name, step):
    accelerate = accelerator()
    things = accelerated(accelerate, method, optimizer_name)
    accelerate.register_for_checkpointing(things["topology"])
    train_accelerated(accelerate, things, range(step))
    accelerate.save_state(tmp_path / "checkpoint")
    train_accelerated(accelerate, things, range(step, STEPS))
    expected = saved(things)
    accelerate = accelerator()
    others = accelerated(accelerate, method, optimizer_name)
    accelerate.register_for_checkpointing(others["topology"])
    train_accelerated(accelerate, others, range(50, 53))
    accelerate.load_state(tmp_path / "checkpoint")
    train_accelerated(accelerate, others, range(step, STEPS))
    assert_identical(saved(others), expected)


# Checkpoints that do not fit.


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_a_dense_model_is_refused_with_the_masks_it_lacks(method):
    things = parts(method, "sgd")
    before = saved(things)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.weight_mask", "3.weight_mask"'):
        things["model"].load_state_dict(perceptron(seed=3).state_dict())
    state = things["topology"].state_dict()
    with pytest.raises(ValueError, match=r"the saved topology has no masks: .* load the model .*keep"):
        things["topology"].load_state_dict({key: value for key, value in state.items() if key != "masks"})
    with pytest.raises(ValueError, match=r"build the same, and give it what its own state_dict\(\) returned"):
        things["topology"].load_state_dict(perceptron().state_dict())
    assert_identical(saved(things)["topology"], before["topology"])


@pytest.mark.parametrize("other", ["network", "selection", "method"])
@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(method, other):
    things = parts(method, "sgd")
    before = saved(things)
    if other == "network":
        model, words = (
            convolution(),
            r"those of another network or selection; they differ in .*: build the same network",
        )
        state = METHODS[method](model, sgd(model)).state_dict()
    elif other == "selection":
        model, words = perceptron(), r"they differ in .*6\.weight.*: build the same network, .* rules and include_last"
        state = METHODS[method](model, sgd(model), include_last=True).state_dict()
    else:
        different = next(name for name in METHODS if name != method)
        state, words = parts(different, "sgd")["topology"].state_dict(), "the saved topology is .*'s, this is .*: build"
    with pytest.raises(ValueError, match=words):
        things["topology"].load_state_dict(state)
    assert_identical(saved(things), before)


def test_the_weights_of_a_dense_model_become_sparse_at_the_next_step():
    for optimizer_name in OPTIMIZERS:
        things = parts("static", optimizer_name)
        model, optimizer, topology = things.values()
        train(model, optimizer, range(3))
        missing = model.load_state_dict(perceptron(seed=3).state_dict(), strict=False).missing_keys
        assert missing == ["0.weight_mask", "3.weight_mask"]
        train(model, optimizer, range(3, 4))
        assert_masked(model, topology)
        assert topology.connections == round(topology.weights * 0.3)


# Other starts.


def trained_densely(optimizer_name):
    model = perceptron()
    optimizer = OPTIMIZERS[optimizer_name](model)
    train(model, optimizer, range(10))
    return model, optimizer


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", DYNAMIC)
def test_a_trained_dense_model_is_taken_as_it_is_and_its_largest_weights_stay(method, optimizer_name):
    model, optimizer = trained_densely(optimizer_name)
    weights = parameters(model)
    initial = {} if method == "snip" else {"initial_sparsity": 0}
    topology = METHODS[method](model, optimizer, **initial)
    assert topology.sparsity == 0
    assert_identical(parameters(model), weights)
    train(model, optimizer, range(10, 10 + STEPS))
    assert [event.step for event in topology.events] == UPDATES[method]
    assert topology.connections == round(topology.weights * 0.3)
    assert_masked(model, topology)
    for name, mask in topology.masks.items():
        sizes = weights[name].abs()
        assert sizes[mask].mean() > 1.2 * sizes[~mask].mean()


def test_a_static_mask_keeps_a_dense_model_dense_or_says_what_it_found():
    model, optimizer = trained_densely("sgd")
    with pytest.raises(
        ValueError, match=r"finds sparsity 0.*, which a static mask cannot change to 0\.7: pass sparsity=0"
    ):
        METHODS["static"](model, optimizer, initial_sparsity="keep")
    assert not hasattr(model[0], "weight_mask")
    with pytest.raises(ValueError, match=r"leave initial_sparsity=0\.0 out"):
        METHODS["static"](model, optimizer, initial_sparsity=0.0)
    topology = METHODS["static"](model, optimizer, sparsity=0.0, initial_sparsity="keep")
    train(model, optimizer, range(5))
    assert topology.connections == topology.weights


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", DYNAMIC)
def test_a_model_with_zeros_is_continued_and_made_sparser(method, optimizer_name):
    model = perceptron()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight[:, ::2] = 0
    optimizer = OPTIMIZERS[optimizer_name](model)
    weights = parameters(model)
    topology = METHODS[method](model, optimizer, initial_sparsity="keep")
    assert topology.sparsity == topology.initial_sparsity == 0.5
    assert_identical(topology.masks, {name: weights[name] != 0 for name in topology.masks})
    assert_identical(parameters(model), weights)
    train(model, optimizer, range(STEPS))
    assert topology.connections == round(topology.weights * 0.3)
    even = sum(int(mask[:, ::2].sum()) for mask in topology.masks.values())
    assert (even > 0) == (method in ("set", "rigl", "semi_pruning"))  # the others never grow


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_after_finalize_a_static_mask_keeps_the_zeros_while_fine_tuning(method, optimizer_name):
    things = parts(method, optimizer_name)
    model, optimizer, first = things.values()
    train(model, optimizer, range(STEPS))
    first.finalize()
    found = {name: model.get_parameter(name).detach() != 0 for name in ("0.weight", "3.weight")}
    total = sum(mask.numel() for mask in found.values())
    sparsity = 1 - sum(int(mask.sum()) for mask in found.values()) / total
    tuner = OPTIMIZERS[optimizer_name](model)
    with pytest.raises(ValueError, match=rf"above the target 0\.2: raise sparsity to {sparsity:.10g}"):
        lp.Static(model, tuner, sparsity=0.2, total_steps=10, initial_sparsity="keep")
    second = lp.Static(model, tuner, sparsity=sparsity, total_steps=10, initial_sparsity="keep")
    assert_identical(second.masks, found)
    before = parameters(model)
    for step in range(10):
        train(model, tuner, range(40 + step, 41 + step))
        assert_masked(model, second)
    assert_identical(second.masks, found)
    for name, mask in found.items():
        assert (model.get_parameter(name) != before[name])[mask].double().mean() > 0.9
    second.finalize()
    assert list(model.state_dict()) == list(perceptron().state_dict())
    backward(model, 0)
    tuner.step()  # nothing holds the zeros any more
    assert (model[0].weight[~found["0.weight"]] != 0).any()


def test_masks_are_applied_to_a_frozen_copy_and_to_the_weights_alone():
    model = perceptron()
    topology = lp.Static(model, sgd(model), sparsity=0.5, total_steps=1)
    twin = copy.deepcopy(model).requires_grad_(False)
    twin[0].weight += 1
    bias = twin[0].bias.clone()
    assert lp.apply_masks(twin) is twin
    assert torch.equal(twin[0].weight != 0, topology.masks["0.weight"])
    assert torch.equal(twin[0].bias, bias)
    plain = nn.Linear(3, 2)
    weight = plain.weight.detach().clone()
    assert torch.equal(lp.apply_masks(plain).weight, weight)
