import dataclasses

import numpy as np
import pytest
import torch

from lpsphere.data import Dataset, holdout, load
from lpsphere.data.dataset import listing, split_rows, standardise


def regression_set(rows: int) -> Dataset:
    x, y = torch.randn(rows, 3), torch.randn(rows)
    return Dataset("r", "regression", x, y, x[:2], y[:2], (), ("a", "b", "c"), 5.0, 2.0)


def test_a_dataset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("wine").name = "other"


def test_outputs_are_the_classes_or_one_for_regression():
    assert load("wine").outputs == 3
    assert regression_set(8).outputs == 1
    assert regression_set(8).input_shape == (3,)


def test_holdout_cuts_the_training_part_and_leaves_the_test_part_out():
    data = load("digits")
    part = holdout(data, 0.2, seed=3)

    rows = {tuple(row) for row in data.x_train.tolist()}
    fit = {tuple(row) for row in part.x_train.tolist()}
    held = {tuple(row) for row in part.x_test.tolist()}
    assert fit | held == rows
    assert not fit & held
    assert len(part.x_train) + len(part.x_test) == len(data.x_train)
    assert not held & {tuple(row) for row in data.x_test.tolist()}


def test_holdout_is_stratified_and_repeatable():
    data = load("digits")
    part = holdout(data, 0.2, seed=3)
    shares = part.y_test.bincount() / len(part.y_test) - data.y_train.bincount() / len(data.y_train)
    assert shares.abs().max() < 0.005
    assert torch.equal(part.x_test, holdout(data, 0.2, seed=3).x_test)
    assert not torch.equal(part.x_test, holdout(data, 0.2, seed=4).x_test)


def test_holdout_keeps_features_and_targets_together():
    data = load("wine")
    part = holdout(data, 0.3, seed=0)
    for row, label in zip(part.x_test, part.y_test, strict=True):
        place = (data.x_train == row).all(dim=1).nonzero().item()
        assert data.y_train[place] == label


def test_holdout_of_regression_keeps_the_scale_of_the_target():
    part = holdout(regression_set(10), 0.3, seed=0)
    assert (len(part.y_train), len(part.y_test)) == (7, 3)
    assert (part.target_mean, part.target_std) == (5.0, 2.0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_holdout_refuses_a_fraction_outside_0_to_1(fraction):
    with pytest.raises(ValueError, match=r"^fraction=.*between 0 and 1, for example"):
        holdout(load("wine"), fraction, seed=0)


def test_a_split_that_cannot_hold_every_class_says_how_many_rows_there_are():
    with pytest.raises(ValueError, match="leaves 8 to train and 2 to test; each needs at least 3"):
        split_rows(np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]), "abc", 0.15, 0)


def test_a_split_without_two_rows_of_a_class_names_the_class():
    with pytest.raises(ValueError, match=r"fewer than 2 rows of class 'c'.*merge or remove"):
        split_rows(np.array([0] * 10 + [1] * 10 + [2]), "abc", 0.25, 0)


def test_a_split_that_leaves_a_class_untrained_is_refused():
    targets = np.array([0] * 98 + [1] * 2)

    def split_often():  # whether the class is left out depends on the seed
        for seed in range(50):
            split_rows(targets, "ab", 0.9, seed)

    with pytest.raises(ValueError, match=r"test_fraction=0.9 leaves no training row of 'b'.*smaller"):
        split_often()


def test_a_split_refuses_a_seed_that_is_out_of_range():
    with pytest.raises(ValueError, match=r"split_seed=-1: allowed are whole numbers from 0"):
        load("wine", split_seed=-1)


def test_a_constant_column_becomes_zero():
    train = np.array([[5.0, 1.0], [5.0, 3.0]])
    scaled, test = standardise(train, train, ["constant", "other"])
    np.testing.assert_array_equal(scaled, [[0.0, -1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(test, scaled)


def test_a_value_that_overflows_names_its_column():
    with pytest.raises(ValueError, match=r"too large for float32.* in 'b': give"):
        standardise(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[1.0, 1e300]]), ["a", "b"])


def test_a_long_listing_is_cut_and_counted():
    assert listing(["a", "b", "c"], limit=2) == "'a', 'b', ... (3 in all)"
    assert listing(["a", "b"], limit=2) == "'a', 'b'"
