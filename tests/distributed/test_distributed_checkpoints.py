"""Saved through torch.distributed.checkpoint by some processes, loaded by more, by fewer, or by one."""

from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from processes import run
from same_training import masks_of, parts, step
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import lpsphere as lp
from lpsphere.distributed import whole

SAVED, END = 25, 60  # between updates, which come every ten steps


def states(model: nn.Module, optimizer: torch.optim.Optimizer, topology: lp.Topology) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer, "topology": topology.state_dict()}


def save(cases, how, folder):
    for case in cases:
        model, optimizer, topology = parts(case, how)
        for number in range(SAVED):
            step(model, optimizer, number, how)
        dcp.save(states(model, optimizer, topology), checkpoint_id=folder / case)
    return None


def resume(cases, how, folder):
    found = {}
    for case in cases:
        model, optimizer, topology = parts(case, how)
        state = states(model, optimizer, topology)
        dcp.load(state, checkpoint_id=folder / case)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        topology.load_state_dict(state["topology"])
        found[case] = go_on(model, optimizer, topology, range(SAVED, END), how)
    return found


def go_on(model, optimizer, topology, steps, how):
    for number in steps:
        step(model, optimizer, number, how)
    weights = [whole(p.detach()).clone() for p in model.parameters()]
    return {"masks": masks_of(topology), "events": [e.dropped for e in topology.events], "weights": weights}


def uninterrupted(case):
    return go_on(*parts(case, "single"), range(END), "single")


def in_processes(count, folder, function, cases, how, checkpoint):
    if count == 1 and how == "single":
        return [function(cases, how, checkpoint)]
    return run(count, folder, function, cases, how, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "fsdp"), (1, "single")),
        ((1, "single"), (2, "fsdp")),
        ((2, "fsdp"), (4, "fsdp")),
        ((2, "ddp"), (1, "single")),
        ((1, "single"), (2, "ddp")),
        ((2, "ddp"), (4, "fsdp")),
    ],
)
def test_training_goes_on_in_another_number_of_processes(tmp_path, before, after):
    cases = ("semi-pruning", "set", "rigl, network", "semi-pruning, paper") if after[0] < 3 else ("semi-pruning", "set")
    checkpoint = tmp_path / "checkpoint"
    in_processes(before[0], tmp_path / "before", save, cases, before[1], checkpoint)
    everywhere = in_processes(after[0], tmp_path / "after", resume, cases, after[1], checkpoint)
    for case in cases:
        expected = uninterrupted(case)
        assert len(expected["events"]) >= 5
        for found in everywhere:
            assert found[case]["events"] == expected["events"], case
            for name, mask in expected["masks"].items():
                assert torch.equal(found[case]["masks"][name], mask), case
            for weight, wanted in zip(found[case]["weights"], expected["weights"], strict=True):
                torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-9)


def test_a_step_that_only_makes_state_is_not_one_of_training():
    model, optimizer, topology = parts("rigl, network", "single")
    before = masks_of(topology)
    get_state_dict(model, optimizer)  # steps a new SGD with rates and gradients of 0
    assert any("momentum_buffer" in state for state in optimizer.state.values())
    assert topology.state_dict()["step"] == 0
    assert all(torch.equal(mask, before[name]) for name, mask in topology.masks.items())


def test_a_rate_of_zero_does_not_stop_the_count_of_steps():
    model, optimizer, topology = parts("set", "single")
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer, 0, "single")
    assert topology.state_dict()["step"] == 1


def test_a_checkpoint_before_the_first_step_starts_the_momentum_anew(tmp_path):
    results = []
    for how in ("fresh", "loaded"):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(3))]
        groups = [{"params": weights[:1], "p": 1.3}, {"params": weights[1:], "p": None}]
        optimizer = lp.LpSGD(groups, lr=0.1, momentum=0.9, dampening=0.5)
        if how == "loaded":
            optimizer.load_state_dict(optimizer.state_dict())
        for weight in weights:
            weight.grad = torch.randn(weight.shape)
        optimizer.step()
        results.append([weight.detach().clone() for weight in weights])
    assert all(torch.equal(fresh, loaded) for fresh, loaded in zip(*results, strict=True))
