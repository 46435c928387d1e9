import pytest
import torch

from lpsphere.groups import param_groups
from lpsphere.models import CNN
from lpsphere.neurons import select


def test_the_fan_ins_are_those_of_the_study():
    selected = select(CNN(), include_last=True)
    assert [neuron.fan_in for neuron in selected] == [25, 144, 288, 3136, 512, 64]
    assert [neuron.neurons for neuron in selected] == [16, 32, 64, 512, 64, 10]
    assert [neuron.name for neuron in selected][::5] == ["conv1.weight", "head.weight"]


@pytest.mark.parametrize(
    ("arguments", "shape"), [({}, (1, 28, 28)), ({"in_channels": 3, "image_size": 9, "out_features": 4}, (3, 9, 9))]
)
@pytest.mark.parametrize("norm", [True, False])
def test_images_become_outputs(arguments, shape, norm):
    model = CNN(**arguments, norm=norm)
    assert model(torch.randn(2, *shape)).shape == (2, arguments.get("out_features", 10))
    assert sum(isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d) for m in model.modules()) == 5 * norm
    assert all(
        (module.bias is None) == (norm and name != "head")
        for name, module in model.named_children()
        if "conv" in name or "linear" in name or name == "head"
    )


def test_all_its_layers_can_be_on_unit_spheres_without_a_warning(recwarn):
    groups = param_groups(CNN(), 1.2, lr=0.02, other_lr=0.1, include_last=True)
    assert len(groups[0]["params"]) == 6
    assert list(recwarn) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image_size": 3}, ValueError, "image_size=3: max-pooling twice needs at least 4"),
        ({"image_size": 28.0}, TypeError, r"image_size=28\.0: give a whole number"),
        ({"in_channels": 0}, ValueError, "in_channels=0"),
        ({"out_features": "ten"}, TypeError, "out_features='ten'"),
        ({"norm": 1}, TypeError, "norm=1: give True or False"),
    ],
)
def test_a_size_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CNN(**arguments)
