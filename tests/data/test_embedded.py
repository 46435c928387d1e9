import pytest
import torch
from sklearn.datasets import load_digits

from lpsphere.data import load
from lpsphere.data.embedded import load_embedded


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("digits", 1797, 64, 10), ("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3)],
)
def test_each_embedded_set_has_its_known_size(name, rows, features, classes):
    data = load(name)
    assert len(data.x_train) + len(data.x_test) == rows
    assert data.input_shape == (features,)
    assert len(data.features) == features
    assert data.outputs == classes
    assert (data.name, data.task) == (name, "classification")
    assert data.x_train.dtype == data.x_test.dtype == torch.float32
    assert data.y_train.dtype == data.y_test.dtype == torch.int64


def test_digits_is_the_default_and_its_constant_pixels_are_zero():
    data = load()
    assert data.name == "digits"
    deviation, mean = torch.std_mean(data.x_train, dim=0, correction=0)
    constant = data.x_train.abs().amax(dim=0) == 0
    assert constant.any()
    assert mean.abs().max() < 1e-5
    torch.testing.assert_close(deviation[~constant], torch.ones(int((~constant).sum())))
    assert data.x_test.isfinite().all()


def test_the_test_part_is_scaled_by_the_training_part():
    data, raw = load("digits"), load_digits()
    counted = data.x_train.abs().amax(dim=0) > 0
    # the same affine map must turn the raw rows into the training and the test rows
    pixels = torch.from_numpy(raw.data).float()
    both = torch.cat([data.x_train, data.x_test])[:, counted]
    raw_low, raw_high = pixels[:, counted].aminmax(dim=0)
    low, high = both.aminmax(dim=0)
    slope = (high - low) / (raw_high - raw_low)
    rebuilt = (both - low) / slope + raw_low
    assert {tuple(row) for row in rebuilt.round().long().tolist()} == {
        tuple(row) for row in pixels[:, counted].long().tolist()
    }
    assert data.x_test.mean(dim=0).abs().max() > 0.01  # it has not been centred by itself


def test_the_split_is_stratified_and_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = load("digits", split_seed=5)
    torch.manual_seed(2)
    second = load("digits", split_seed=5)
    assert torch.equal(first.x_train, second.x_train)
    assert torch.equal(first.y_test, second.y_test)
    assert not torch.equal(first.y_test, load("digits", split_seed=6).y_test)
    shares = first.y_test.bincount() / len(first.y_test) - first.y_train.bincount() / len(first.y_train)
    assert shares.abs().max() < 0.005


def test_the_test_fraction_is_honoured():
    assert len(load("digits", test_fraction=0.1).x_test) == 180


def test_an_unknown_embedded_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'iris': allowed are digits, breast_cancer, wine"):
        load_embedded("iris", 0.25, 0)
