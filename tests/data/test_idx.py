import gzip
import os
import struct
from pathlib import Path

import pytest
import torch

from lpsphere.data import load
from lpsphere.data.idx import IDX_FILES, read_idx
from lpsphere.data.images import pixel_statistics

SHARED = Path(os.environ.get("LPSPHERE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def idx(values: torch.Tensor, kind: int = 8) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + bytes(values.flatten().tolist())


def images(count: int, height: int = 4, width: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width), generator=torch.Generator().manual_seed(count))


@pytest.fixture
def folder(tmp_path):
    """Six training and four test images of three classes, the training images compressed."""
    place = tmp_path / "tiny"
    place.mkdir()
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(6))))
    (place / "train-labels-idx1-ubyte").write_bytes(idx(torch.tensor([0, 1, 2, 2, 1, 0])))
    (place / "t10k-images-idx3-ubyte").write_bytes(idx(images(4)))
    (place / "t10k-labels-idx1-ubyte").write_bytes(idx(torch.tensor([2, 1, 1, 0])))
    return place


def test_a_folder_is_read_compressed_or_not(folder):
    data = load(folder)
    assert (data.name, data.task, data.classes, data.features) == (
        "tiny",
        "classification",
        ("0", "1", "2"),
        (),
    )
    assert data.input_shape == (1, 4, 3)
    assert data.y_train.tolist() == [0, 1, 2, 2, 1, 0]
    assert data.y_test.tolist() == [2, 1, 1, 0]
    assert data.y_test.dtype == torch.int64
    assert data.x_train.dtype == torch.float32


def test_pixels_are_scaled_by_one_mean_and_deviation_of_the_training_part(folder):
    data = load(folder)
    pixels = images(6).double() / 255
    deviation, mean = torch.std_mean(pixels, correction=0)
    expected = ((images(4).double() / 255 - mean) / deviation).float().unsqueeze(1)
    torch.testing.assert_close(data.x_test, expected)
    assert pixel_statistics(images(6).byte()) == pytest.approx((mean.item(), deviation.item()))


def test_constant_images_become_zero(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx(torch.full((6, 4, 3), 7)))
    assert load(folder).x_train.abs().max() < 1e-7


def test_a_name_is_found_under_data_dir_and_under_the_environment_variable(folder, monkeypatch):
    monkeypatch.delenv("LPSPHERE_DATA", raising=False)
    assert load("tiny", data_dir=folder.parent).name == "tiny"
    monkeypatch.setenv("LPSPHERE_DATA", str(folder.parent))
    assert load("tiny").name == "tiny"


def test_missing_files_are_listed(folder):
    (folder / IDX_FILES[0]).with_suffix(".gz").unlink()
    (folder / IDX_FILES[3]).unlink()
    expected = "lacks train-images-idx3-ubyte, t10k-labels-idx1-ubyte .*point --data"
    with pytest.raises(FileNotFoundError, match=expected):
        load(folder)


def test_a_truncated_compressed_file_is_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is cut short.*get the file again"):
        load(folder)


def test_a_damaged_compressed_file_is_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[20:40] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is cut short or damaged"):
        load(folder)


@pytest.mark.parametrize(("change", "held"), [(-1, 47), (1, 49)])
def test_a_wrong_length_is_told_with_the_length_announced(folder, change, held):
    content = idx(images(4))
    (folder / IDX_FILES[2]).write_bytes(content[:-1] if change < 0 else content + b"\0")
    with pytest.raises(ValueError, match=f"t10k-images.* announces 4 x 4 x 3 = 48 bytes, but holds {held}"):
        load(folder)


def test_something_else_is_not_an_idx_file(folder):
    (folder / IDX_FILES[1]).write_bytes(b"<html>not here</html>")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte is not an IDX file"):
        load(folder)


def test_a_file_that_ends_within_its_header_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(ValueError, match="short ends within its header, after 6 bytes"):
        read_idx(tmp_path / "short", dimensions=3)


def test_another_type_of_values_is_refused(folder):
    (folder / IDX_FILES[2]).write_bytes(idx(images(4), kind=0x0D))
    with pytest.raises(ValueError, match="IDX type 0x0d; only unsigned bytes"):
        load(folder)


def test_swapped_files_are_recognised_by_their_magic_number(folder):
    (folder / IDX_FILES[2]).write_bytes(idx(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"magic number 2049, expected 2051.*swapped"):
        load(folder)


def test_a_file_without_samples_is_refused(folder):
    (folder / IDX_FILES[2]).write_bytes(idx(images(4)[:0]))
    with pytest.raises(ValueError, match="holds no samples"):
        load(folder)


def test_counts_of_images_and_labels_must_agree(folder):
    (folder / IDX_FILES[3]).write_bytes(idx(torch.tensor([0, 1, 2])))
    with pytest.raises(ValueError, match="has 4 images, but t10k-labels-idx1-ubyte has 3 labels"):
        load(folder)


def test_sizes_of_training_and_test_images_must_agree(folder):
    (folder / IDX_FILES[2]).write_bytes(idx(images(4, height=5)))
    with pytest.raises(ValueError, match=r"training images are \(4, 3\) pixels, test images \(5, 3\)"):
        load(folder)


@pytest.mark.parametrize(
    ("training", "test", "message"),
    [
        ([1, 2, 3, 3, 2, 1], [1, 2, 3, 1], r"training labels are \[1, 2, 3\].*without gaps: renumber"),
        ([0, 2, 0, 2, 0, 2], [0, 2, 0, 2], r"training labels are \[0, 2\]"),
        ([0, 1, 0, 1, 0, 1], [0, 1, 2, 0], r"test label 2 does not occur in training \(0 to 1\)"),
        ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0], r"only one class, 0"),
    ],
)
def test_labels_must_be_contiguous(folder, training, test, message):
    (folder / IDX_FILES[1]).write_bytes(idx(torch.tensor(training)))
    (folder / IDX_FILES[3]).write_bytes(idx(torch.tensor(test)))
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="needs the folder mnist in LPSPHERE_DATA")
def test_mnist_has_its_published_statistics():
    assert pixel_statistics(read_idx(SHARED / "mnist" / "train-images-idx3-ubyte.gz", dimensions=3)) == pytest.approx(
        (0.1307, 0.3081), abs=5e-5
    )
    labels = read_idx(SHARED / "mnist" / "t10k-labels-idx1-ubyte.gz", dimensions=1)
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
