"""Training layers that hold only their connections is training masked ones: the same masks, the same weights."""

import pytest
import torch
from sklearn.datasets import load_digits
from sparse_networks import masks_of, perceptron, spread_state, weight_of, with_sparse_layers
from torch import nn

import lpsphere as lp
from lpsphere.topology import growth

STEPS = 200


def lpsgd(model):
    groups = lp.param_groups(model, p=1.2, lr=0.03, other_lr=0.1, radius="init")
    return lp.LpSGD(groups, momentum=0.9, nesterov=True)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.005, weight_decay=0.05, amsgrad=True)


CASES = {
    "semi-pruning": (lp.SemiPruning, lpsgd, {}),
    "set": (lp.SET, sgd, {}),
    "rigl": (lp.RigL, sgd, {}),
    "semi-pruning, grow_init": (lp.SemiPruning, lpsgd, {"grow_init": 0.5, "min_fan_in": 2}),
    "semi-pruning, grow_init, SGD": (lp.SemiPruning, sgd, {"grow_init": 0.5, "distribution": "erk"}),
    "semi-pruning, paper": (lp.SemiPruning, lpsgd, {"adaptation": "paper"}),
    "semi-pruning, AdamW": (lp.SemiPruning, adamw, {}),
    "set, LpSGD": (lp.SET, lpsgd, {"min_fan_in": 2, "initial_sparsity": 0.8}),
    "rigl, network, AdamW": (lp.RigL, adamw, {"ranking": "network"}),
    "static, LpSGD": (lp.Static, lpsgd, {}),
}


class Pair:
    """A masked and a sparse network in training, on the same batches of digits."""

    def __init__(self, case, *, dtype=torch.float64, only=None, sparsity=0.9):
        method, make, settings = CASES[case]
        masked = perceptron((64, 48, 32, 10), dtype)
        self.models = [masked, with_sparse_layers(masked, only)]
        self.optimizers = [make(model) for model in self.models]
        self.topologies = [
            method(model, optimizer, sparsity=sparsity, total_steps=STEPS, seed=3, **settings)
            for model, optimizer in zip(self.models, self.optimizers, strict=True)
        ]
        x, y = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(x, dtype=dtype) / 16, torch.tensor(y)
        self.generator = torch.Generator().manual_seed(1)

    def step(self):
        rows = torch.randint(len(self.x), (64,), generator=self.generator)
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(self.x[rows]), self.y[rows]).backward()
            optimizer.step()

    def assert_same_masks(self):
        masked, sparse = map(masks_of, self.topologies)
        assert masked.keys() == sparse.keys()
        for name in masked:
            assert torch.equal(masked[name], sparse[name]), name

    def assert_close(self, tolerance):
        for name in self.topologies[0].masks:
            one, other = (weight_of(model, name) for model in self.models)
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
            states = [spread_state(m, o, name) for m, o in zip(self.models, self.optimizers, strict=True)]
            assert states[0].keys() == states[1].keys()
            for key, value in states[0].items():
                torch.testing.assert_close(states[1][key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("only", [None, 1], ids=["sparse", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_masks_are_the_same_at_every_update_and_weights_to_a_billionth(case, only):
    pair = Pair(case, only=only)
    pair.assert_same_masks()
    pair.assert_close(1e-12)
    for _ in range(STEPS):
        updates = len(pair.topologies[0].events)
        pair.step()
        if len(pair.topologies[0].events) > updates:
            pair.assert_same_masks()
            pair.assert_close(1e-9)
    pair.assert_same_masks()
    pair.assert_close(1e-9)
    masked, sparse = ([{**vars(e), "threshold": None} for e in t.events] for t in pair.topologies)
    assert masked == sparse
    assert len(masked) == (0 if case.startswith("static") else 16 if "rigl" in case else 61 if "semi" in case else 76)
    thresholds = [[event.threshold for event in topology.events] for topology in pair.topologies]
    assert thresholds[1] == pytest.approx(thresholds[0], rel=1e-5)
    assert pair.topologies[0].history == pair.topologies[1].history
    assert pair.topologies[0].sparsity == pair.topologies[1].sparsity


@pytest.mark.parametrize("case", ["semi-pruning", "set", "rigl"])
def test_in_float32_the_first_update_is_the_same(case):
    pair = Pair(case, dtype=torch.float32)
    while not pair.topologies[0].events:
        pair.step()
    pair.assert_same_masks()
    pair.assert_close(1e-5)
    assert sum(pair.topologies[1].events[0].regrown.values()) > 0


def test_the_rows_that_are_ranked_at_a_time_make_no_difference(monkeypatch):
    monkeypatch.setattr(growth, "BLOCK", 300)  # four rows of the first layer
    for case in ("semi-pruning", "set", "rigl"):
        pair = Pair(case)
        while len(pair.topologies[0].events) < 3:
            pair.step()
        pair.assert_same_masks()
        pair.assert_close(1e-9)


def test_the_summary_and_the_stationarity_are_those_of_the_masked_network():
    pair = Pair("semi-pruning")
    for _ in range(60):
        pair.step()
    masked, sparse = (lp.summary(*things) for things in zip(pair.models, pair.optimizers, strict=True))
    assert masked.sparsity == sparse.sparsity
    for one, other in zip(masked.layers, sparse.layers, strict=True):
        assert other.sphere_error < 1e-12
        for key, value in vars(one).items():
            if key not in ("layer", "sphere_error"):
                assert getattr(other, key) == pytest.approx(value, rel=1e-9), key
    found = [lp.stationarity(*things) for things in zip(pair.models, pair.optimizers, strict=True)]
    for one, other in zip(*(s.layers for s in found), strict=True):
        for key in ("multiplier", "residual", "relative_residual", "alignment", "gap"):
            torch.testing.assert_close(getattr(other, key), getattr(one, key), rtol=1e-8, atol=1e-10)
