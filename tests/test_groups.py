import math

import pytest
from torch import nn

import lpsphere as lp
from lpsphere.sparse import SparseLinear
from lpsphere.theory import p_for_sparsity, p_for_training, weak_fraction
from lpsphere.theory.training import LOWEST_P, WEAK_DENSE, WEAK_PER_DECADE, calibrated_p


def network():
    return nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))


def test_the_p_of_auto_falls_as_the_sparsity_rises_and_stays_off_1():
    values = [p_for_training(s) for s in (0.0, 0.3, 0.5, 0.8, 0.9, 0.99, 0.999999)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1] >= LOWEST_P == 1.05


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_it_solves_the_equation_it_is_defined_by(sparsity):
    p = p_for_training(sparsity)
    weak = WEAK_DENSE + WEAK_PER_DECADE * math.log10(1 / (1 - sparsity))
    if p > LOWEST_P:
        assert p == pytest.approx(p_for_sparsity(weak, 0.2), abs=5e-4)
    assert weak_fraction(p, 0.2) <= weak + 0.01


def test_weak_fractions_that_would_go_too_near_to_1_are_cut_off():
    assert calibrated_p(0.99, 0.5, 0.3) == LOWEST_P
    assert calibrated_p(0.0, 0.5, 0.3) == pytest.approx(p_for_sparsity(0.5, 0.2), abs=5e-4)


@pytest.mark.parametrize(
    ("sparsity", "error"),
    [(1.0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.9", TypeError), (True, TypeError)],
)
def test_a_sparsity_that_is_none_is_refused(sparsity, error):
    with pytest.raises(error, match=r"in \[0, 1\)"):
        p_for_training(sparsity)
    with pytest.raises(error, match=r"in \[0, 1\)"):
        lp.param_groups(network(), "auto", sparsity=sparsity, lr=0.02, other_lr=0.2)


def test_auto_gives_every_layer_its_p_and_a_line_that_says_why():
    rules = [lp.Rule("0", sparsity=0.5)]
    groups = lp.param_groups(network(), "auto", sparsity=0.9, lr=0.02, other_lr=0.2, rules=rules)
    assert [group["p"] for group in groups] == [p_for_training(0.5), p_for_training(0.9), None]
    lines = str(groups).splitlines()[-2:]
    assert lines == groups.reasons
    assert lines[0].startswith(f"0.weight: p = {p_for_training(0.5):g} for sparsity 0.5 (")
    assert "of 32 weights expected under 0.2 of their mean, Hoyer 0." in lines[0]
    assert lines[1].startswith(f"2.weight: p = {p_for_training(0.9):g} for sparsity 0.9 (")


def test_rules_with_a_p_of_their_own_and_layers_kept_dense_are_honoured():
    rules = [lp.Rule("0", p=1.4), lp.Rule("2", sparse=False)]
    groups = lp.param_groups(network(), "auto", sparsity=0.9, lr=0.02, other_lr=0.2, rules=rules)
    assert [group["p"] for group in groups] == [1.4, p_for_training(0.0), None]
    assert len(groups.reasons) == 1
    off = [lp.Rule("0", p=None), lp.Rule("2", p=None)]
    assert [g["p"] for g in lp.param_groups(network(), "auto", sparsity=0.9, lr=0.02, other_lr=0.2, rules=off)] == [
        None
    ]


def test_auto_trains():
    model = network()
    optimizer = lp.LpSGD(lp.param_groups(model, "auto", sparsity=0.9, lr=0.02, other_lr=0.2))
    assert {layer.p for layer in lp.summary(model, optimizer).layers} == {p_for_training(0.9)}


def test_auto_without_a_sparsity_and_a_sparsity_without_auto_are_refused():
    with pytest.raises(ValueError, match=r'p="auto" needs the sparsity that p shall suit, such as sparsity=0\.9'):
        lp.param_groups(network(), "auto", lr=0.02, other_lr=0.2)
    with pytest.raises(ValueError, match=r'sparsity=0\.9 is for p="auto" only, got p=1\.2'):
        lp.param_groups(network(), 1.2, sparsity=0.9, lr=0.02, other_lr=0.2)
    with pytest.raises(TypeError, match="p must be a number greater than 1, got 'Auto'"):
        lp.param_groups(network(), "Auto", lr=0.02, other_lr=0.2)


def test_sparse_layers_of_one_p_share_a_group_and_bring_their_layouts():
    model = nn.Sequential(
        nn.Linear(32, 16), SparseLinear(16, 16, sparsity=0.5), SparseLinear(16, 8, sparsity=0.5), nn.Linear(8, 4)
    )
    groups = lp.param_groups(model, 1.2, lr=0.02, other_lr=0.1, radius="init", rules=[lp.Rule("2", p=1.3)])
    assert [group["name"] for group in groups] == ["sphere p=1.2", "sphere p=1.2 sparse", "sphere p=1.3 sparse", "rest"]
    assert [("layouts" in group) for group in groups] == [False, True, True, False]
    assert groups[1]["params"] == [model[1].weight]
    assert [layout.layer for layout in groups[1]["layouts"]] == [model[1]]
    assert [line.split()[-1] for line in str(groups).splitlines()[1:]] == ["512", "128", "64", "76"]
