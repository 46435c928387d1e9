import gzip
import hashlib
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lpsphere.data import benchmarks, load
from lpsphere.data.benchmarks import BENCHMARKS, Content, at_folder, idx_benchmark
from lpsphere.data.dataset import Split
from lpsphere.data.files import ENVIRONMENT
from lpsphere.data.idx import IDX_FILES, encode_idx

CHECKED = ("dna", "mushroom", "climate", "mnist", "fashion-mnist")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)


def pictures(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, 3), generator=generator).byte(), torch.arange(rows).byte() % 3


@pytest.fixture
def tiny(monkeypatch):
    """A known data set of nine training and three test images, and the contents of its files."""
    (x, y), (x_test, y_test) = pictures(9, 0), pictures(3, 1)
    contents = dict(zip(IDX_FILES, map(encode_idx, (x, y, x_test, y_test)), strict=True))
    files = {name: Content(len(held), hashlib.sha256(held).hexdigest()) for name, held in contents.items()}
    monkeypatch.setitem(BENCHMARKS, "tiny", idx_benchmark("tiny", "the moon", 7, files))
    return contents


def write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_every_known_set_is_registered_with_its_checks():
    assert tuple(BENCHMARKS) == (*CHECKED, "cifar-10", "tiny-imagenet")
    assert [name for name, known in BENCHMARKS.items() if known.files] == list(CHECKED)
    assert {name: known.openml for name, known in BENCHMARKS.items()} == {
        "dna": 40670,
        "mushroom": 24,
        "climate": 40994,
        "mnist": 554,
        "fashion-mnist": 40996,
        "cifar-10": 40927,
        "tiny-imagenet": None,
    }


@pytest.mark.parametrize("name", CHECKED)
def test_the_published_files_pass_their_checks(shared, name):
    data = load(name, data_dir=shared(name).parent)
    assert data.name == name
    assert data.x_train.isfinite().all()


@pytest.mark.parametrize(
    ("name", "mean", "deviation", "accuracy"),
    [("mnist", 0.1307, 0.3081, 0.8203), ("fashion-mnist", 0.2860, 0.3530, 0.6768)],
)
def test_a_centroid_of_the_images_reaches_its_published_accuracy(shared, name, mean, deviation, accuracy):
    data = load(shared(name))
    assert (data.x_train.shape, data.x_test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert data.x_train.min().item() == pytest.approx(-mean / deviation, abs=1e-3)
    train, test = data.x_train.flatten(1), data.x_test.flatten(1)
    centroids = torch.stack([train[data.y_train == label].mean(dim=0) for label in range(10)])
    nearest = torch.cdist(test, centroids).argmin(dim=1)
    assert (nearest == data.y_test).float().mean().item() == pytest.approx(accuracy, abs=5e-5)


@pytest.mark.parametrize("place", ["data_dir", "working directory", "environment"])
def test_a_known_name_is_found_in_each_place(tiny, tmp_path, monkeypatch, place):
    home = tmp_path / "home"
    home.mkdir()
    write((tmp_path if place == "working directory" else home) / "tiny", tiny)
    if place == "environment":
        monkeypatch.setenv(ENVIRONMENT, str(home))
    assert load("tiny", data_dir=home if place == "data_dir" else None).name == "tiny"


@pytest.mark.parametrize("change", ["", "./"])
def test_other_contents_are_refused_with_both_checksums_and_a_remedy(tiny, tmp_path, change):
    folder = write(tmp_path / "tiny", {**tiny, IDX_FILES[3]: encode_idx(torch.tensor([2, 1, 0]).byte())})
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte has sha256") as caught:
        load(f"{change}tiny")
    message = str(caught.value)
    found = hashlib.sha256((folder / IDX_FILES[3]).read_bytes()).hexdigest()
    for part in (found, "(11 bytes)", hashlib.sha256(tiny[IDX_FILES[3]]).hexdigest(), "give data of your own another"):
        assert part in message


def test_the_same_files_under_another_name_are_a_users_own(tiny, tmp_path):
    write(tmp_path / "mine", {**tiny, IDX_FILES[3]: encode_idx(torch.tensor([2, 1, 0]).byte())})
    assert load("mine").y_test.tolist() == [2, 1, 0]


def test_the_content_is_checked_whether_it_is_compressed_or_not(tiny, tmp_path):
    compressed = {f"{name}.gz": gzip.compress(content, compresslevel=1) for name, content in tiny.items()}
    assert load(write(tmp_path / "tiny", compressed)).name == "tiny"
    name = f"{IDX_FILES[1]}.gz"
    (tmp_path / "tiny" / name).write_bytes(gzip.compress(tiny[IDX_FILES[1]][:-1] + b"\7"))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz, decompressed, has sha256"):
        load("tiny")


def test_a_missing_file_is_named_with_the_meaning_of_the_folder(tiny, tmp_path):
    folder = write(tmp_path / "tiny", tiny)
    (folder / IDX_FILES[2]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks t10k-images.*A folder named 'tiny' stands for the published tiny"
    ):
        load("tiny")


@pytest.mark.parametrize("name", CHECKED[:3])
def test_text_with_the_line_ends_of_another_system_is_the_same(shared, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(shared(name), folder)
    for file in BENCHMARKS[name].files:
        (folder / file).chmod(0o644)
        (folder / file).write_bytes((folder / file).read_bytes().replace(b"\n", b"\r\n"))
    data, original = load(folder), load(shared(name))
    assert torch.equal(data.x_train, original.x_train)
    assert torch.equal(data.y_test, original.y_test)
    assert data.features == original.features


@pytest.mark.parametrize("name", CHECKED[:3])
def test_a_changed_letter_is_noticed(shared, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for file in BENCHMARKS[name].files:
        content = (shared(name) / file).read_bytes()
        (folder / file).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(ValueError, match=f"the published {name} is .*get the file again"):
        load(folder)


def test_a_folder_counts_by_its_own_name_even_as_a_link(tiny, tmp_path, monkeypatch):
    write(tmp_path / "somewhere", tiny)
    (tmp_path / "tiny").symlink_to("somewhere")
    assert load("./tiny").name == "tiny"
    assert at_folder(tmp_path / "somewhere") is None
    monkeypatch.chdir(tmp_path / "tiny")
    assert at_folder(Path("../tiny")) is BENCHMARKS["tiny"]


def test_images_from_openml_are_split_and_checked_like_the_files(tiny, tmp_path, openml):
    (x, y), (x_test, y_test) = pictures(9, 0), pictures(3, 1)
    table = torch.cat([x, x_test]).flatten(1).numpy()
    target = torch.cat([y, y_test]).numpy().astype(str)
    asked = openml(table, target)
    got, local = load("tiny"), load(write(tmp_path / "folder", tiny))
    assert asked[0]["data_id"] == 7
    assert (got.name, got.classes) == ("tiny", ("0", "1", "2"))
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(got, part), getattr(local, part))

    openml(table[::-1], target[::-1])
    with pytest.raises(ValueError, match="it has other images, labels or order than train-images-idx3-ubyte"):
        load("tiny")


def test_what_is_there_is_not_downloaded(tiny, tmp_path, openml):
    write(tmp_path / "tiny", tiny)
    asked = openml(np.zeros((1, 1)), ["0"])
    load("tiny")
    assert asked == []


def test_an_option_for_tables_is_refused_before_anything_is_downloaded():
    with pytest.raises(ValueError, match="--label-column 'y' with --data 'dna'"):
        load("dna", label_column="y")
    with pytest.raises(ValueError, match="--task regression with --data 'dna'"):
        load("dna", task="regression")


@pytest.mark.parametrize("name", [*CHECKED, "cifar-10"])
def test_without_a_network_the_message_says_which_files_to_put_where(name, monkeypatch):
    def fail(**options):
        raise URLError("no network")

    monkeypatch.setattr("lpsphere.data.openml.fetch_openml", fail)
    monkeypatch.setenv(ENVIRONMENT, "/data/of/all")
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    message = str(caught.value)
    known = BENCHMARKS[name]
    for part in (
        f"'{name}' under --data-dir",
        ENVIRONMENT,
        "'.', '/data/of/all'",
        "no network",
        str(known.openml),
        "http",
    ):
        assert part in message
    for file, (size, digest) in known.files.items():
        assert f"{file} ({size} bytes, sha256 {digest})" in message


def test_a_set_that_openml_does_not_have_is_not_asked_for():
    with pytest.raises(FileNotFoundError, match=r"'tiny-imagenet-200' or 'tiny-imagenet'.*no download.*wnids\.txt"):
        load("tiny-imagenet")


def test_an_injected_fetcher_takes_the_place_of_scikit_learn():
    def fetch(**options):
        raise URLError(f"asked for {options['data_id']}")

    with pytest.raises(FileNotFoundError, match="asked for 24"):
        benchmarks.BENCHMARKS["mushroom"].fetch(Split(), [Path(".")], fetch)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("MNIST", "mnist"), ("cifar10", "cifar-10"), ("tiny_imagenet", "tiny-imagenet"), ("mushrooms", "mushroom")],
)
def test_a_misspelt_known_name_is_guessed(typed, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        load(typed)
