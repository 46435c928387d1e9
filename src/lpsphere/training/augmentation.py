"""Augmentation of image batches: random crop, flip and cutout. Tensors in, new tensors out; touches no file.

What happens to each image is drawn on the CPU, from a generator that the caller gives, and then moved to the device of
the images: a CPU and a GPU make the same batch. With `batch_rng` the draws depend on seed, epoch and batch alone, so
that there is no state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Augmentation", "batch_rng"]


@dataclass(frozen=True)
class Augmentation:
    """Random crop, then horizontal flip, then cutout; each image of a batch has its own draws.

    Crop pads every side with ``crop`` reflected pixels (the border itself is not repeated) and takes a window of the
    image's size, all (2 crop + 1)^2 positions alike. Flip mirrors left and right, with probability 1/2. Cutout sets a
    square of ``cutout`` x ``cutout`` pixels to 0 in all channels, the mean of standardised pixels. The square is fully
    inside the image, all such positions alike, so that it takes the same number of pixels from every image; in the
    paper its centre is anywhere, and the border cuts off what is outside.

    Each of the three has draws of its own: with the same generator, one of them switched off changes nothing about the
    other two.

    Source: Method, section 5 (crop 4, flip, cutout 6 for Fashion-MNIST); cutout: DeVries & Taylor, 2017,
    arXiv:1708.04552; the square fully inside: D. Page, How to Train Your ResNet, 2018 (DAWNBench).

    Args:
        crop: Pixels of padding; 0: no crop.
        flip: Whether to flip.
        cutout: Side of the square in pixels; 0: no cutout.

    Raises:
        TypeError: If ``crop`` or ``cutout`` is not a whole number, or ``flip`` not true or false.
        ValueError: If ``crop`` or ``cutout`` is negative.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be a whole number, got {value!r}: give pixels, or 0 for no {name}")
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}: give pixels, or 0 for no {name}")
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be true or false, got {self.flip!r}")

    def check(self, shape: Sequence[int]) -> None:
        """See that this can be done to one row of the data; with everything off, any row will do.

        Args:
            shape: Shape of a row: (channels, height, width).

        Raises:
            ValueError: If the row is no image, or is too small for ``crop`` or ``cutout``.
        """
        if self == Augmentation():
            return
        if len(shape) != 3:
            raise ValueError(
                f"crop={self.crop}, flip={self.flip}, cutout={self.cutout} need images (channels, height, width), but "
                f"a row of the data has shape {tuple(shape)}: switch all three off (0, false, 0)"
            )
        side, size = min(shape[1:]), f"images of {shape[1]} x {shape[2]} pixels"
        if self.crop > max(side - 1, 0):
            raise ValueError(
                f"crop={self.crop} is too much for {size}: reflection needs more pixels than it adds; give at most "
                f"{max(side - 1, 0)}"
            )
        if self.cutout > side:
            raise ValueError(f"cutout={self.cutout} does not fit into {size}: give at most {side}")

    def __call__(self, images: Tensor, rng: np.random.Generator, first: int = 0, of: int | None = None) -> Tensor:
        """The images, augmented; those given are not changed.

        Args:
            images: Standardised images (n, channels, height, width), floating-point, on any device.
            rng: Where the draws come from, such as `batch_rng`; ignored with everything off.
            first: Place of the first of these images, if they are a part of the batch.
            of: Images of the whole batch; None: these. Draws are made for all, so that parts fit together.

        Returns:
            A new tensor of the same shape, type, device and order of memory (contiguous or channels_last); with
            everything off, ``images`` itself.

        Raises:
            TypeError: If ``images`` is not a floating-point tensor, or ``rng`` not a numpy generator.
            ValueError: As `check`.
        """
        if self == Augmentation():
            return images
        if not isinstance(images, Tensor) or not images.is_floating_point():
            given = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a floating-point tensor, got {given}: standardise the pixels first")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}: use batch_rng(seed, epoch, batch)")
        self.check(images.shape[1:])
        count, _, height, width = images.shape
        draws = self._draw(count if of is None else of, height, width, rng)[:, first : first + count]
        return self._apply(images, draws.to(images.device, non_blocking=True))

    def _draw(self, count: int, height: int, width: int, rng: np.random.Generator) -> Tensor:
        """What happens to each image: int64 (5, count), window's top and left, mirror, hole's top and left.

        A window at 0 begins ``crop`` pixels outside the image; mirror is 0 or 1. All five are drawn, needed or not.
        """
        window, mirror = 2 * self.crop + 1, 2 if self.flip else 1
        choices = np.array([window, window, mirror, height - self.cutout + 1, width - self.cutout + 1])
        return torch.from_numpy(np.floor(rng.random((5, count)) * choices[:, None]).astype(np.int64))

    def _apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """A copy of the images after these draws."""
        top, left, mirror, hole_top, hole_left = draws[:, :, None]
        channels, height, width = images.shape[1:]
        if self.crop or self.flip:
            row, column = (torch.arange(size, device=images.device) for size in (height, width))
            column = torch.where(mirror > 0, width - 1 - column, column)
            rows = _reflected(row + top - self.crop, height)
            columns = _reflected(column + left - self.crop, width)
            pixels = _pixels(rows, columns, width, channels)
            result = images.flatten(2).gather(2, pixels).view(images.shape)
        else:
            result = images.clone(memory_format=torch.contiguous_format)
        if self.cutout:
            step = torch.arange(self.cutout, device=images.device)
            hole = _pixels(hole_top + step, hole_left + step, width, channels)
            result.view(len(images), channels, height * width).scatter_(2, hole, 0.0)
        if images.is_contiguous(memory_format=torch.channels_last):
            return result.contiguous(memory_format=torch.channels_last)
        return result


def batch_rng(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """The generator for one batch of training: a function of its arguments alone, apart from other uses of the seed.

    Args:
        seed: Seed of the run.
        epoch: Epochs done before.
        batch: Batches of this epoch done before.

    Raises:
        ValueError: If one of them is negative.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("batch", batch)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    # A spawn key, as [seed, epoch, 0] would be the stream of [seed, epoch], which orders the rows of the epoch.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, batch)))


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions from -(size - 1) to 2 (size - 1), those outside 0 ... size - 1 reflected at the first or last pixel."""
    return (size - 1) - ((size - 1) - position.abs()).abs()


def _pixels(rows: Tensor, columns: Tensor, width: int, channels: int) -> Tensor:
    """Places in each flattened channel where some rows and columns cross: (n, r) and (n, c) to (n, channels, r c)."""
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return places[:, None, :].expand(-1, channels, -1)
