"""Image folders in the IDX format of MNIST: four files, gzip-compressed or not."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lpsphere.data.dataset import Dataset
from lpsphere.data.files import AGAIN, find_files, read_bytes
from lpsphere.data.images import image_dataset

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
IDX_FILES = (_IMAGES["train"], _LABELS["train"], _IMAGES["test"], _LABELS["test"])
"""File names of an IDX folder, each possibly followed by ``.gz``."""

_UNSIGNED_BYTE = 8  # the type code in the third byte of the magic number


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
    paths = find_files(folder, IDX_FILES)
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
    return image_dataset(
        folder.resolve().name,
        (images["train"].unsqueeze(1), labels["train"]),
        (images["test"].unsqueeze(1), labels["test"]),
        tuple(str(label) for label in range(classes)),
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
        raise ValueError(f"{path} is not an IDX file (it starts with {content[:4].hex()!r}): {AGAIN}")
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
        raise ValueError(f"{path} ends within its header, after {len(content)} bytes: {AGAIN}")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    size = math.prod(shape)
    if len(content) - header != size:
        raise ValueError(
            f"{path} announces {' x '.join(map(str, shape))} = {size} bytes, but holds {len(content) - header}: {AGAIN}"
        )
    if size == 0:
        raise ValueError(f"{path} holds no samples: {AGAIN}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)


def encode_idx(values: Tensor) -> bytes:
    """An IDX file's content, for unsigned bytes of any shape: the inverse of `read_idx`."""
    sizes = (size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, _UNSIGNED_BYTE, values.ndim]) + b"".join(sizes) + values.numpy().tobytes()


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
