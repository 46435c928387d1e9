"""Tiny ImageNet: a folder of JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lpsphere.data.dataset import Dataset, Split
from lpsphere.data.files import ContentError
from lpsphere.data.images import image_dataset

IMAGES_PER_CLASS, VALIDATION_PER_CLASS = 500, 50
"""Images of each class in ``train`` and in ``val``."""

_SIDE = 64
_CLASSES, _VALIDATION = "wnids.txt", "val/val_annotations.txt"
_AGAIN = "unpack the archive again"


def load_tiny_imagenet(folder: Path, _split: Split) -> Dataset:
    """Load Tiny ImageNet; its validation images are the test part, as the labels of its test images are secret.

    Args:
        folder: Holds ``wnids.txt``, ``train`` and ``val`` as in the publisher's archive.
        _split: Not used: the split is part of the data.

    Returns:
        The data; x is (n, 3, 64, 64), each channel standardised by the training part. All 110,000 images
        take 5.4 GB of memory, and 6.8 GB while they are loaded.

    Raises:
        FileNotFoundError: A part of the folder is missing.
        ValueError: A part is incomplete or damaged.
    """
    missing = [name for name in (_CLASSES, "train", _VALIDATION) if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"folder {str(folder)!r} lacks {', '.join(missing)}: {_AGAIN}, or point --data to the folder that has them"
        )
    classes = tuple(sorted((folder / _CLASSES).read_text(encoding="ascii").split()))
    if len(classes) < 2:
        raise ContentError(f"{folder / _CLASSES} names {len(classes)} classes, expected 200: {_AGAIN}")
    train = [(path, label) for label, name in enumerate(classes) for path in _training_images(folder, name)]
    test = _validation_images(folder, classes)
    return image_dataset("tiny-imagenet", _read_images(train), _read_images(test), classes)


def _training_images(folder: Path, name: str) -> list[Path]:
    place = folder / "train" / name / "images"
    paths = sorted(place.glob("*.JPEG"))
    if len(paths) != IMAGES_PER_CLASS:
        raise ContentError(f"{place} has {len(paths)} images, expected {IMAGES_PER_CLASS}: {_AGAIN}")
    return paths


def _validation_images(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    annotations, position = folder / _VALIDATION, {name: label for label, name in enumerate(classes)}
    images = []
    for number, line in enumerate(annotations.read_text(encoding="ascii").splitlines(), start=1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[1] not in position:
            raise ContentError(f"{annotations}, line {number} does not name an image and one of {_CLASSES}: {_AGAIN}")
        images.append((annotations.parent / "images" / cells[0], position[cells[1]]))
    expected = VALIDATION_PER_CLASS * len(classes)
    if len(images) != expected:
        raise ContentError(f"{annotations} has {len(images)} lines, expected {expected}: {_AGAIN}")
    return images


def _read_images(images: list[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    pixels = np.empty((len(images), 3, _SIDE, _SIDE), dtype=np.uint8)
    for row, (path, _) in enumerate(images):
        try:
            with Image.open(path) as image:
                size, colours = image.size, np.asarray(image.convert("RGB"))  # a few are grey
        except (OSError, SyntaxError) as error:
            raise ContentError(f"{path} cannot be read as an image ({error}): {_AGAIN}") from error
        if size != (_SIDE, _SIDE):
            raise ContentError(f"{path} is {size[0]} x {size[1]} pixels, expected {_SIDE} x {_SIDE}: {_AGAIN}")
        pixels[row] = colours.transpose(2, 0, 1)
    return torch.from_numpy(pixels), torch.tensor([label for _, label in images])
