"""Images as a data set: one way to scale pixels, whatever file they come from."""

from __future__ import annotations

import torch
from torch import Tensor

from lpsphere.data.dataset import Dataset


def image_dataset(
    name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: tuple[str, ...]
) -> Dataset:
    """Divide pixels by 255 and standardise each channel by its pixels in the training part.

    Args:
        name: Name of the data set.
        train: uint8 images (n, channels, height, width) and class indices (n,).
        test: As ``train``.
        classes: Name of each class.

    Returns:
        The data; float32, four times the memory of the images given.
    """
    statistics = [pixel_statistics(channel) for channel in train[0].unbind(dim=1)]
    mean, std = torch.tensor(statistics, dtype=torch.float64).T.float()[:, :, None, None]
    x_train, x_test = (part[0].float().div_(255).sub_(mean).div_(std) for part in (train, test))
    return Dataset(
        name=name,
        task="classification",
        x_train=x_train,
        y_train=train[1].long(),
        x_test=x_test,
        y_test=test[1].long(),
        classes=classes,
        features=(),
    )


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels divided by 255, exact (from the histogram).

    A standard deviation of 0 is given as 1, so that constant images become 0 and not NaN.
    """
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean) ** 2).sum() / counts.sum()
    return mean.item(), variance.sqrt().item() or 1.0
