import os
import pickle
import struct

import numpy as np
import pytest
import torch

from lpsphere.data import cifar, load

ROWS = 10
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.delenv("LPSPHERE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cifar, "ROWS", ROWS)


@pytest.fixture
def batches():
    """Six batches in which every class occurs once: pixels (10, 3072) and labels."""
    generator = np.random.default_rng(0)
    return [(generator.integers(0, 256, (ROWS, 3072)).astype(np.uint8), generator.permutation(10)) for _ in NAMES]


def text(value):
    """A string as Python 2 pickled it."""
    return b"T" + struct.pack("<i", len(value)) + value


def number(value):
    return b"J" + struct.pack("<i", value)


def python2(pixels, labels):
    """A batch of the python version, written as cPickle of Python 2 does: protocol 2, strings of bytes."""
    rows, columns = pixels.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        b"(K\1" + number(rows) + number(columns) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\0tb"
        b"\x89" + text(pixels.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    head = b"\x80\2}(" + text(b"batch_label") + text(b"training batch 1 of 5")
    return head + text(b"labels") + listed + text(b"data") + array + b"u."


def write(folder, batches, kind):
    folder.mkdir()
    for name, (pixels, labels) in zip(NAMES, batches, strict=True):
        records = np.column_stack([labels, pixels]).astype(np.uint8).tobytes()
        path = folder / (f"{name}.bin" if kind == "binary" else name)
        path.write_bytes(records if kind == "binary" else python2(pixels, labels))
    return folder


@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_both_versions_are_found_and_read_under_every_name(tmp_path, batches, kind, name):
    write(tmp_path / name, batches, kind)
    data = load("cifar-10")
    assert (data.name, data.task, data.features) == ("cifar-10", "classification", ())
    assert (data.classes[0], data.classes[9], data.outputs) == ("airplane", "truck", 10)
    assert (data.x_train.shape, data.x_test.shape) == ((50, 3, 32, 32), (10, 3, 32, 32))
    assert data.y_test.tolist() == batches[5][1].tolist()
    assert data.y_train.tolist() == np.concatenate([labels for _, labels in batches[:5]]).tolist()


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_each_channel_is_scaled_by_the_training_part(tmp_path, batches, kind):
    data = load(write(tmp_path / "cifar-10", batches, kind))
    pixels = torch.from_numpy(np.concatenate([values for values, _ in batches])) / 255
    planes = pixels.double().reshape(60, 3, 1024)  # red, then green, then blue, each row by row
    for channel in range(3):
        train, test = planes[:50, channel], planes[50:, channel]
        scaled = (test - train.mean()) / train.std(correction=0)
        torch.testing.assert_close(data.x_test[:, channel].flatten(1), scaled.float())


def test_the_binary_version_wins_where_both_are(tmp_path, batches):
    folder = write(tmp_path / "cifar-10", batches, "binary")
    for name in NAMES:
        (folder / name).write_bytes(b"never read")
    assert len(load("cifar-10").x_train) == 50


@pytest.mark.parametrize(("kind", "ending"), [("binary", r"\.bin"), ("python", "")])
def test_a_missing_batch_is_named(tmp_path, batches, kind, ending):
    folder = write(tmp_path / "cifar-10", batches, kind)
    (folder / ("data_batch_3.bin" if kind == "binary" else "data_batch_3")).unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks data_batch_3{ending} .*stands for the published cifar-10"):
        load("cifar-10")


def test_a_batch_that_is_cut_short_is_named(tmp_path, batches):
    path = write(tmp_path / "cifar-10", batches, "binary") / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin holds 27657 bytes, expected 30730: get the file again"):
        load("cifar-10")


def test_a_wrong_number_of_images_of_a_class_is_refused(tmp_path, batches):
    batches[5][1][:] = 3
    with pytest.raises(ValueError, match=r"\[0, 0, 0, 10\] test images of the classes, expected 1 of each"):
        load(write(tmp_path / "cifar-10", batches, "binary"))


class Command:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_cannot_run_anything(tmp_path, batches, protocol):
    folder = write(tmp_path / "cifar-10", batches, "python")
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Command(), "labels": []}, protocol=protocol))
    with pytest.raises(ValueError, match=r"data_batch_1 is not a batch .*mkdir has no place in a batch of images"):
        load("cifar-10")
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "is not a batch of CIFAR-10's python version"),
        (pickle.dumps([1, 2]), "is not a batch of CIFAR-10's python version"),
        (pickle.dumps({b"data": [1], b"labels": [1]}), "does not hold 10 x 3072 pixels of one byte"),
        (python2(np.zeros((9, 3072), dtype=np.uint8), range(9)), "does not hold 10 x 3072 pixels of one byte"),
        (python2(np.zeros((10, 3072), dtype=np.uint8), range(9)), "does not hold 10 labels from 0 to 9"),
        (python2(np.zeros((10, 3072), dtype=np.uint8), range(1, 11)), "does not hold 10 labels from 0 to 9"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, batches, content, message):
    folder = write(tmp_path / "cifar-10", batches, "python")
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=f"test_batch {message}.*get the file again"):
        load("cifar-10")


def test_openml_gives_the_same(tmp_path, batches, openml):
    local = load(write(tmp_path / "cifar-10-batches-bin", batches, "binary"))
    for path in (tmp_path / "cifar-10-batches-bin").iterdir():
        path.unlink()
    (tmp_path / "cifar-10-batches-bin").rmdir()
    pixels, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    asked = openml(pixels, labels.astype(str))
    got = load("cifar-10")
    assert asked[0]["data_id"] == 40927
    assert (got.name, got.classes) == (local.name, local.classes)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(got, part), getattr(local, part))


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (np.zeros((60, 3071)), ["0"] * 60, "60 x 3071 features, expected 60 x 3072"),
        (np.full((60, 3072), 0.5), ["0"] * 60, "pixels that are not whole numbers"),
        (np.zeros((60, 3072)), ["cat"] * 60, "labels that are not 0 to 9"),
        (np.zeros((60, 3072)), ["0"] * 60, r"\[50\] training images of the classes, expected 5 of each"),
    ],
)
def test_another_table_from_openml_is_refused(openml, pixels, labels, message):
    openml(pixels, labels)
    with pytest.raises(ValueError, match=f"OpenML's data set 40927 is not the published one: it has .*{message}"):
        load("cifar-10")
