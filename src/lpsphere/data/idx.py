"""Image folders in the IDX format of MNIST: four files, gzip-compressed or not."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lpsphere.data.dataset import Dataset
from lpsphere.data.files import read_bytes

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
IDX_FILES = (_IMAGES["train"], _LABELS["train"], _IMAGES["test"], _LABELS["test"])
"""File names of an IDX folder, each possibly followed by ``.gz``."""

_UNSIGNED_BYTE = 8  # the type code in the third byte of the magic number
_AGAIN = "get the file again from where it came"


def load_idx(folder: Path) -> Dataset:
    """Load a folder of IDX images with the training and test parts of its publisher.

    Pixels are divided by 255 and standardised with one mean and one standard deviation over all
    pixels of the training part (MNIST: 0.1307 and 0.3081).

    Args:
        folder: Holds the four files of `IDX_FILES`, each with or without ``.gz``.

    Returns:
        The data; x is (n, 1, height, width), classes are named "0", "1", ...

    Raises:
        FileNotFoundError: A file is missing; the message lists which.
        ValueError: A file is damaged or in another format, or the files do not fit together.
    """
    paths = _find(folder)
    images = {part: read_idx(paths[name], dimensions=3) for part, name in _IMAGES.items()}
    labels = {part: read_idx(paths[name], dimensions=1).long() for part, name in _LABELS.items()}
    for part in ("train", "test"):
        if len(images[part]) != len(labels[part]):
            raise ValueError(
                f"{paths[_IMAGES[part]]} has {len(images[part])} images, but {paths[_LABELS[part]].name} "
                f"has {len(labels[part])} labels: these files do not belong together"
            )
    if images["train"].shape[1:] != images["test"].shape[1:]:
        shapes = [tuple(images[part].shape[1:]) for part in ("train", "test")]
        raise ValueError(f"{folder}: training images are {shapes[0]} pixels, test images {shapes[1]}")
    classes = _count_classes(labels["train"], labels["test"], folder)
    mean, std = pixel_statistics(images["train"])
    return Dataset(
        name=folder.resolve().name,
        task="classification",
        x_train=_scale(images["train"], mean, std),
        y_train=labels["train"],
        x_test=_scale(images["test"], mean, std),
        y_test=labels["test"],
        classes=tuple(str(label) for label in range(classes)),
        features=(),
    )


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read one IDX file of unsigned bytes.

    The format is big-endian: two zero bytes, a type code, the number of dimensions, each dimension as
    32 bits, then the values in C order. Compression is recognised by content, not by name.

    Args:
        path: The file.
        dimensions: Expected number of dimensions (3 for images, 1 for labels).

    Returns:
        uint8 tensor of the file's shape.

    Raises:
        ValueError: The file is damaged, empty of samples, or not such an IDX file.
    """
    content = read_bytes(path)
    header = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if len(content) < 4 or content[:2] != expected[:2]:
        raise ValueError(f"{path} is not an IDX file (it starts with {content[:4].hex()!r}): {_AGAIN}")
    if content[2] != _UNSIGNED_BYTE:
        raise ValueError(
            f"{path} holds values of IDX type 0x{content[2]:02x}; only unsigned bytes (0x08) can be read: "
            "convert the pixels or labels to bytes"
        )
    if content[:4] != expected:
        raise ValueError(
            f"{path} has magic number {int.from_bytes(content[:4], 'big')}, expected "
            f"{int.from_bytes(expected, 'big')} ({dimensions} dimension(s)): are image and label files swapped?"
        )
    if len(content) < header:
        raise ValueError(f"{path} ends within its header, after {len(content)} bytes: {_AGAIN}")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    size = math.prod(shape)
    if len(content) - header != size:
        raise ValueError(
            f"{path} announces {' x '.join(map(str, shape))} = {size} bytes, "
            f"but holds {len(content) - header}: {_AGAIN}"
        )
    if size == 0:
        raise ValueError(f"{path} holds no samples: {_AGAIN}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels divided by 255, exact (from the histogram).

    A standard deviation of 0 is given as 1, so that constant images become 0 and not NaN.
    """
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean) ** 2).sum() / counts.sum()
    return mean.item(), variance.sqrt().item() or 1.0


def _scale(images: Tensor, mean: float, std: float) -> Tensor:
    return images.float().div_(255).sub_(mean).div_(std).unsqueeze(1)


def _find(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in IDX_FILES:
        for path in (folder / f"{name}.gz", folder / name):  # the plain file wins
            if path.is_file():
                found[name] = path
    missing = [name for name in IDX_FILES if name not in found]
    if missing:
        raise FileNotFoundError(
            f"folder {str(folder)!r} lacks {', '.join(missing)} (each may end in .gz): "
            "put these files there, or point --data to the folder that has them"
        )
    return found


def _count_classes(train: Tensor, test: Tensor, folder: Path) -> int:
    seen = torch.bincount(train).nonzero().flatten().tolist()
    if len(seen) < 2:
        raise ValueError(f"{folder}: only one class, {seen[0]}, in the training labels; at least 2 are needed")
    if seen != list(range(len(seen))):
        raise ValueError(f"{folder}: training labels are {seen}; they must be 0, 1, ... without gaps: renumber them")
    if int(test.max()) >= len(seen):
        raise ValueError(
            f"{folder}: test label {int(test.max())} does not occur in training (0 to {len(seen) - 1}): "
            "these files do not belong together"
        )
    return len(seen)
