import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_classification
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lpsphere.integrations.sklearn import LpSphereClassifier, LpSphereRegressor
from lpsphere.integrations.sklearn.base import _COMPACT_FROM
from lpsphere.integrations.sklearn.fitting import auto_batch_size, auto_epochs
from lpsphere.topology import METHODS, SemiPruning

SMALL = {"hidden": (64, 32), "epochs": 30, "batch_size": 16, "random_state": 0}
QUICK = {"hidden": (32,), "sparsity": 0.5, "batch_size": 32, "epochs": 20}


def small(**settings):
    return LpSphereClassifier(**{**SMALL, **settings})


def small_regressor(**settings):
    return LpSphereRegressor(**{**SMALL, **settings})


@pytest.fixture(scope="module")
def wine():
    return load_wine(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(wine):
    return small().fit(*wine)


def coins(rows=400):
    """Two places, at each of which half of the rows are of class 1: only the weights tell what is likely."""
    return np.repeat([[-1.0, 1.0], [1.0, 1.0]], rows // 2, axis=0), np.tile([0, 1], rows // 2)


def connections(estimator):
    return sum(int(mask.sum()) for mask in estimator._masks.values())


@parametrize_with_checks([small(**QUICK), small_regressor(**QUICK)])
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LpSphereClassifier(), LpSphereRegressor()])
def test_scikit_learn_finds_nothing_wrong_with_the_defaults(estimator, check):
    check(estimator)


def test_the_package_does_not_import_the_integration():
    code = "import sys, lpsphere; print([name for name in sys.modules if name.startswith('lpsphere.integrations')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_the_sparsity_is_exactly_the_one_asked_for(wine, sparsity):
    x, y = wine
    estimator = small(sparsity=sparsity).fit(x, y)
    weights = 64 * x.shape[1] + 64 * 32
    assert connections(estimator) == round((1 - sparsity) * weights)
    assert estimator.sparsity_ == 1 - connections(estimator) / weights
    held = [(layer.linear.weight != 0).sum() for layer in estimator.model_.hidden]
    assert sum(held) <= connections(estimator)
    assert not [name for name in estimator.model_.state_dict() if "mask" in name]


@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_every_method_learns(wine, method):
    x, y = wine
    estimator = small(method=method, sparsity=0.8).fit(x, y)
    assert estimator.score(x, y) > 0.95
    assert estimator.sparsity_ == pytest.approx(0.0 if method == "dense" else 0.8, abs=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimizers_learn(wine, optimizer):
    assert small(optimizer=optimizer).fit(*wine).score(*wine) > 0.95


def test_a_fit_is_decided_by_random_state(wine):
    x, y = wine
    one, same, other = (small(random_state=seed).fit(x, y).predict_proba(x) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)
    rng = np.random.RandomState(3)
    first, second = (small(random_state=rng).fit(x, y).predict_proba(x) for _ in range(2))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("seed", [0, None])
def test_nobody_elses_random_numbers_or_threads_are_disturbed(wine, seed):
    x, y = wine
    before = torch.get_rng_state(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    small(random_state=seed, early_stopping=True).fit(x, y).predict(x)
    small_regressor(random_state=seed).partial_fit(x, y).predict(x)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert torch.get_num_threads() == before[2]


@pytest.mark.parametrize(("hidden", "expected"), [((32,), 1), ((3000, 3000), 2)])
def test_a_small_network_trains_with_one_thread_and_leaves_their_number_as_it_was(
    two_threads, monkeypatch, wine, hidden, expected
):
    seen = []
    loss = LpSphereClassifier._loss

    def watched(self, *arguments):
        seen.append(torch.get_num_threads())
        return loss(self, *arguments)

    monkeypatch.setattr(LpSphereClassifier, "_loss", watched)
    small(hidden=hidden, epochs=1).fit(*wine).partial_fit(*wine)
    assert set(seen) == {expected}
    assert torch.get_num_threads() == 2


def test_classes_may_be_texts(wine):
    x, y = wine
    names = np.array(["red", "rosé", "white"])[y]
    estimator = small().fit(x, names)
    assert list(estimator.classes_) == ["red", "rosé", "white"]
    assert estimator.score(x, names) > 0.95


def test_probabilities_and_their_logarithms_agree(wine, fitted):
    x, _ = wine
    probabilities = fitted.predict_proba(x)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.allclose(np.log(probabilities), fitted.predict_log_proba(x))
    assert np.array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(x))


def test_a_prediction_does_not_depend_on_the_rows_beside_it(wine, fitted):
    x, _ = wine
    one_by_one = np.concatenate([fitted.predict_proba(row) for row in x[:, None]])
    assert np.allclose(one_by_one, fitted.predict_proba(x), rtol=1e-10, atol=1e-12)


def test_weights_say_how_likely_a_class_is():
    x, y = coins()
    by_weight = small(label_smoothing=0).fit(x, y, sample_weight=np.where(y == 1, 3.0, 1.0)).predict_proba(x)[:, 1]
    again = np.repeat(np.arange(len(y)), np.where(y == 1, 3, 1))
    by_repetition = small(label_smoothing=0).fit(x[again], y[again]).predict_proba(x)[:, 1]
    assert np.allclose(by_weight, 0.75, atol=0.06)
    assert np.allclose(by_repetition, 0.75, atol=0.06)
    assert np.allclose(small(label_smoothing=0).fit(x, y).predict_proba(x)[:, 1], 0.5, atol=0.06)


def test_a_row_of_weight_0_is_as_if_it_were_not_there(wine):
    x, y = wine
    weights = np.ones(len(y))
    weights[::3] = 0
    disturbed = np.where(weights[:, None] == 0, 1e6, x)
    kept = weights > 0
    with_zeros, without = small().fit(disturbed, y, sample_weight=weights), small().fit(x[kept], y[kept])
    assert np.allclose(with_zeros.predict_proba(x), without.predict_proba(x), atol=1e-5)


def test_an_integer_weight_is_exactly_that_many_rows_where_few_are_distinct():
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal((40, 5)), rng.integers(0, 2, 40), rng.integers(0, 4, 40)
    again = rng.permutation(np.repeat(np.arange(40), weights))
    weighted, repeated = small().fit(x, y, sample_weight=weights), small().fit(x[again], y[again])
    assert np.array_equal(weighted.predict_proba(x), repeated.predict_proba(x))
    assert not np.allclose(weighted.predict_proba(x), small().fit(x, y).predict_proba(x), atol=1e-3)


def test_weights_move_the_mean_of_a_regression():
    x, y = coins()
    weighted = small_regressor(epochs=100).fit(x, y, sample_weight=np.where(y == 1, 3.0, 1.0))
    assert np.allclose(weighted.predict(x), 0.75, atol=0.06)


def test_class_weights_say_how_likely_a_class_is():
    x, y = coins()
    weighted = small(label_smoothing=0, class_weight={0: 1.0, 1: 3.0}).fit(x, y).predict_proba(x)[:, 1]
    assert np.allclose(weighted, 0.75, atol=0.06)
    rare = (y == 0) | (np.arange(len(y)) % 8 == 1)
    x, y = x[rare], y[rare]
    assert small(label_smoothing=0).fit(x, y).predict_proba(x)[:, 1].max() < 0.35
    assert np.allclose(
        small(label_smoothing=0, class_weight="balanced").fit(x, y).predict_proba(x)[:, 1], 0.5, atol=0.06
    )


def test_early_stopping_ends_early_with_the_best_weights_at_the_target():
    x, y = load_breast_cancer(return_X_y=True)
    estimator = small(epochs=100, batch_size=32, early_stopping=True, n_iter_no_change=5).fit(x, y)
    assert 50 < estimator.n_iter_ < 100
    assert len(estimator.validation_scores_) == len(estimator.loss_curve_) == estimator.n_iter_
    _, held = estimator._split(y, estimator._seed)
    assert estimator.score(x[held], y[held]) == estimator.best_validation_score_
    assert estimator.best_validation_score_ == max(estimator.validation_scores_[50:])
    assert estimator.sparsity_ == pytest.approx(0.9, abs=1e-3)


def test_early_stopping_of_a_regression_goes_by_r2():
    x, y = load_diabetes(return_X_y=True)
    estimator = small_regressor(early_stopping=True, validation_fraction=0.25).fit(x, y)
    _, held = estimator._split(y, estimator._seed)
    assert estimator.score(x[held], y[held]) == pytest.approx(estimator.best_validation_score_, abs=1e-5)


def test_partial_fit_learns_from_parts_and_goes_on_after_a_pickle():
    x, y = load_digits(return_X_y=True)
    estimator = small()
    for epoch in range(6):
        for part in np.array_split(np.random.default_rng(epoch).permutation(len(y)), 5):
            estimator.partial_fit(x[part], y[part], classes=np.arange(10))
            assert estimator.sparsity_ == pytest.approx(0.9, abs=1e-3)
    assert estimator.score(x, y) > 0.93
    copy = pickle.loads(pickle.dumps(estimator))
    before = {name: mask.clone() for name, mask in estimator._masks.items()}
    for one in (estimator, copy):
        for _ in range(3):
            one.partial_fit(x, y)
    assert np.array_equal(estimator.predict_proba(x), copy.predict_proba(x))
    assert any((before[name] != mask).any() for name, mask in estimator._masks.items())  # connections still move
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 33


def test_partial_fit_after_fit_keeps_the_connections(wine, fitted):
    x, y = wine
    estimator = pickle.loads(pickle.dumps(fitted))
    estimator.partial_fit(x, y)
    assert all(torch.equal(mask, fitted._masks[name]) for name, mask in estimator._masks.items())
    assert estimator.sparsity_ == fitted.sparsity_
    assert not np.array_equal(estimator.predict_proba(x), fitted.predict_proba(x))
    assert estimator.score(x, y) > 0.95


@pytest.mark.parametrize("method", ["set", "rigl", "snip", "static", "dense"])
def test_partial_fit_takes_the_other_methods(wine, method):
    x, y = wine
    estimator = small(method=method)
    for _ in range(20):
        estimator.partial_fit(x, y, classes=[0, 1, 2])
    assert estimator.score(x, y) > 0.9
    assert estimator.sparsity_ == pytest.approx(0.0 if method == "dense" else 0.9, abs=1e-3)


def test_partial_fit_of_a_regression(wine):
    x, y = load_diabetes(return_X_y=True)
    estimator = small_regressor()
    for _ in range(40):
        estimator.partial_fit(x, y)
    assert estimator.score(x, y) > 0.4


def test_warm_start_goes_on_from_the_connections_that_are_there(wine):
    x, y = wine
    estimator = small(epochs=10, warm_start=True, sparsity=0.8).fit(x, y)
    first = estimator.loss_curve_
    estimator.set_params(sparsity=0.9).fit(x, y)
    assert estimator.sparsity_ == pytest.approx(0.9, abs=1e-3)
    assert estimator.loss_curve_[0] < first[0] / 2


def test_a_pickle_predicts_the_same(wine, fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.predict_proba(wine[0]), fitted.predict_proba(wine[0]))
    assert not hasattr(clone(fitted), "model_")


def test_a_search_within_a_pipeline(wine):
    x, y = wine
    pipeline = make_pipeline(StandardScaler(), small(epochs=10))
    grid = {"lpsphereclassifier__sparsity": np.array([0.5, 0.9]), "lpsphereclassifier__hidden": [(16,), [32, 16]]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
    assert search.best_score_ > 0.9
    assert search.best_params_["lpsphereclassifier__sparsity"] in (0.5, 0.9)


def test_importances_point_to_the_informative_columns():
    x, y = make_classification(600, 30, n_informative=5, n_redundant=0, shuffle=False, class_sep=2.0, random_state=0)
    x[:, 7] = 3.0
    estimator = small(sparsity=0.95).fit(x, y)
    found = estimator.feature_importances_
    assert found.sum() == pytest.approx(1)
    assert found[:5].sum() > 0.5
    assert set(np.argsort(found)[-3:]) <= set(range(5))
    assert found[7] == 0
    changed = x.copy()
    changed[:, 7] = 1e9
    assert np.array_equal(estimator.predict_proba(x), estimator.predict_proba(changed))


def test_importances_count_paths(wine):
    estimator = small(hidden=(4,), sparsity=0.5, epochs=2).fit(*wine)
    layer = estimator.model_.hidden[0]
    gain = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
    paths = (estimator.model_.head.weight[:, :, None] * gain[:, None] * layer.linear.weight).abs().sum((0, 1))
    assert np.allclose(estimator.feature_importances_, (paths / paths.sum()).detach().numpy(), atol=1e-6)


def test_a_sparse_matrix_is_learnt_from_like_an_array(wine):
    x, y = wine
    x = np.where(x > np.median(x, axis=0), x, 0)
    dense, sparse = small().fit(x, y), small().fit(csr_matrix(x), y)
    assert np.allclose(dense.predict_proba(x), sparse.predict_proba(csr_matrix(x)), atol=1e-5)


def test_large_numbers_are_standardised_before_they_are_rounded(wine):
    x, y = wine
    plain, shifted = small().fit(x, y), small().fit(x + 1e8, y)
    assert shifted.score(x + 1e8, y) == pytest.approx(plain.score(x, y), abs=0.02)


def test_large_networks_predict_with_their_connections_alone(wine):
    x, y = wine
    estimator = small(hidden=(512, 512), epochs=2).fit(x, y)
    assert sum(weight.numel() for weight in estimator.model_.parameters()) > _COMPACT_FROM
    assert estimator._compacted is not None
    fast = estimator.predict_proba(x)
    assert np.array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(x), fast)
    estimator._compacted = None
    assert np.allclose(fast, estimator.predict_proba(x), atol=1e-4)


def test_a_single_row_many_times_teaches_its_class():
    estimator = small().fit(np.ones((10, 3)), np.full(10, "only"))
    assert list(estimator.predict([[2.0, 2.0, 2.0]])) == ["only"]


def test_a_small_hidden_layer_may_lose_neurons(wine):
    estimator = small(hidden=(20,), sparsity=0.97).fit(*wine)
    assert connections(estimator) == round(0.03 * 13 * 20) < 20


def test_data_frames_bring_names_and_refuse_categories():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green", "blue"], 200)
    frame = pandas.DataFrame({"size": rng.standard_normal(200), "colour": colour, "shape": pandas.Categorical(colour)})
    y = (colour == "red") ^ (frame["size"] > 1)
    with pytest.raises(ValueError, match=r"columns colour, shape hold .*OneHotEncoder.*\['colour', 'shape'\]"):
        small().fit(frame.assign(colour=frame["colour"].astype("string")), y)
    with pytest.raises(ValueError, match=r"columns colour, shape hold"):
        small().fit(frame, y)
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["colour"]), remainder="passthrough")
    model = make_pipeline(encoder, small()).fit(frame[["size", "colour"]], y)
    assert model.score(frame[["size", "colour"]], y) > 0.95
    numbers = frame[["size"]].assign(other=1.0)
    estimator = small().fit(numbers, y)
    assert list(estimator.feature_names_in_) == ["size", "other"]
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(numbers[["other", "size"]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\).*got 1"),
        ({"sparsity": "90 %"}, "sparsity must be a number, got '90 %'"),
        ({"method": "magic"}, "method must be one of .*semi-pruning.*got 'magic'"),
        ({"p": 0.9}, "greater than 1"),
        ({"hidden": ()}, "hidden must be a list of whole numbers"),
        ({"epochs": 0}, 'epochs must be "auto" or a whole number of at least 1, got 0'),
        ({"batch_size": 1}, 'batch_size must be "auto" or a whole number of at least 2, got 1'),
        ({"n_iter_no_change": 0.5}, "n_iter_no_change must be a whole number of at least 1, got 0.5"),
        ({"schedule": "linear"}, "schedule must be one of piecewise, cosine, constant; got 'linear'"),
        ({"early_stopping": True, "validation_fraction": 2.0}, "validation_fraction=2.0 cannot split 178 rows"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"random_state": "x"}, "cannot be used to seed"),
    ],
)
def test_wrong_settings_are_named(wine, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small(**settings).fit(*wine)


def test_wrong_data_are_named(wine, fitted):
    x, y = wine
    with pytest.raises(ValueError, match="weight of every row is 0"):
        small(class_weight=dict.fromkeys([0, 1, 2], 0.0)).fit(x, y)
    with pytest.raises(ValueError, match="needs all the classes"):
        small().partial_fit(x, y)
    with pytest.raises(ValueError, match="needs at least 2 rows"):
        small().partial_fit(x[:1], y[:1], classes=[0, 1, 2])
    with pytest.raises(ValueError, match='method="gmp"'):
        small(method="gmp").partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="cannot know the frequencies"):
        small(class_weight="balanced").partial_fit(x, y, classes=[0, 1, 2])
    estimator = small().partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"y holds \[7\].*known so far"):
        estimator.partial_fit(x, np.full(len(y), 7))
    with pytest.raises(ValueError, match="not those of the first call"):
        estimator.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match="expecting 13 features"):
        fitted.predict(x[:, :5])


def test_a_regression_beats_a_linear_one_where_the_truth_is_curved():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (1000, 10))
    y = 1e4 + 100 * (x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] + 0.1 * rng.standard_normal(1000))
    train, test, y_train, y_test = train_test_split(x, y, random_state=0)
    estimator = small_regressor(hidden=(128, 128), epochs=60, batch_size=32).fit(train, y_train)
    assert estimator.sparsity_ == pytest.approx(0.9, abs=1e-3)
    assert Ridge().fit(train, y_train).score(test, y_test) < 0.6
    assert estimator.score(test, y_test) > 0.85


def test_several_targets_at_once(wine):
    x, _ = load_diabetes(return_X_y=True)
    y = np.stack([x[:, 2], 1000 * x[:, 3]], axis=1)
    estimator = small_regressor(sparsity=0.5).fit(x, y)
    assert estimator.predict(x).shape == y.shape
    assert estimator.score(x, y) > 0.8


def test_progress_is_written_when_asked_for(wine, capsys):
    small(epochs=3, verbose=True, early_stopping=True).fit(*wine)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("epoch 3/3  loss ")
    assert "sparsity 0.9" in lines[-1]
    assert "validation score" in lines[-1]
    small(epochs=3).fit(*wine)
    assert capsys.readouterr().out == ""


def test_a_fit_looks_at_the_connections_a_few_times_only(wine, monkeypatch):
    updates = []
    update = SemiPruning._update
    monkeypatch.setattr(
        SemiPruning, "_update", lambda self, *args: (updates.append(self._step), update(self, *args))[1]
    )
    estimator = small(epochs=100).fit(*wine)
    assert 15 <= len(updates) <= 20
    assert estimator.sparsity_ == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(("rows", "least", "most"), [(100, 100, 100), (1000, 490, 510), (10**6, 9_500, 10_500)])
def test_large_tables_get_few_steps_a_row(rows, least, most):
    per_epoch = rows // auto_batch_size(rows)
    assert least <= auto_epochs(rows, per_epoch) * per_epoch <= most


@pytest.mark.slow
@pytest.mark.parametrize(("load", "least"), [(load_wine, 0.96), (load_breast_cancer, 0.96), (load_digits, 0.97)])
def test_the_defaults_are_good_for_small_tables(load, least):
    folds = StratifiedKFold(5, shuffle=True, random_state=1)
    assert cross_val_score(LpSphereClassifier(random_state=0), *load(return_X_y=True), cv=folds).mean() > least
