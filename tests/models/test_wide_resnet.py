import pytest
import torch
from torch import nn

from lpsphere.models import WideResNet


@pytest.mark.parametrize(
    ("blocks", "width", "channels", "outputs", "parameters"),
    [
        ((1, 2, 2), 16, 1, 10, 170_298),  # MNIST
        ((2, 3, 3), 16, 1, 10, 267_514),  # Fashion-MNIST
        ((3, 4, 3), 32, 3, 10, 1_154_074),  # CIFAR-10
        ((3, 4, 3), 64, 3, 200, 4_644_120),  # Tiny ImageNet
    ],
)
def test_the_networks_of_the_paper_have_their_published_size(blocks, width, channels, outputs, parameters):
    with torch.device("meta"):
        model = WideResNet(blocks, width, channels, outputs)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("size", [28, 27, 8])
def test_images_of_any_size_give_one_row_of_outputs_each(size):
    assert WideResNet((1, 1, 1), 4, 3, 7)(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_stages_two_and_three_halve_the_image():
    model = WideResNet((2, 2, 2), 4)
    x = model.stem(torch.randn(2, 1, 28, 28))
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in (model.stage1, model.stage2, model.stage3)]
    assert shapes == [(4, 28, 28), (8, 14, 14), (16, 7, 7)]


def test_modules_are_registered_in_the_order_of_execution():
    model = WideResNet((2, 2, 2), 4)
    layers = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)}
    called = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: called.append(layers[module]))
    model(torch.randn(2, 1, 8, 8))
    assert called == list(layers.values())
    assert called[0] == "stem.conv"
    assert called[-1] == "head"


def test_each_norm_directly_follows_its_convolution():
    layers = [m for m in WideResNet((2, 2, 2), 4).modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for conv, norm in zip(layers[::2], layers[1::2], strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert conv.out_channels == norm.num_features
        assert conv.bias is None


def test_a_shortcut_is_convolved_only_where_the_shape_changes():
    def convolved(width):
        return [n for n, _ in WideResNet((2, 2, 2), width).named_modules() if n.endswith("shortcut.conv")]

    assert convolved(16) == ["stage2.0.shortcut.conv", "stage3.0.shortcut.conv"]
    assert convolved(8) == ["stage1.0.shortcut.conv", *convolved(16)]


def test_a_block_without_change_of_shape_adds_its_input():
    block = WideResNet((1, 1, 1), 16).stage1[0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


def test_convolutions_start_with_the_spread_of_kaiming_over_the_fan_out():
    torch.manual_seed(0)
    weight = WideResNet((1, 1, 1), 32).stage3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocks": (1, 2)}, ValueError, r"blocks=\(1, 2\): give three numbers, one for each stage"),
        ({"blocks": (1, 0, 2)}, ValueError, r"blocks\[1\]=0: give a whole number of at least 1"),
        ({"blocks": 3}, TypeError, "blocks=3: give a sequence"),
        ({"width": 0}, ValueError, "width=0"),
        ({"width": 1.5}, TypeError, "width=1.5"),
        ({"in_channels": 0}, ValueError, "in_channels=0"),
        ({"out_features": True}, TypeError, "out_features=True"),
    ],
)
def test_a_size_that_makes_no_network_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        WideResNet(**arguments)
