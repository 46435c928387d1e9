import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lpsphere.data import load, tiny_imagenet

NAMES = ["n02", "n01", "n03"]  # not in order, as in the publisher's file


def jpeg(path, colour, size=(64, 64), mode="RGB"):
    Image.new(mode, size, colour).save(path, "JPEG", quality=95)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three classes of one colour each, two training images and one validation image of each."""
    monkeypatch.delenv("LPSPHERE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny_imagenet, "IMAGES_PER_CLASS", 2)
    monkeypatch.setattr(tiny_imagenet, "VALIDATION_PER_CLASS", 1)
    place = tmp_path / "tiny-imagenet-200"
    (place / "val" / "images").mkdir(parents=True)
    (place / "wnids.txt").write_text("\n".join(NAMES) + "\n")
    lines = []
    for index, name in enumerate(NAMES):
        colour = tuple(200 if channel == index else 20 for channel in range(3))
        images = place / "train" / name / "images"
        images.mkdir(parents=True)
        for number in range(2):
            jpeg(images / f"{name}_{number}.JPEG", colour)
        (place / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t63\t63\n")
        jpeg(place / "val" / "images" / f"val_{index}.JPEG", colour)
        lines.append(f"val_{index}.JPEG\t{name}\t0\t32\t44\t62\n")
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    return place


@pytest.mark.parametrize("name", ["tiny-imagenet-200", "tiny-imagenet"])
def test_a_folder_is_read_under_both_names(folder, name):
    if name != folder.name:
        folder.rename(folder.parent / name)
    data = load("tiny-imagenet")
    assert (data.name, data.task, data.classes, data.features) == (
        "tiny-imagenet",
        "classification",
        ("n01", "n02", "n03"),
        (),
    )
    assert (data.x_train.shape, data.x_test.shape) == ((6, 3, 64, 64), (3, 3, 64, 64))
    assert data.y_train.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.y_test.tolist() == [1, 0, 2]  # in the order of the annotations


def test_channels_keep_their_order_and_are_scaled_by_the_training_part(folder):
    data = load(folder)
    channel = {"n02": 0, "n01": 1, "n03": 2}  # red, green, blue, as written
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for image, label in zip(x, y.tolist(), strict=True):
            assert image.mean(dim=(1, 2)).argmax().item() == channel[data.classes[label]]
    deviation, mean = torch.std_mean(data.x_train, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(3))


def test_pixels_are_those_of_the_file(folder):
    generator = np.random.default_rng(0)
    path = folder / "val" / "images" / "val_0.JPEG"
    Image.fromarray(generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path, "JPEG", quality=90)
    data = load(folder)
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).flatten(1).float()
    for plane, scaled in zip(pixels, data.x_test[0].flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([plane, scaled]))[0, 1].item() == pytest.approx(1)


def test_a_grey_image_becomes_three_equal_channels(folder):
    jpeg(folder / "train" / "n01" / "images" / "n01_0.JPEG", 128, mode="L")
    images, _ = tiny_imagenet._read_images([(folder / "train" / "n01" / "images" / "n01_0.JPEG", 0)])
    assert images.unique().tolist() == [128]


@pytest.mark.parametrize("name", ["wnids.txt", "train", "val/val_annotations.txt"])
def test_a_missing_part_is_named(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {name}: unpack the archive again.*stands for the published"):
        load("tiny-imagenet")


def test_a_class_with_too_few_images_is_named(folder):
    (folder / "train" / "n03" / "images" / "n03_1.JPEG").unlink()
    with pytest.raises(ValueError, match=r"n03.images has 1 images, expected 2: unpack the archive again"):
        load("tiny-imagenet")


def test_a_missing_validation_image_is_named(folder):
    (folder / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_1\.JPEG cannot be read as an image"):
        load("tiny-imagenet")


def test_an_image_that_is_cut_short_is_named(folder):
    path = folder / "train" / "n02" / "images" / "n02_0.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"n02_0\.JPEG cannot be read as an image"):
        load("tiny-imagenet")


def test_an_image_of_another_size_is_named(folder):
    jpeg(folder / "train" / "n02" / "images" / "n02_0.JPEG", (1, 2, 3), size=(64, 48))
    with pytest.raises(ValueError, match=r"n02_0\.JPEG is 64 x 48 pixels, expected 64 x 64"):
        load("tiny-imagenet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wnids.txt", "n01\n", r"wnids\.txt names 1 classes, expected 200"),
        ("val/val_annotations.txt", "val_0.JPEG\tn09\n", r"line 1 does not name an image and one of wnids\.txt"),
        ("val/val_annotations.txt", "val_0.JPEG n01\n", r"line 1 does not name an image and one of wnids\.txt"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\n", r"has 1 lines, expected 3"),
    ],
)
def test_lists_that_do_not_fit_are_refused(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load("tiny-imagenet")
