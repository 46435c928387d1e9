"""A sparse network as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor, from_numpy
from torch.nn import functional

from lpsphere.integrations.sklearn.base import LpSphereEstimator
from lpsphere.integrations.sklearn.tables import check_columns
from lpsphere.training.config import TrainConfig

__all__ = ["LpSphereClassifier"]


class LpSphereClassifier(ClassifierMixin, LpSphereEstimator):  # type: ignore[misc]
    """A multilayer perceptron with few connections, for tables of numbers.

    Columns are standardised inside, constant ones are ignored; categories are for a ``OneHotEncoder`` before it. The
    network is `lpsphere.models.MLP` with batch norm, trained on the cross-entropy.

    Args:
        hidden: Neurons of each hidden layer.
        sparsity: Fraction of the hidden layers' connections that are gone at the end, in [0, 1).
        p: Exponent of the spheres that neurons live on, greater than 1, or "auto": what suits the sparsity.
        method: What decides which connections exist: "semi-pruning", "set", "rigl", "gmp", "snip", "static" or "dense".
        optimizer: "lpsgd", or "sgd" or "adamw" without spheres.
        lr: Peak learning rate: of the weights on spheres for "lpsgd", of all otherwise. None: 0.01 for "lpsgd", 0.1 for
            "sgd", 0.001 for "adamw".
        other_lr: Peak learning rate of what is not on a sphere ("lpsgd"): output layer and batch norms. None: 0.1.
        weight_decay: Weight decay of what is not on a sphere.
        label_smoothing: Of the cross-entropy, in [0, 1); it draws probabilities together. With 0 small tables are
            learnt by heart, with probabilities of 0 and 1.
        epochs: Passes over the rows; "auto": as many as make rows / 2 steps, at most about 100 rows^(1/3) and at least
            100.
        batch_size: Rows of a step, at least 2; "auto": a thirty-second of them, between 64 and 1,024.
        schedule: Learning rate over training: "piecewise", "cosine" or "constant".
        class_weight: Weights of the classes, by class; "balanced": inversely to their frequencies; None: 1.
        early_stopping: Keep a part of the rows aside, stop when the accuracy there rises no more, and put the best
            weights back. Connections then settle after half of the epochs, and no epoch counts before.
        validation_fraction: That part, a fraction or a number of rows.
        n_iter_no_change: Epochs without a better accuracy after which to stop.
        warm_start: `fit` goes on with the network, its classes and scales that are there, from the connections it has.
        random_state: Seed, or numpy generator, of all that is random; None: another one each time.
        verbose: Write a line for each epoch.

    Attributes:
        classes_: The classes, sorted.
        model_: The network (torch), in evaluation mode, for standardised inputs.
        scaler_: Means and variances of the columns.
        sparsity_: Fraction of the hidden layers' connections that do not exist.
        feature_importances_: The strength of each input's paths to the outputs, with sum 1.
        loss_curve_: Mean training loss of each epoch.
        n_iter_: Epochs.
        validation_scores_, best_validation_score_: With early stopping: the accuracy on the validation rows after each
            epoch, and that of the weights that were kept; else None.
        n_features_in_, feature_names_in_: Columns of X, and their names if it was a data frame.

    Example:
        >>> classifier = LpSphereClassifier(sparsity=0.9, random_state=0).fit(x, y)
        >>> classifier.predict_proba(x).shape, classifier.sparsity_
    """

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
        label_smoothing: float = 0.1,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        schedule: str = "piecewise",
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden,
            sparsity=sparsity,
            p=p,
            method=method,
            optimizer=optimizer,
            lr=lr,
            other_lr=other_lr,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=batch_size,
            schedule=schedule,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> LpSphereClassifier:
        """One epoch over the rows given, at a quarter of the peak learning rate.

        A new network starts with random connections at the sparsity wanted, which move during its first 10,000 steps
        ("static" and "snip": not); after `fit` connections stay. The scale of the columns is learnt on from every call.

        Args:
            X: Table of numbers, shape (rows, features).
            y: Classes, shape (rows,).
            classes: All classes there will be; needed in the first call.
            sample_weight: Weights of the rows, shape (rows,).

        Returns:
            The classifier.

        Raises:
            TypeError, ValueError: As `fit`, if a class is unknown, or for method "gmp" and class_weight "balanced".
        """
        if self.class_weight == "balanced":
            raise ValueError(
                'partial_fit cannot know the frequencies that class_weight="balanced" goes by: give a weight for each '
                "class, such as class_weight={0: 1.0, 1: 5.0}"
            )
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError(
                "the first call of partial_fit needs all the classes that there will be: classes=np.unique(y)"
            )
        x, y = self._checked(X, y, reset=first)
        if classes is not None:
            classes = np.unique(column_or_1d(classes))
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(f"classes={classes} are not those of the first call, {self.classes_}")
        self._partial_fit(x, y, sample_weight, classes)
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The most probable class of each row, shape (rows,)."""
        found = self._raw(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[found]
        return classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The probability of each class, in the order of ``classes_``; shape (rows, classes)."""
        probabilities: NDArray[np.float64] = softmax(self._raw(X), axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The natural logarithms of the probabilities, shape (rows, classes)."""
        logs: NDArray[np.float64] = log_softmax(self._raw(X), axis=1)
        return logs

    def _config(self) -> TrainConfig:
        return replace(super()._config(), label_smoothing=self.label_smoothing)

    def _checked(self, x: Any, y: Any, reset: bool) -> tuple[Any, NDArray[Any]]:
        check_columns(x)
        x, y = validate_data(self, x, y, accept_sparse="csr", dtype=(np.float64, np.float32), reset=reset)
        check_classification_targets(y)
        return x, y

    def _learn_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        self.classes_ = np.unique(y)

    def _targets(self, y: NDArray[Any]) -> Tensor:
        indices = np.searchsorted(self.classes_, y)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y holds {unknown[:5]}, which are not among the classes {self.classes_} known so far")
        return from_numpy(indices.astype(np.int64))

    def _outputs(self) -> int:
        return len(self.classes_)

    def _other_lr(self, hidden: tuple[int, ...]) -> float:
        return 0.1

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing, reduction="none")

    def _strata(self, y: NDArray[Any]) -> NDArray[Any]:
        return y

    def _score_of(self, outputs: Tensor, y: NDArray[Any], weights: NDArray[np.float64] | None) -> float:
        return float(accuracy_score(y, self.classes_[outputs.argmax(1).numpy()], sample_weight=weights))

    def _row_weights(self, y: NDArray[Any], sample_weight: Any, x: Any) -> NDArray[np.float64] | None:
        weights = super()._row_weights(y, sample_weight, x)
        if self.class_weight is None:
            return weights
        of_class: NDArray[np.float64] = compute_sample_weight(self.class_weight, y)
        return of_class if weights is None else weights * of_class
