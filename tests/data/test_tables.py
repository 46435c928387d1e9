import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from lpsphere.data import load

SHARED = Path(os.environ.get("LPSPHERE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture
def table(tmp_path):
    """Write text (or bytes) to a file and give its path."""

    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(header, *lines, times=1):
    return "\n".join([header, *(list(lines) * times)]) + "\n"


MIXED = rows("age,colour,y", "1,red,no", "2,blue,yes", "4,red,no", "5,green,yes", times=3)


def test_numbers_are_standardised_and_text_is_one_hot_coded(table):
    data = load(table(MIXED), label_column="y")
    assert data.features == ("age", "colour=blue", "colour=green", "colour=red")
    assert data.classes == ("no", "yes")
    assert (data.name, data.task, data.outputs) == ("table", "classification", 2)
    assert (len(data.x_train), len(data.x_test)) == (9, 3)
    assert data.x_train[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert data.x_train[:, 0].std(correction=0).item() == pytest.approx(1)
    assert data.x_train[:, 1:].unique().tolist() == [0, 1]
    assert (data.x_train[:, 1:].sum(dim=1) == 1).all()
    red = data.x_train[:, 3] == 1
    assert (data.y_train[red] == 0).all()
    assert (data.y_train[~red] == 1).all()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separator_byte_order_mark_and_line_ends_do_not_matter(table, separator, mark, end):
    content = mark + MIXED.replace(",", separator).replace("\n", end).encode()
    data, plain = load(table(content), label_column="y"), load(table(MIXED, "plain.csv"), label_column="y")
    assert data.features == plain.features
    assert torch.equal(data.x_train, plain.x_train)


def test_a_compressed_table_is_read(table):
    data = load(table(gzip.compress(MIXED.encode()), "mixed.csv.gz"), label_column="y")
    assert data.name == "mixed"
    assert len(data.x_train) == 9


def test_quotes_protect_separators_and_line_ends(table):
    text = rows('"size, in m",y', '1,"a, b"', '2,"c\nd"', times=3)
    data = load(table(text), label_column="y")
    assert data.features == ("size, in m",)
    assert data.classes == ("a, b", "c\nd")


def test_a_table_gives_the_same_as_the_embedded_set(table):
    wine = load_wine()
    lines = [",".join([*map(repr, row), str(y)]) for row, y in zip(wine.data.tolist(), wine.target, strict=True)]
    path = table(rows(",".join([*(f"c{i}" for i in range(13)), "y"]), *lines))
    data, embedded = load(path, label_column="y", split_seed=3), load("wine", split_seed=3)
    torch.testing.assert_close(data.x_train, embedded.x_train)
    torch.testing.assert_close(data.x_test, embedded.x_test)
    assert torch.equal(data.y_test, embedded.y_test)


def test_a_category_that_only_the_test_part_has_is_all_zero(table):
    path = table(rows("c,y", *(f"v{i},{i % 2}" for i in range(12))))
    data = load(path, label_column="y")
    assert len(data.features) == 9
    assert (data.x_train.sum(dim=1) == 1).all()
    assert (data.x_test == 0).all()


def test_the_split_is_stratified(table):
    path = table(rows("a,y", *(f"{i},{'rare' if i % 10 == 0 else 'often'}" for i in range(200))))
    data = load(path, label_column="y")
    assert data.classes == ("often", "rare")
    assert (data.y_train.bincount().tolist(), data.y_test.bincount().tolist()) == ([135, 15], [45, 5])


def test_numeric_classes_are_ordered_as_numbers_and_spellings_are_joined(table):
    data = load(table(rows("a,y", "1,10", "2,9", "3,9.0", "4,1e1", "5,2", "6,2", times=3)), label_column="y")
    assert data.classes == ("2", "9", "10")


def test_regression_standardises_the_target_by_the_training_part(table):
    path = table(rows("a,y", *(f"{i},{3 * i + 100}" for i in range(40))))
    data = load(path, label_column="y", task="regression")
    assert (data.task, data.classes, data.outputs) == ("regression", (), 1)
    assert data.y_train.dtype == torch.float32
    assert data.y_train.shape == (30,)
    assert data.y_train.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.y_train.std(correction=0).item() == pytest.approx(1)
    original = torch.cat([data.y_train, data.y_test]) * data.target_std + data.target_mean
    torch.testing.assert_close(original.sort().values, 3 * torch.arange(40.0) + 100)
    torch.testing.assert_close(data.x_train[:, 0], data.y_train)  # the target is a line in the feature


GAPS = rows("age,colour,y", "1,red,no", "?,blue,yes", "4,,no", "5,green,yes", "6,NA,no", "7,red,yes", times=8)


def test_missing_values_are_an_error_that_counts_them_by_column(table):
    with pytest.raises(
        ValueError, match=r"in 'age' \(8\), 'colour' \(16\), of 48 rows.*--missing drop.*--missing impute"
    ):
        load(table(GAPS), label_column="y")


@pytest.mark.parametrize("cell", ["", " ", "?", "NA", "NaN", "nan", "null", "-nan"])
def test_each_spelling_of_a_missing_value_is_known(table, cell):
    path = table(rows("a,b,y", f"{cell},1,u", "2,1,v", "3,1,u", "4,1,v", "5,1,u"))
    with pytest.raises(ValueError, match=r"in 'a' \(1\), of 5 rows"):
        load(path, label_column="y")


def test_drop_leaves_incomplete_rows_out(table):
    data = load(table(GAPS), label_column="y", missing="drop")
    assert len(data.x_train) + len(data.x_test) == 24
    assert data.features == ("age", "colour=green", "colour=red")


def test_impute_takes_the_training_median_and_a_category_of_its_own(table):
    data = load(table(GAPS), label_column="y", missing="impute")
    assert data.features == ("age", "colour=(missing)", "colour=blue", "colour=green", "colour=red")
    assert (data.x_train[:, 1:].sum(dim=1) == 1).all()
    blue = data.x_train[:, 2] == 1  # exactly the rows without an age
    imputed = data.x_train[blue, 0].unique()
    assert len(imputed) == 1
    assert torch.equal(data.x_test[data.x_test[:, 2] == 1, 0].unique(), imputed)
    assert data.x_train[~blue, 0].median() <= imputed.item()  # even count: torch gives the lower middle
    assert data.x_train[~blue, 0].sort().values[int((~blue).sum()) // 2] >= imputed.item()


def test_a_missing_label_is_an_error_unless_rows_are_dropped(table):
    path = table(rows("a,y", "1,u", "2,v", "3,", "4,u", "5,v", "6,u", "7,v"))
    for missing in ("error", "impute"):
        with pytest.raises(ValueError, match=r"1 of 7 rows lack the label 'y', first in line 4.*--missing drop"):
            load(path, label_column="y", missing=missing)
    data = load(path, label_column="y", missing="drop")
    assert len(data.x_train) + len(data.x_test) == 6


def test_drop_that_leaves_nothing_is_refused(table):
    with pytest.raises(ValueError, match=r"--missing drop leaves no rows.*--missing impute"):
        load(table(rows("a,b,y", ",1,u", "2,,v", times=4)), label_column="y", missing="drop")


def test_a_column_without_any_value_cannot_be_imputed(table):
    with pytest.raises(ValueError, match="'a' has no value in any row: remove it"):
        load(table(rows("a,b,y", ",1,u", ",2,v", times=4)), label_column="y", missing="impute")


def test_a_column_without_a_value_in_training_cannot_be_imputed(table):
    path = table(rows("a,b,y", "1,1,u", *[",2,v", ",3,u"] * 5, ",4,v"))

    def load_often():  # the only value lands in the test part for some of the seeds
        for seed in range(30):
            load(path, label_column="y", missing="impute", split_seed=seed)

    with pytest.raises(ValueError, match=r"no training row has a value in 'a'.*--missing drop"):
        load_often()


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "1e999"])
def test_an_infinite_value_is_named_with_its_line(table, cell):
    path = table(rows("a,y", "1,u", "2,v", f"{cell},u", "4,v"))
    with pytest.raises(ValueError, match=rf"column 'a' has 1 infinite value\(s\), the first, '{cell}', in line 4"):
        load(path, label_column="y")


def test_without_a_label_column_the_columns_are_listed(table):
    with pytest.raises(ValueError, match=r"pass --label-column.*\(separated by comma\): 'age', 'colour', 'y'"):
        load(table(MIXED))


def test_an_unknown_label_column_is_guessed(table):
    with pytest.raises(ValueError, match=r"--label-column 'Color' is not.*Did you mean 'colour'.*'age', 'colour', 'y'"):
        load(table(MIXED), label_column="Color")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"table\.csv is empty"),
        (" \n\n", r"table\.csv is empty"),
        ("a,y\n", "header but no rows"),
        ("a,y\n1,u\n2\n", r"line 3: 1 cells, but the header has 2 \(separated by comma\): repair"),
        ("a;y\n1;u\n\n2;v;3\n", r"line 4: 3 cells, but the header has 2 \(separated by semicolon\)"),
        ("a,a,y\n1,2,u\n", "repeated column names 'a'.*if the first line is data, add a header row"),
        (",a,y\n0,1,u\n", "column 1 of 3 .*has no name in the header"),
        ("1.5,2,3\n1,2,3\n", "the first line, '1.5', '2', '3', looks like data: add a header row"),
        ("y\nu\nv\n", "no columns beside the label 'y'"),
        ('a,y\n1,"u\n2,v\n', "is not valid CSV .*check its double quotes"),
        (b"a,y\n1,\xe9\n", r"is not UTF-8 \(byte 6\): save it again as CSV in UTF-8"),
        (rows("a,y", "1,u", "2,u", "3,u"), "'y' has only one class, 'u', in 3 rows"),
        (rows("a,y", "1,u", "2,v", "3,u", "4,w"), "fewer than 2 rows of class 'v', 'w' in label column 'y'"),
        (rows("a,y", "1,u", "2,v", "3,u", "4,v", "5,w", "6,w"), "leaves 4 to train and 2 to test; each needs"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(table, content, message):
    with pytest.raises(ValueError, match=message):
        load(table(content), label_column="y")


def test_a_truncated_compressed_table_is_named(table):
    path = table(gzip.compress(MIXED.encode())[:-12], "cut.csv.gz")
    with pytest.raises(ValueError, match=r"cut\.csv\.gz is cut short or damaged"):
        load(path, label_column="y")


def test_numbered_column_names_are_names(table):
    assert load(table(rows("0,1,2", "5,6,0", "7,8,1", times=4)), label_column="2").features == ("0", "1")


def test_regression_needs_a_numeric_target(table):
    path = table(rows("a,y", "1,2", "2,high", "3,4"))
    message = (
        "--task regression needs numbers in the label column 'y', but it has 'high' in line 3.*--task classification"
    )
    with pytest.raises(ValueError, match=message):
        load(path, label_column="y", task="regression")


def test_regression_needs_a_target_that_varies(table):
    with pytest.raises(ValueError, match="'y' is 7 in every training row"):
        load(table(rows("a,y", "1,7", "2,7", times=4)), label_column="y", task="regression")


def test_a_target_that_overflows_is_refused(table):
    with pytest.raises(ValueError, match="'y' has values too large for float32"):
        load(table(rows("a,y", "1,1e308", "2,-1e308", times=4)), label_column="y", task="regression")


def test_a_quantity_as_a_class_points_to_regression(table):
    path = table(rows("a,y", *(f"{i},{i + 0.5}" for i in range(30))))
    with pytest.raises(ValueError, match=r"'y' has 30 different numbers in 30 rows.*--task regression"):
        load(path, label_column="y")
    assert load(path, label_column="y", task="regression").outputs == 1


def test_few_distinct_fractions_are_classes(table):
    assert load(table(rows("a,y", "1,0.5", "2,1.5", times=30)), label_column="y").classes == ("0.5", "1.5")


def test_a_column_of_identifiers_is_warned_of_at_the_call(table):
    path = table(rows("name,a,y", *(f"n{i},{i},{i % 2}" for i in range(40))))
    with pytest.warns(UserWarning, match=r"'name' is not numeric \('n0' in line 2\).*40 different values") as caught:
        load(path, label_column="y")
    assert caught[0].filename == __file__


def test_an_ordinary_table_gives_no_warning(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(table(MIXED), label_column="y")


@pytest.mark.skipif(not (SHARED / "mushroom").is_dir(), reason="needs the folder mushroom in LPSPHERE_DATA")
def test_mushroom_has_its_one_hot_width(tmp_path):
    header = ",".join(["class", *(f"f{i}" for i in range(1, 23))])
    path = tmp_path / "mushroom.csv"
    path.write_text(header + "\n" + (SHARED / "mushroom" / "agaricus-lepiota.data").read_text())
    data = load(path, label_column="class", missing="impute")
    assert data.classes == ("e", "p")
    assert data.input_shape == (117,)
    assert len(data.x_train) + len(data.x_test) == 8124
    assert "f11=(missing)" in data.features
    assert np.isin(data.x_train.numpy(), (0, 1)).all()
