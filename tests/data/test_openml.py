import warnings
from http.client import IncompleteRead
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.utils import Bunch

from lpsphere.data.files import ContentError
from lpsphere.data.openml import Download, DownloadError, download


def table(data, categories=None):
    data = np.array(data, dtype=np.float64)
    return Download(data, np.array(["u"] * len(data)), [f"c{i}" for i in range(data.shape[1])], categories or {})


def test_the_data_set_is_asked_for_by_its_number_in_a_form_that_needs_no_pandas():
    asked = []

    def fetch(**options):
        asked.append(options)
        return Bunch(data=np.eye(2), target=np.array(["b", "a"], dtype=object), feature_names=["x", "y"], categories={})

    got = download(24, fetch)
    assert asked == [{"data_id": 24, "as_frame": False, "parser": "liac-arff", "n_retries": 1}]
    assert got.target.tolist() == ["b", "a"]
    assert got.names == ["x", "y"]


@pytest.mark.parametrize("error", [URLError("no route"), TimeoutError("late"), IncompleteRead(b""), ValueError("md5")])
def test_whatever_goes_wrong_with_a_download_is_one_kind_of_error(error):
    def fetch(**options):
        raise error

    with pytest.raises(DownloadError, match=type(error).__name__):
        download(24, fetch)


def test_nominal_numbers_are_read_by_their_spelling_not_by_their_place():
    got = table([[0, 0.5], [1, 1.5]], {"c0": ["1", "0"]})
    np.testing.assert_array_equal(got.numbers(), [[1, 0.5], [0, 1.5]])
    np.testing.assert_array_equal(got.data, [[0, 0.5], [1, 1.5]])


def test_nominal_text_has_a_stand_in_for_missing_values():
    got = table([[0, 1], [np.nan, 0]], {"c0": ["b", "c"], "c1": ["x", "y"]})
    assert got.text(missing="?").tolist() == [["b", "y"], ["?", "x"]]


@pytest.mark.parametrize(
    ("data", "categories", "message"),
    [
        ([[0.0]], {"c0": ["high"]}, "a column that is not numeric.*high"),
        ([[np.nan]], {"c0": ["1"]}, "missing or infinite"),
        ([[np.inf]], {}, "missing or infinite"),
    ],
)
def test_numbers_that_are_none_are_refused(data, categories, message):
    with pytest.raises(ContentError, match=message):
        table(data, categories).numbers()


def test_text_from_a_numeric_column_is_refused():
    with pytest.raises(ContentError, match="'c1' is not nominal"):
        table([[0, 1]], {"c0": ["b"]}).text(missing="?")


@pytest.mark.parametrize("value", [-1, 256, 0.5, 1e30])
def test_pixels_are_whole_numbers_from_0_to_255(value):
    assert table([[0, 255]]).pixels().tolist() == [[0, 255]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ContentError, match="whole numbers from 0 to 255"):
            table([[0, value]]).pixels()


def test_a_table_of_another_size_is_refused():
    table([[1, 2]]).require(1, [2, 3])
    with pytest.raises(ContentError, match="a table of 1 x 2 features, expected 1 x 3 or 4"):
        table([[1, 2]]).require(1, [3, 4])
    with pytest.raises(ContentError, match="expected 5 x 2"):
        table([[1, 2]]).require(5, [2])
    with pytest.raises(ContentError, match="1 labels for 2 rows"):
        Download(np.eye(2), np.array(["u"]), ["a", "b"], {}).require(2, [2])
