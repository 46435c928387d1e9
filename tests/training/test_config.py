import re

import pytest

from lpsphere.training.config import TrainConfig, value_of


def test_a_configuration_survives_the_way_through_yaml(tmp_path):
    config = TrainConfig(data="wine", hidden=(32, 16), radius="init", every=7, lr=0.02, trackers=("tensorboard",))
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert TrainConfig.load(path) == config


def test_what_is_not_given_has_its_default():
    assert TrainConfig.from_dict({"sparsity": 0.8}) == TrainConfig(sparsity=0.8)


def test_the_learning_rate_depends_on_the_optimizer_unless_given():
    assert TrainConfig().peak_lr == 0.01
    assert TrainConfig(optimizer="sgd").peak_lr == 0.1
    assert TrainConfig(optimizer="sgd", lr=0.3).peak_lr == 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsty": 0.9}, "unknown settings sparsty; the settings are data, label_column"),
        ({"sparsity": 1.0}, "sparsity must be in [0, 1): the fraction of connections that are gone; got 1.0"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"method": "magic"}, "method must be one of static, set, rigl, snip, gmp, semi-pruning, dense; got 'magic'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"label_smoothing": 1}, "label_smoothing must be in [0, 1), got 1"),
        ({"dropout": -0.1}, "dropout must be in [0, 1), got -0.1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"average": -1}, "average must be between 0 and the 20 epochs, got -1"),
        ({"average": 6, "epochs": 5}, "average must be between 0 and the 5 epochs, got 6"),
        ({"first_p": 1.3}, "give both, such as first_p=1.3 and first_layers=4, or neither; got first_p=1.3 and"),
        ({"first_layers": 4}, "got first_p=None and first_layers=4"),
        ({"first_p": 1.3, "first_layers": -1}, "first_layers=-1"),
        ({"mixed_precision": "half"}, "mixed_precision must be one of no, bf16, fp16, auto; got 'half'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"hidden": [64, "x"]}, "hidden must be a list of whole numbers, got (64, 'x')"),
        ({"radius": "big"}, "radius must be a number or 'init', got 'big'"),
        ({"nesterov": 1}, "nesterov must be true or false, got 1"),
        ({"hidden": []}, "hidden must be a list of whole numbers, got ()"),
        ({"trackers": "tensorboard"}, "trackers must be a list of names, got 'tensorboard'"),
        ({"every": "often"}, "every must be a whole number or nothing, got 'often'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(values, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "{unclosed"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        TrainConfig.load(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-0.5", -0.5),
        ("1e-4", 1e-4),
        ("2.5e-3", 2.5e-3),
        ("true", True),
        ("[300, 100]", [300, 100]),
        ("2:4", "2:4"),
        ("4x1", "4x1"),
        ("erk", "erk"),
        ("null", None),
    ],
)
def test_the_words_of_a_command_line_are_values(text, value):
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)
