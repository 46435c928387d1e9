import gzip
import shutil
import struct

import pytest
import yaml

GOOD = "a,b,kind\n" + "".join(f"{i},{i % 3},{'x' if i % 2 else 'y'}\n" for i in range(40))


def message(result):
    status, _, err = result
    assert status == 2
    assert "Traceback" not in err
    return " ".join(err.split())


@pytest.fixture
def table(lpsphere, tmp_path):
    def run(text, *options):
        (tmp_path / "t.csv").write_text(text)
        return message(lpsphere("train", "--data", "t.csv", "--device", "cpu", *options))

    return run


def test_an_unknown_column_is_named_with_those_that_exist(table):
    text = table(GOOD, "--label-column", "kin")
    assert "'kin'" in text
    assert "'kind'" in text
    assert "'a'" in text


def test_a_missing_label_column_is_asked_for(table):
    assert "--label-column" in table(GOOD)


def test_a_target_that_is_no_number_cannot_be_regressed(table):
    text = table(GOOD, "--label-column", "kind", "--task", "regression")
    assert "'kind'" in text
    assert "--task classification" in text


def test_an_empty_file_is_called_empty(table):
    assert "empty" in table("", "--label-column", "kind")


def test_one_class_only_cannot_be_learned(table):
    text = table("a,kind\n" + "".join(f"{i},x\n" for i in range(20)), "--label-column", "kind")
    assert "only one class" in text
    assert "'x'" in text


def test_not_a_number_in_the_data_is_counted_and_the_remedies_named(table):
    text = table(GOOD.replace("7,1,x", "nan,1,x"), "--label-column", "kind")
    assert "'a'" in text
    assert "drop" in text
    assert "impute" in text


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1])
def test_sparsity_outside_its_range_is_refused(lpsphere, sparsity):
    text = message(lpsphere("train", f"--sparsity={sparsity}"))
    assert f"sparsity must be in [0, 1): the fraction of connections that are gone; got {float(sparsity)}" in text


def test_a_sparsity_that_cannot_be_reached_names_the_largest(lpsphere):
    text = message(lpsphere("train", "--sparsity", 0.99, "--hidden", "128,128", "--device", "cpu"))
    assert "the largest feasible sparsity is 0.9895" in text


@pytest.mark.parametrize("p", [1, 0.5, "inf"])
def test_p_of_one_or_less_is_refused(lpsphere, p):
    assert "p must be finite and greater than 1" in message(lpsphere("train", "--p", p, "--device", "cpu"))


def test_a_folder_that_cannot_be_written_to_is_named(lpsphere, tmp_path):
    (tmp_path / "file").touch()
    text = message(lpsphere("train", "--out", "file/run"))
    assert "cannot write to file/run" in text
    assert "--out" in text


def test_a_checkpoint_of_another_network_is_refused(lpsphere, tmp_path):
    quick = ("train", "--epochs", 1, "--device", "cpu")
    lpsphere(*quick, "--hidden", "16,16", "--out", "one")
    lpsphere(*quick, "--hidden", "24,16", "--out", "two")
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    text = message(lpsphere("train", "--out", "one", "--resume"))
    assert "is of another network" in text
    assert "(24, 64) there, (16, 64) here" in text


def test_a_network_that_does_not_fit_the_data_is_not_evaluated(lpsphere, tmp_path):
    lpsphere("train", "--epochs", 1, "--device", "cpu", "--hidden", "16,16", "--out", "one")
    settings = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    (tmp_path / "one" / "config.yaml").write_text(yaml.safe_dump(settings | {"data": "wine"}))
    assert "does not fit the data wine" in message(lpsphere("evaluate", "one"))


def test_a_truncated_gz_is_named(lpsphere, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for part, count in (("train", 30), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes(count * 28 * 28)
        labels = struct.pack(">II", 2049, count) + bytes(i % 3 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    whole = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    text = message(lpsphere("train", "--data", "images"))
    assert "train-images-idx3-ubyte.gz" in text


def test_data_that_do_not_exist_are_named_with_what_is_allowed(lpsphere):
    text = message(lpsphere("train", "--data", "nowhere"))
    assert "'nowhere'" in text
    assert "digits, breast_cancer, wine" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--hidden", "64,many"), "--hidden takes whole numbers separated by commas, such as 256,256; got '64,many'"),
        (("--set", "regrow"), "--set takes NAME=VALUE"),
        (("--set", "colour=red"), "unknown settings colour"),
        (("--method", "magic"), "method must be one of static, set, rigl, snip, gmp, semi-pruning, dense; got 'magic'"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--lr", "2", "--device", "cpu"), "the learning rate of weights on spheres must be in [0, 1], got 2.0"),
        (("--epochs", "0"), "epochs must be at least 1, got 0"),
    ],
)
def test_a_bad_option_is_explained(lpsphere, options, expected):
    assert expected in message(lpsphere("train", *options))


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_folder_without_a_run_is_named(lpsphere, tmp_path, command):
    (tmp_path / "empty").mkdir()
    assert "empty" in message(lpsphere(command, "empty"))
