"""The wide residual network of the image experiments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lpsphere.models.arguments import size, sizes

_STEM = 16


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, beside a shortcut, then ReLU.

    The shortcut is the identity, or a 1x1 convolution with batch normalisation where the shape changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution and of the shortcut.

    Shape:
        (n, in_channels, height, width) -> (n, out_channels, height / stride, width / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.add_module("conv", _conv(in_channels, out_channels, 1, stride))
            self.shortcut.add_module("bn", nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for x (n, in_channels, height, width)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class WideResNet(nn.Module):
    """A CIFAR-style wide residual network (method, section 5, "Image networks").

    3x3 convolution to 16 channels, batch normalisation, ReLU (``stem``); three stages of `BasicBlock`
    (``stage1`` to ``stage3``) with w, 2w and 4w channels and stride 2 at the start of the second and
    third; global average pooling; Linear (``head``). Convolutions have no bias and are initialised
    Kaiming-normal (fan_out, ReLU) from torch's global generator.

    Args:
        blocks: Number of blocks in each of the three stages.
        width: w.
        in_channels: Channels of the images.
        out_features: Outputs: number of classes, or 1 for regression.

    Raises:
        TypeError: A size is not an int or ``blocks`` is not a sequence of ints.
        ValueError: A size is less than 1, or ``blocks`` does not have three of them.

    Shape:
        (n, in_channels, height, width), of any height and width -> (n, out_features).
    """

    def __init__(
        self,
        blocks: Sequence[int] = (2, 3, 3),
        width: int = 16,
        in_channels: int = 1,
        out_features: int = 10,
    ) -> None:
        super().__init__()
        self.blocks = sizes("blocks", blocks)
        if len(self.blocks) != 3:
            raise ValueError(f"blocks={blocks!r}: give three numbers, one for each stage, e.g. (2, 3, 3)")
        self.width = size("width", width)
        self.in_channels = size("in_channels", in_channels)
        self.out_features = size("out_features", out_features)
        self.stem = nn.Sequential(
            OrderedDict(conv=_conv(in_channels, _STEM, 3), bn=nn.BatchNorm2d(_STEM), relu=nn.ReLU())
        )
        self.stage1 = _stage(_STEM, width, self.blocks[0], stride=1)
        self.stage2 = _stage(width, 2 * width, self.blocks[1], stride=2)
        self.stage3 = _stage(2 * width, 4 * width, self.blocks[2], stride=2)
        self.head = nn.Linear(4 * width, self.out_features)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `lpsphere.models.build` makes the same architecture."""
        return {
            "kind": "wide_resnet",
            "blocks": list(self.blocks),
            "width": self.width,
            "in_channels": self.in_channels,
            "out_features": self.out_features,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, out_features), before any softmax, for images x (n, in_channels, height, width)."""
        maps: Tensor = self.stage3(self.stage2(self.stage1(self.stem(x))))
        outputs: Tensor = self.head(maps.mean(dim=(2, 3)))
        return outputs


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
