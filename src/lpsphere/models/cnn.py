"""The small convolutional network on which the theory of p is verified."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from lpsphere.models.arguments import size

_CHANNELS, _KERNELS, _HIDDEN = (16, 32, 64), (5, 3, 3), (512, 64)


class CNN(nn.Sequential):
    """Three convolutions and three fully connected layers (method, section 5): the network of the Hoyer study.

    Convolution 5x5 to 16 channels, 3x3 to 32, 3x3 to 64, the last two followed by max-pooling; Linear to 512, to 64 and
    to the outputs; ReLU between. The layers are ``conv1`` to ``conv3``, ``linear1``, ``linear2`` and ``head``; for
    28x28 grey images their fan-ins are 25, 144, 288, 3136, 512 and 64. Initialisation is torch's own, from its global
    generator.

    Args:
        in_channels: Channels of the images.
        image_size: Their height and width, at least 4.
        out_features: Outputs: number of classes, or 1 for regression.
        norm: Batch normalisation after each hidden layer, which then has no bias.

    Raises:
        TypeError: A size is not an int or ``norm`` not a bool.
        ValueError: A size is less than 1, or ``image_size`` less than 4.

    Shape:
        (n, in_channels, image_size, image_size) -> (n, out_features).
    """

    def __init__(
        self, in_channels: int = 1, image_size: int = 28, out_features: int = 10, *, norm: bool = True
    ) -> None:
        if not isinstance(norm, bool):
            raise TypeError(f"norm={norm!r}: give True or False")
        if size("image_size", image_size) < 4:
            raise ValueError(f"image_size={image_size!r}: max-pooling twice needs at least 4")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        fan_in = size("in_channels", in_channels)
        for i, (channels, kernel) in enumerate(zip(_CHANNELS, _KERNELS, strict=True), start=1):
            layers[f"conv{i}"] = nn.Conv2d(fan_in, channels, kernel, padding=kernel // 2, bias=not norm)
            if norm:
                layers[f"bn{i}"] = nn.BatchNorm2d(channels)
            layers[f"relu{i}"] = nn.ReLU()
            if i > 1:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            fan_in = channels
        layers["flatten"] = nn.Flatten()
        fan_in *= (image_size // 4) ** 2
        for i, width in enumerate(_HIDDEN, start=1):
            layers[f"linear{i}"] = nn.Linear(fan_in, width, bias=not norm)
            if norm:
                layers[f"bn{len(_CHANNELS) + i}"] = nn.BatchNorm1d(width)
            layers[f"relu{len(_CHANNELS) + i}"] = nn.ReLU()
            fan_in = width
        layers["head"] = nn.Linear(fan_in, size("out_features", out_features))
        super().__init__(layers)
        self.in_channels, self.image_size, self.out_features = in_channels, image_size, out_features
        self.norm = norm

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `lpsphere.models.build` makes the same architecture."""
        return {
            "kind": "cnn",
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "out_features": self.out_features,
            "norm": self.norm,
        }
