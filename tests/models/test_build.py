import json

import pytest

from lpsphere.models import CNN, MLP, WideResNet, build


@pytest.mark.parametrize(
    "model",
    [
        MLP(12),
        MLP(12, (), 1),
        MLP(12, (8, 6), 3, norm=False),
        MLP(12, dropout=0.25),
        WideResNet(),
        WideResNet((1, 2, 1), 8, 3, 7),
        CNN(),
        CNN(3, 12, 2, norm=False),
    ],
    ids=lambda model: json.dumps(model.config),
)
def test_a_configuration_survives_json_and_rebuilds_the_architecture(model):
    again = build(json.loads(json.dumps(model.config)))
    assert type(again) is type(model)
    assert again.config == model.config
    assert str(again) == str(model)
    again.load_state_dict(model.state_dict())


def test_defaults_may_be_left_out():
    assert build({"kind": "mlp", "in_features": 4}).config == MLP(4).config
    assert build({"kind": "wide_resnet"}).config == WideResNet().config


def test_build_does_not_change_the_configuration():
    config = {"kind": "mlp", "in_features": 4}
    build(config)
    assert config == {"kind": "mlp", "in_features": 4}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "vgg"}, "kind 'vgg': allowed are mlp, wide_resnet, cnn"),
        ({}, "kind None: allowed are mlp, wide_resnet"),
        ({"kind": ["mlp"]}, r"kind \['mlp'\]: allowed are"),
        (
            {"kind": "mlp", "in_features": 4, "widths": [3], "depth": 2},
            r"unknown key\(s\) widths, depth for kind 'mlp': allowed are in_features, hidden, out_features, norm",
        ),
        ({"kind": "mlp"}, r"kind 'mlp' lacks the key\(s\) in_features"),
        ({"kind": "wide_resnet", "width": -1}, "width=-1"),
    ],
)
def test_a_configuration_that_is_not_understood_says_what_is_allowed(config, message):
    with pytest.raises(ValueError, match=message):
        build(config)


def test_something_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match="mapping with the key 'kind', not 'mlp'"):
        build("mlp")
