import pytest
import torch
from torch import nn

from lpsphere.models import MLP


def test_images_and_rows_are_flattened():
    model = MLP(12, (8,), 3)
    assert model(torch.randn(5, 1, 4, 3)).shape == (5, 3)
    assert model(torch.randn(5, 12)).shape == (5, 3)


def test_names_follow_the_order_of_execution():
    kinds = [
        (name, type(module).__name__)
        for name, module in MLP(12, (8, 6), 3).named_modules()
        if not isinstance(module, nn.Sequential | MLP)
    ]
    assert kinds == [
        ("flatten", "Flatten"),
        ("hidden.0.linear", "Linear"),
        ("hidden.0.norm", "BatchNorm1d"),
        ("hidden.0.relu", "ReLU"),
        ("hidden.1.linear", "Linear"),
        ("hidden.1.norm", "BatchNorm1d"),
        ("hidden.1.relu", "ReLU"),
        ("head", "Linear"),
    ]


@pytest.mark.parametrize("norm", [True, False])
def test_a_hidden_layer_has_a_bias_only_without_norm(norm):
    model = MLP(12, (8,), 3, norm=norm)
    assert (model.hidden[0].linear.bias is None) == norm
    assert any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) == norm
    assert model.head.bias is not None


def test_no_hidden_layer_makes_a_linear_model():
    model = MLP(12, (), 3)
    x = torch.randn(4, 12)
    torch.testing.assert_close(model(x), x @ model.head.weight.T + model.head.bias)


def test_weights_depend_on_the_global_seed_alone():
    torch.manual_seed(7)
    first = MLP(12).state_dict()
    torch.manual_seed(7)
    second = MLP(12).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_dropout_leaves_out_hidden_outputs_in_training_only():
    torch.manual_seed(0)
    model, x = MLP(6, (50,), 2, dropout=0.4), torch.randn(400, 6)
    hidden = model.hidden(x)
    shares = (hidden == 0).float().mean(), (model.hidden[0].relu(model.hidden[0].norm(model.hidden[0].linear(x))) == 0)
    alive = 1 - shares[1].float().mean()
    assert float(1 - shares[0]) == pytest.approx(0.6 * float(alive), abs=0.02)
    model.eval()
    plain = MLP(6, (50,), 2)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), plain.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features=0: give a whole number of at least 1"),
        ({"in_features": 2.5}, TypeError, "in_features=2.5: give a whole number"),
        ({"in_features": 4, "hidden": (8, 0)}, ValueError, r"hidden\[1\]=0"),
        ({"in_features": 4, "hidden": 8}, TypeError, "hidden=8: give a sequence of whole numbers"),
        ({"in_features": 4, "out_features": -1}, ValueError, "out_features=-1"),
        ({"in_features": 4, "norm": "no"}, TypeError, "norm='no': give True or False"),
        ({"in_features": 4, "dropout": 1}, ValueError, r"dropout=1: give a number in \[0, 1\)"),
        ({"in_features": 4, "dropout": "half"}, TypeError, "dropout='half': give a number"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        MLP(**arguments)
