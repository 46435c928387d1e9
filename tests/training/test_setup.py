from dataclasses import replace

import pytest
import torch
from torch import nn

from lpsphere.models import build
from lpsphere.optim import LpSGD
from lpsphere.training import TrainConfig
from lpsphere.training.setup import make_optimizer, precision, sphere_groups

CONFIG = TrainConfig(p=1.15, first_p=1.3, first_layers=2)
NETWORK = {"kind": "mlp", "in_features": 8, "hidden": [8, 8, 8], "out_features": 2}


def exponents(model, config):
    groups = make_optimizer(config, model).param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {names[id(w)]: group["p"] for group in groups if group["p"] is not None for w in group["params"]}


def test_the_first_layers_take_an_exponent_of_their_own():
    assert exponents(build(NETWORK), CONFIG) == {
        "hidden.0.linear.weight": 1.3,
        "hidden.1.linear.weight": 1.3,
        "hidden.2.linear.weight": 1.15,
    }


def test_the_output_layer_counts_where_it_is_on_spheres_too():
    config = replace(CONFIG, first_layers=4, constrain_last=True)
    assert set(exponents(build(NETWORK), config).values()) == {1.3}
    with pytest.raises(ValueError, match="first_layers=4 of 3 weights on spheres: give at most these"):
        sphere_groups(replace(CONFIG, first_layers=4), build(NETWORK))


def test_the_first_layers_keep_their_exponent_beside_auto():
    config = replace(CONFIG, p="auto", sparsity=0.9, first_layers=1)
    model = build(NETWORK)
    found = exponents(model, config)
    assert found.pop("hidden.0.linear.weight") == 1.3
    assert len(set(found.values())) == 1
    assert [reason.split(":")[0] for reason in sphere_groups(config, model).reasons] == list(found)


def test_names_with_the_characters_of_patterns_are_matched_as_they_are():
    model = nn.Module()
    for name in ("a[0]", "a0", "b*", "bc", "last"):
        model.add_module(name, nn.Linear(4, 4, bias=False))
    found = exponents(model, replace(CONFIG, first_layers=1, radius="init"))
    assert found == {"a[0].weight": 1.3, "a0.weight": 1.15, "b*.weight": 1.15, "bc.weight": 1.15}


def test_without_spheres_there_is_no_exponent():
    assert not isinstance(make_optimizer(replace(CONFIG, optimizer="sgd"), build(NETWORK)), LpSGD)


@pytest.mark.parametrize("name", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("cuda", [True, False])
def test_a_precision_that_is_named_is_taken(name, cuda):
    assert precision(TrainConfig(mixed_precision=name), cuda) == name


@pytest.mark.parametrize(("avx", "amx", "chosen"), [(0, 0, "no"), (1, 0, "bf16"), (0, 1, "bf16")])
def test_auto_asks_the_processor_for_its_instructions(monkeypatch, avx, amx, chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert precision(TrainConfig(mixed_precision="auto"), cuda=False) == chosen


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "no")])
def test_auto_asks_a_cuda_device_whether_bf16_is_native(monkeypatch, native, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert precision(TrainConfig(mixed_precision="auto"), cuda=True) == chosen
