import pytest

from lpsphere.data import load


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("LPSPHERE_DATA", raising=False)


def test_an_unknown_source_says_what_is_allowed_and_where_it_was_searched(tmp_path):
    with pytest.raises(ValueError, match="--data 'cifar' is no data set") as caught:
        load("cifar", data_dir=tmp_path)
    message = str(caught.value)
    for part in ("digits, breast_cancer, wine", ".csv", "IDX", "--data-dir", "LPSPHERE_DATA", tmp_path.name):
        assert part in message


def test_a_misspelt_name_is_guessed():
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        load("digit")


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.csv' is no data set, file or folder"):
        load(tmp_path / "absent.csv", label_column="y")


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_source_is_refused(source):
    with pytest.raises(ValueError, match="is no data set"):
        load(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"table\.xlsx' is a file, but not \.csv.*save it as CSV"):
        load(tmp_path / "table.xlsx")


def test_a_table_is_also_found_under_data_dir(tmp_path):
    (tmp_path / "table.csv").write_text("a,y\n" + "1,u\n2,v\n" * 4)
    assert load("table.csv", label_column="y", data_dir=tmp_path).name == "table"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ranking"}, "--task 'ranking': allowed are classification, regression"),
        ({"missing": "ignore"}, "--missing 'ignore': allowed are error, drop, impute"),
        ({"test_fraction": 0.0}, "test_fraction=0.0: allowed are numbers between 0 and 1"),
        ({"test_fraction": 1.0}, "test_fraction=1.0: allowed are numbers between 0 and 1"),
        ({"label_column": "y"}, "--label-column 'y' with --data 'digits': only CSV files have"),
        ({"task": "regression"}, "--task regression with --data 'digits': this is a classification"),
    ],
)
def test_an_argument_that_does_not_fit_says_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)
