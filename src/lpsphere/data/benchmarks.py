"""The data sets that are known by name: where they are found, what they must hold, who reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lpsphere.data.cifar import cifar10_from_openml, load_cifar10
from lpsphere.data.dataset import Dataset, Split
from lpsphere.data.files import AGAIN, ENVIRONMENT, ContentError, find_files, read_bytes
from lpsphere.data.idx import IDX_FILES, encode_idx, load_idx
from lpsphere.data.images import image_dataset
from lpsphere.data.openml import Download, DownloadError, Fetch, download
from lpsphere.data.tiny_imagenet import load_tiny_imagenet
from lpsphere.data.uci import (
    CLIMATE_FILE,
    DNA_FILES,
    MUSHROOM_FILE,
    climate_from_openml,
    dna_from_openml,
    load_climate,
    load_dna,
    load_mushroom,
    mushroom_from_openml,
)


class Content(NamedTuple):
    """What a file must hold (decompressed, if it is compressed).

    Attributes:
        size: Bytes.
        sha256: Checksum, in hexadecimal digits.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Benchmark:
    """A data set that is known by name.

    Attributes:
        name: Its name.
        folders: Names that its folder may have, the usual one first.
        wanted: The files to put there and where they come from, for messages.
        read: Loads the folder.
        files: The files whose content is checked before they are read.
        openml: Its number on OpenML, if it is there.
        convert: Makes a data set of what OpenML gives.
    """

    name: str
    folders: tuple[str, ...]
    wanted: str
    read: Callable[[Path, Split], Dataset]
    files: Mapping[str, Content] = field(default_factory=dict)
    openml: int | None = None
    convert: Callable[[Download, Split], Dataset] | None = None

    def find(self, places: Sequence[Path]) -> Path | None:
        """The first folder of this data set in these places."""
        candidates = (place / folder for place in places for folder in self.folders)
        return next((candidate for candidate in candidates if candidate.is_dir()), None)

    def load(self, folder: Path, split: Split) -> Dataset:
        """Load a folder, its files' checksums verified.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file does not hold what was published, or the split is impossible.
        """
        try:
            for name, path in find_files(folder, list(self.files)).items():
                self._verify(path, self.files[name])
            return replace(self.read(folder, split), name=self.name)
        except (FileNotFoundError, ContentError) as error:
            raise type(error)(f"{error}. {self._own_data(folder)}") from error

    def fetch(self, split: Split, places: Sequence[Path], fetch: Fetch | None = None) -> Dataset:
        """Get the data set from OpenML, as it was found in none of the places.

        Args:
            split: Where the data come without a test part.
            places: Where a folder was looked for, for messages.
            fetch: In place of `sklearn.datasets.fetch_openml`.

        Raises:
            FileNotFoundError: OpenML does not have it or cannot be reached; the message says which files to
                put where.
            ValueError: What OpenML has is not this data set, or the split is impossible.
        """
        searched = ", ".join(repr(str(place)) for place in places)
        absent = f"--data {self.name!r}: no folder {' or '.join(map(repr, self.folders))} in {searched}, and"
        if self.openml is None or self.convert is None:
            raise FileNotFoundError(f"{absent} there is no download for it. {self._remedy()}")
        try:
            return self.convert(download(self.openml, fetch), split)
        except DownloadError as error:
            raise FileNotFoundError(
                f"{absent} it could not be had from OpenML (data set {self.openml}; {error}). {self._remedy()}"
            ) from error
        except ContentError as error:
            raise ContentError(
                f"{absent} OpenML's data set {self.openml} is not the published one: it has {error}. {self._remedy()}"
            ) from error

    def _remedy(self) -> str:
        return (
            f"Put these into a folder {self.folders[0]!r} under --data-dir, or under the folder in the environment "
            f"variable {ENVIRONMENT}: {self.wanted}"
        )

    def _own_data(self, folder: Path) -> str:
        name = _name(folder)
        return f"(A folder named {name!r} stands for the published {self.name}: give data of your own another name)"

    def _verify(self, path: Path, expected: Content) -> None:
        content = read_bytes(path)
        found = hashlib.sha256(content).hexdigest()
        if expected.sha256 in (found, hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()):
            return
        compressed = ", decompressed," if path.suffix == ".gz" else ""
        raise ContentError(
            f"{path}{compressed} has sha256 {found} ({len(content)} bytes), but that of the published {self.name} is "
            f"{expected.sha256} ({expected.size} bytes): {AGAIN}"
        )


def at_folder(folder: Path) -> Benchmark | None:
    """The data set that the name of a folder stands for, if it is a known one."""
    return next((known for known in BENCHMARKS.values() if _name(folder) in known.folders), None)


def _name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # not resolved: a link counts by its own name


def checked(
    name: str,
    origin: str,
    files: Mapping[str, Content],
    read: Callable[[Path, Split], Dataset],
    openml: int,
    convert: Callable[[Download, Split], Dataset],
) -> Benchmark:
    """A data set of files whose checksums are known."""
    listed = ", ".join(f"{file} ({size} bytes, sha256 {digest})" for file, (size, digest) in files.items())
    wanted = f"{listed}, compressed with gzip (name ending in .gz) or as they are; they come from {origin}"
    return Benchmark(name, (name,), wanted, read, files, openml, convert)


def idx_benchmark(name: str, origin: str, openml: int, files: Mapping[str, Content]) -> Benchmark:
    """A data set of IDX images whose checksums are known, so that OpenML's copy can be checked by them too."""
    return checked(
        name,
        origin,
        files,
        lambda folder, split: load_idx(folder),
        openml,
        lambda table, split: _idx_from_openml(name, files, table),
    )


def _idx_from_openml(name: str, files: Mapping[str, Content], table: Download) -> Dataset:
    """Images whose rows are those of the training file and then those of the test file."""
    train, test = (files[IDX_FILES[index]].size - 8 for index in (1, 3))  # labels: a header of 8 bytes, one byte each
    side = round(((files[IDX_FILES[0]].size - 16) / train) ** 0.5)
    table.require(train + test, [side * side])
    images = torch.from_numpy(table.pixels()).reshape(-1, 1, side, side)
    classes, codes = np.unique(table.target, return_inverse=True)
    labels = torch.from_numpy(codes.astype(np.uint8))
    parts = (images[:train], labels[:train]), (images[train:], labels[train:])
    contents = [encode_idx(values) for x, y in parts for values in (x.squeeze(1), y)]
    for file, content in zip(IDX_FILES, contents, strict=True):
        if hashlib.sha256(content).hexdigest() != files[file].sha256:
            raise ContentError(f"other images, labels or order than {file}")
    return image_dataset(name, *parts, tuple(classes.tolist()))


_KNOWN = (
    checked(
        "dna",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html (dna)",
        {
            DNA_FILES[0]: Content(499248, "03d39477c5e48415e9cd18e006efc8f7a3b5c3deaee8289a72511c35070e3cfe"),
            DNA_FILES[1]: Content(293744, "d2eeed170e4e38ae2aba6aa4cd27a8ca4ecceb01a7751e8e509bb4e1a6bcef39"),
        },
        load_dna,
        40670,
        dna_from_openml,
    ),
    checked(
        "mushroom",
        "https://doi.org/10.24432/C5959T",
        {MUSHROOM_FILE: Content(373704, "e65d082030501a3ebcbcd7c9f7c71aa9d28fdfff463bf4cf4716a3fe13ac360e")},
        load_mushroom,
        24,
        mushroom_from_openml,
    ),
    checked(
        "climate",
        "https://doi.org/10.24432/C5HG71",
        {CLIMATE_FILE: Content(250119, "8a892cbb056072e84749aed7409d6f17c7b4a1c899fc98ce52dc2af8b727ff9c")},
        load_climate,
        40994,
        climate_from_openml,
    ),
    idx_benchmark(
        "mnist",
        "http://yann.lecun.com/exdb/mnist/",
        554,
        {
            IDX_FILES[0]: Content(47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            IDX_FILES[1]: Content(60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            IDX_FILES[2]: Content(7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            IDX_FILES[3]: Content(10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        },
    ),
    idx_benchmark(
        "fashion-mnist",
        "https://github.com/zalandoresearch/fashion-mnist",
        40996,
        {
            IDX_FILES[0]: Content(47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            IDX_FILES[1]: Content(60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            IDX_FILES[2]: Content(7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            IDX_FILES[3]: Content(10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        },
    ),
    Benchmark(
        "cifar-10",
        ("cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (30730000 bytes each) of the binary version, or the "
        "same without .bin of the python version; they come from https://www.cs.toronto.edu/~kriz/cifar.html "
        "(cifar-10-binary.tar.gz, md5 c32a1d4ab5d03f1284b67883e8d87530, or cifar-10-python.tar.gz, md5 "
        "c58f30108f718f92721af3b95e74349a)",
        load_cifar10,
        openml=40927,
        convert=cifar10_from_openml,
    ),
    Benchmark(
        "tiny-imagenet",
        ("tiny-imagenet-200", "tiny-imagenet"),
        "wnids.txt, train and val; they come from http://cs231n.stanford.edu/tiny-imagenet-200.zip (248100043 bytes)",
        load_tiny_imagenet,
    ),
)

BENCHMARKS = {known.name: known for known in _KNOWN}
"""The data sets that are known by name."""
