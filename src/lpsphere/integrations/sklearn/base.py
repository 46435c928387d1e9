"""What the classifier and the regressor have in common: arguments, preparation of rows, fitting, going on."""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from lpsphere.integrations.sklearn.fitting import (
    History,
    Rows,
    Training,
    auto_batch_size,
    auto_epochs,
    new_network,
    put_masks,
)
from lpsphere.integrations.sklearn.importances import path_importances
from lpsphere.integrations.sklearn.tables import (
    check_columns,
    constant_columns,
    learn_scale,
    merged,
    standardised,
    weights_of,
)
from lpsphere.models import MLP
from lpsphere.neurons import select
from lpsphere.sparse import compact
from lpsphere.training.config import TrainConfig
from lpsphere.training.evaluation import outputs_of
from lpsphere.training.setup import method_settings
from lpsphere.training.threads import using_threads

__all__ = ["LpSphereEstimator"]

_COMPACT_FROM, _COMPACT_SPARSITY = 2**18, 0.8
"""From how many weights on, and from which sparsity, `compact` has been measured to pay for its own time."""

_ONLINE_STEPS, _ONLINE_FACTOR = 10_000, 0.25
"""How long connections move in `partial_fit`, and its learning rate relative to the peak."""

_ONLINE_REFUSED = "gmp"

_UPDATES = 30
"""Times that "semi-pruning" would look at the connections over the whole training, of which it does 60 %: on small
networks an update takes as long as ten steps."""


class LpSphereEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Arguments and attributes are described at the classifier and the regressor."""

    def __init__(
        self,
        hidden: Sequence[int] = (128, 128),
        *,
        sparsity: float = 0.9,
        p: float | Literal["auto"] = "auto",
        method: str = "semi-pruning",
        optimizer: str = "lpsgd",
        lr: float | None = None,
        other_lr: float | None = None,
        weight_decay: float = 0.01,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        schedule: str = "piecewise",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.sparsity = sparsity
        self.p = p
        self.method = method
        self.optimizer = optimizer
        self.lr = lr
        self.other_lr = other_lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # What differs between classes and numbers.

    @abstractmethod
    def _learn_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        """Set what stays fixed about the targets: the classes, or mean and standard deviation."""

    @abstractmethod
    def _targets(self, y: NDArray[Any]) -> Tensor:
        """What the network learns, from y as it was checked."""

    @abstractmethod
    def _outputs(self) -> int:
        """Outputs of the network."""

    @abstractmethod
    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row, shape (n,)."""

    @abstractmethod
    def _strata(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """What the validation rows are drawn in proportion to."""

    @abstractmethod
    def _checked(self, x: Any, y: Any, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Table and targets as scikit-learn wants them."""

    @abstractmethod
    def _other_lr(self, hidden: tuple[int, ...]) -> float:
        """Peak learning rate of what is not on a sphere, where none is given."""

    def _row_weights(self, y: NDArray[Any], sample_weight: Any, x: Any) -> NDArray[np.float64] | None:
        """The weight of each row, shape (n,); None: all alike."""
        return weights_of(sample_weight, x)

    # Fitting.

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803 - scikit-learn's name
        """Train a network anew, or with ``warm_start`` the one that there is.

        Args:
            X: Array, data frame or sparse matrix of numbers, shape (rows, features).
            y: Targets, shape (rows,).
            sample_weight: Weights of the rows, at least 0, shape (rows,); a row of weight 0 is left out.

        Returns:
            The estimator.

        Raises:
            TypeError, ValueError: If an argument or the data cannot be used; the message says what to do.
            FloatingPointError: If training diverges.
        """
        again = self.warm_start and hasattr(self, "model_")
        x, y = self._checked(X, y, reset=not again)
        config = self._config()
        self._seed = config.seed
        weights = self._row_weights(y, sample_weight, x)
        if weights is not None:
            kept = np.flatnonzero(weights)
            if not len(kept):
                raise ValueError("the weight of every row is 0: no row is left to learn from")
            x, y, weights = x[kept], y[kept], weights[kept]
        held: Any = None
        if self.early_stopping:
            train, test = self._split(y, config.seed)
            held = x[test], y[test], None if weights is None else weights[test]
            x, y, weights = x[train], y[train], None if weights is None else weights[train]
        x, y, weights = merged(x, y, weights)
        if not again:
            self._learn_targets(y, weights)
            self.scaler_ = StandardScaler()
            learn_scale(self.scaler_, x, weights)
        config = self._with_lengths(config, x.shape[0])
        rows = self._rows(x, y, weights)
        training = self._training(config, rows, again)
        score = None if held is None else self._scorer(training, *held)
        with using_threads(training.threads):
            history = training.fit(rows, score, self.n_iter_no_change, self._reporter(training))
        self.loss_curve_, self.n_iter_ = history.losses, len(history.losses)
        self.validation_scores_, self.best_validation_score_ = history.scores or None, history.best
        self._online: dict[str, Any] | None = None
        self._finish(training)
        self._compact()
        return self

    def _partial_fit(self, x: Any, y: NDArray[Any], sample_weight: Any, known: NDArray[Any] | None = None) -> Any:
        """One epoch over the rows given, which have been checked; ``known`` are all targets that there will be."""
        first = not hasattr(self, "model_")
        config = self._config()
        weights = self._row_weights(y, sample_weight, x)
        if first:
            self._learn_targets(y if known is None else known, weights)
            self.scaler_, self.loss_curve_, self.n_iter_, self._online = StandardScaler(), [], 0, None
            self._seed = config.seed
        learn_scale(self.scaler_, x, weights)
        config = replace(self._with_lengths(config, x.shape[0]), seed=self._seed)
        rows = self._rows(x, y, weights)
        training = self._online_training(config, rows, first)
        with using_threads(training.threads):
            loss = training.epoch(rows, self.n_iter_, lambda progress: _ONLINE_FACTOR)
        self.loss_curve_ = [*self.loss_curve_, loss]
        self.n_iter_ += 1
        self._online = {"method": training.config.method, **training.state_dict()}
        self._finish(training)
        return self

    def _config(self) -> TrainConfig:
        """The arguments as a configuration, which refuses what is out of range."""
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            least = 1 if name == "epochs" else 2
            if value != "auto" and (isinstance(value, bool) or not _plain_int(value) or value < least):
                raise ValueError(f'{name} must be "auto" or a whole number of at least {least}, got {value!r}')
        if not _plain_int(self.n_iter_no_change) or self.n_iter_no_change < 1:
            raise ValueError(f"n_iter_no_change must be a whole number of at least 1, got {self.n_iter_no_change!r}")
        names = ("hidden", "sparsity", "p", "method", "optimizer", "lr", "other_lr", "weight_decay", "schedule")
        settings: dict[str, Any] = {name: _plain(getattr(self, name)) for name in names}
        other_lr = settings.pop("other_lr")
        config = TrainConfig(**settings, seed=self._new_seed())
        if self.early_stopping and "end" in method_settings(config.method):
            config = replace(config, end=0.5)  # so that half of the epochs may be saved
        return replace(config, other_lr=self._other_lr(config.hidden) if other_lr is None else other_lr)

    def _new_seed(self) -> int:
        """From ``random_state``; None: from the operating system, since numpy's global generator is not ours."""
        if self.random_state is None:
            return int(np.random.default_rng().integers(2**31))
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _with_lengths(self, config: TrainConfig, rows: int) -> TrainConfig:
        """With the epochs and the batch size that suit so many rows."""
        if rows < 2:
            raise ValueError(f"training needs at least 2 rows, since batch norm compares them; got n_samples = {rows}")
        wanted = auto_batch_size(rows) if self.batch_size == "auto" else int(self.batch_size)
        steps = max(1, round(rows / wanted))
        batch_size = rows // steps if self.batch_size == "auto" else min(wanted, rows)
        epochs = auto_epochs(rows, rows // batch_size) if self.epochs == "auto" else int(self.epochs)
        return replace(config, batch_size=batch_size, epochs=epochs)

    def _rows(self, x: Any, y: NDArray[Any], weights: NDArray[np.float64] | None) -> Rows:
        weight = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
        return Rows(standardised(self.scaler_, x), self._targets(y), weight)

    def _training(self, config: TrainConfig, rows: Rows, again: bool) -> Training:
        """Of a new network, or on with the one that there is."""
        model = self.model_ if again else self._new_model(config)
        more: dict[str, Any] = {}
        if again and config.method != "dense":
            put_masks(model, self._masks)
            more["initial_sparsity"] = "keep"
        steps = config.epochs * (len(rows) // config.batch_size)
        if config.method == "semi-pruning":
            config = replace(config, every=max(1, steps // _UPDATES))
        return Training(_feasible(config, model), model, self._loss, steps, **more)

    def _online_training(self, config: TrainConfig, rows: Rows, first: bool) -> Training:
        """As it stood after the last call; after `fit` connections stay as they are."""
        if config.method == _ONLINE_REFUSED:
            raise ValueError(
                f'partial_fit does not know how long training will be, which method="{_ONLINE_REFUSED}" goes by: use '
                'fit, or method="semi-pruning", "rigl", "set", "static", "snip" or "dense"'
            )
        more: dict[str, Any] = {}
        if first:
            method, model = config.method, self._new_model(config)
            if method == "semi-pruning":  # whose sparsity would else climb towards an end that nobody knows
                more = {"initial_sparsity": config.sparsity}
        else:
            model, method = self.model_, "static" if self._masks else "dense"
            if self._online:
                method = self._online["method"]
            if method != "dense":
                put_masks(model, self._masks)
                more = {"initial_sparsity": "keep"}
        begin = 0.0 if method == "semi-pruning" else None
        sparsity = config.sparsity if first else self.sparsity_
        config = replace(config, method=method, begin=begin, end=None, sparsity=sparsity)
        training = Training(_feasible(config, model), model, self._loss, _ONLINE_STEPS, **more)
        if self._online:
            training.load_state_dict(self._online)
        return training

    def _new_model(self, config: TrainConfig) -> MLP:
        return new_network(self.n_features_in_, config.hidden, self._outputs(), config.seed)

    def _split(self, y: NDArray[Any], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to train with and rows for validation."""
        try:
            train, held = train_test_split(
                np.arange(len(y)), test_size=self.validation_fraction, random_state=seed, stratify=self._strata(y)
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping with validation_fraction={self.validation_fraction!r} cannot split {len(y)} rows: "
                f"{error}. Give more rows or another fraction, or early_stopping=False"
            ) from error
        return train, held

    def _scorer(
        self, training: Training, x: Any, y: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> Callable[[], float]:
        inputs = standardised(self.scaler_, x)
        return lambda: self._score_of(outputs_of(training.model, inputs), y, weights)

    @abstractmethod
    def _score_of(self, outputs: Tensor, y: NDArray[Any], weights: NDArray[np.float64] | None) -> float:
        """Accuracy or R^2 of the network's outputs."""

    def _reporter(self, training: Training) -> Callable[[History], None]:
        def report(history: History) -> None:
            if self.verbose:
                score = f"  validation score {history.scores[-1]:.4f}" if history.scores else ""
                sys.stdout.write(
                    f"epoch {len(history.losses)}/{training.config.epochs}  loss {history.losses[-1]:.4f}  "
                    f"sparsity {training.sparsity:.4f}{score}\n"
                )

        return report

    def _finish(self, training: Training) -> None:
        """Keep the network, plain."""
        self._masks, self.sparsity_ = training.masks, training.sparsity
        training.finish()
        self.model_ = training.model
        self._compacted: nn.Module | None = None

    def _compact(self) -> None:
        """Make a smaller network for predictions where that pays."""
        if _weights_of(self.model_) >= _COMPACT_FROM and self.sparsity_ >= _COMPACT_SPARSITY:
            example = torch.randn(2048, self.n_features_in_, generator=torch.Generator().manual_seed(0))
            self._compacted = compact(self.model_, example, tolerance=1e-4).model

    # Predicting.

    def _raw(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Outputs of the network, shape (rows, outputs)."""
        check_is_fitted(self)
        check_columns(X)
        x = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)
        model: nn.Module = self.model_
        rows = standardised(self.scaler_, x)
        if self._compacted is not None:
            model = self._compacted
        elif _weights_of(model) < _COMPACT_FROM:  # so that a row's prediction does not depend on the rows beside it
            model, rows = copy.deepcopy(model).double(), rows.double()
        found: NDArray[np.float64] = outputs_of(model, rows).double().numpy()
        return found

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """The strength of all paths of connections from each input to the outputs, as fractions; shape (features,).

        The sum of |w| over an input's connections to the first layer, each weighted by how strongly that neuron is
        connected to the outputs (`path_importances`). An input that was constant in training has none.
        """
        check_is_fitted(self)
        found = path_importances(self.model_)
        found[constant_columns(self.scaler_)] = 0
        return found / found.sum() if found.sum() > 0 else found

    def __sklearn_tags__(self) -> Any:
        """Sparse matrices are taken, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _feasible(config: TrainConfig, model: MLP) -> TrainConfig:
    """With neurons allowed to lose all their connections where there are not enough for all (small hidden layers)."""
    if config.method != "semi-pruning":
        return config
    layers = select(model)
    left = round(sum(layer.size for layer in layers) * (1 - config.sparsity))
    return replace(config, min_fan_in=0) if left < sum(layer.neurons for layer in layers) else config


def _weights_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _plain_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Python's own numbers in place of numpy's, which parameter searches give."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value
