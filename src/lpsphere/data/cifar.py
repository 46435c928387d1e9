"""CIFAR-10: the binary version, and the python version without running what a pickle may ask for."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lpsphere.data.dataset import Dataset, Split
from lpsphere.data.files import AGAIN, ContentError, find_files, read_bytes
from lpsphere.data.images import image_dataset
from lpsphere.data.openml import Download

ROWS = 10_000
"""Images in each of the six batches."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels 0 to 9 mean."""

_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_SHAPE = (3, 32, 32)  # red, green, blue; rows; columns
_PIXELS = 3 * 32 * 32

_Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (n, 3072) and labels (n,)


def load_cifar10(folder: Path, _split: Split) -> Dataset:
    """Load CIFAR-10 with the training and test parts of its publisher.

    Args:
        folder: Holds the six batches of the binary version (``data_batch_1.bin``, ..., ``test_batch.bin``)
            or of the python version (without ``.bin``).
        _split: Not used: the split is part of the data.

    Returns:
        The data; x is (n, 3, 32, 32), each channel standardised by the training part; 740 MB.

    Raises:
        FileNotFoundError: A batch is missing.
        ValueError: A batch is damaged.
    """
    binary = any((folder / f"{name}.bin").is_file() for name in _BATCHES)
    names = [f"{name}.bin" if binary else name for name in _BATCHES]
    paths = find_files(folder, names)
    return _cifar10([(_read_binary if binary else _read_python)(paths[name]) for name in names])


def cifar10_from_openml(table: Download, _split: Split) -> Dataset:
    """CIFAR-10 with the test batch last; as `load_cifar10`.

    Raises:
        ContentError: It is another table, or its rows are in another order.
    """
    table.require(len(_BATCHES) * ROWS, [_PIXELS])
    if not np.isin(table.target, [str(label) for label in range(len(CLASSES))]).all():
        raise ContentError("labels that are not 0 to 9")
    pixels, labels = table.pixels(), table.target.astype(np.int64)
    return _cifar10(
        [(pixels[start : start + ROWS], labels[start : start + ROWS]) for start in range(0, len(pixels), ROWS)]
    )


def _cifar10(batches: list[_Batch]) -> Dataset:
    pixels, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True))
    images, held = pixels.reshape(-1, *_SHAPE), (len(_BATCHES) - 1) * ROWS
    for part, y in (("training", labels[:held]), ("test", labels[held:])):
        counts, expected = y.bincount().tolist(), len(y) // len(CLASSES)
        if counts != [expected] * len(CLASSES):
            raise ContentError(f"{counts} {part} images of the classes, expected {expected} of each")
    return image_dataset("cifar-10", (images[:held], labels[:held]), (images[held:], labels[held:]), CLASSES)


def _read_binary(path: Path) -> _Batch:
    content, expected = read_bytes(path), ROWS * (1 + _PIXELS)
    if len(content) != expected:
        raise ContentError(f"{path} holds {len(content)} bytes, expected {expected}: {AGAIN}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(ROWS, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_python(path: Path) -> _Batch:
    try:
        batch = _Unpickler(BytesIO(read_bytes(path)), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.array(batch[b"labels"], dtype=np.int64)
    except Exception as error:  # a damaged pickle can raise anything
        raise ContentError(
            f"{path} is not a batch of CIFAR-10's python version ({type(error).__name__}: {error}): {AGAIN}"
        ) from error
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (ROWS, _PIXELS):
        raise ContentError(f"{path} does not hold {ROWS} x {_PIXELS} pixels of one byte: {AGAIN}")
    if labels.shape != (ROWS,) or not np.isin(labels, range(len(CLASSES))).all():
        raise ContentError(f"{path} does not hold {ROWS} labels from 0 to 9: {AGAIN}")
    return pixels, labels


class _Unpickler(pickle.Unpickler):
    """Builds numpy arrays, numbers, text, lists and dictionaries, and calls nothing else."""

    _ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in self._ARRAYS and global_name == "_reconstruct":
            return np.empty(0, dtype=np.uint8).__reduce__()[0]  # wherever this numpy keeps it
        if (module_name, global_name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a batch of images")
