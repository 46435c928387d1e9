"""A sparse network as a scikit-learn regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import validate_data
from torch import Tensor, from_numpy

from lpsphere.integrations.sklearn.base import LpSphereEstimator
from lpsphere.integrations.sklearn.tables import check_columns

__all__ = ["LpSphereRegressor"]


class LpSphereRegressor(RegressorMixin, LpSphereEstimator):  # type: ignore[misc]
    """A multilayer perceptron with few connections that predicts one number or several for each row of a table.

    Columns and targets are standardised inside, constant columns are ignored; categories are for a ``OneHotEncoder``
    before it. The network is `lpsphere.models.MLP` with batch norm, trained on the mean squared error.

    Args:
        hidden, sparsity, p, method, optimizer, lr, weight_decay, epochs, batch_size, schedule, warm_start,
            random_state, verbose: As for `LpSphereClassifier`.
        other_lr: The same; None: 1 / (neurons of the last hidden layer), at most 0.1.
        early_stopping, validation_fraction, n_iter_no_change: The same, by R^2 on the validation rows.

    Attributes:
        model_: The network (torch), in evaluation mode, from standardised inputs to standardised targets.
        scaler_, sparsity_, feature_importances_, loss_curve_, n_iter_, validation_scores_, best_validation_score_,
            n_features_in_, feature_names_in_: As of `LpSphereClassifier`.

    Example:
        >>> regressor = LpSphereRegressor(random_state=0).fit(x, y)
        >>> regressor.predict(x).shape, regressor.score(x, y)
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LpSphereRegressor:  # noqa: N803
        """One epoch over the rows given, at a quarter of the peak learning rate.

        As of `LpSphereClassifier`. The scale of the targets is that of the first call.

        Args:
            X: Table of numbers, shape (rows, features).
            y: Targets, shape (rows,) or (rows, outputs).
            sample_weight: Weights of the rows, shape (rows,).

        Returns:
            The regressor.

        Raises:
            TypeError, ValueError: As `fit`, or for method "gmp".
        """
        x, y = self._checked(X, y, reset=not hasattr(self, "model_"))
        self._partial_fit(x, y, sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The targets, shape (rows,), or (rows, outputs) if y had two dimensions."""
        found = self._raw(X) * self._std + self._mean
        return found if self._several else found[:, 0]

    def _checked(self, x: Any, y: Any, reset: bool) -> tuple[Any, NDArray[Any]]:
        check_columns(x)
        x, y = validate_data(
            self,
            x,
            y,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            multi_output=True,
            y_numeric=True,
            reset=reset,
        )
        return x, y.astype(np.float64)

    def _learn_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        self._several = y.ndim == 2
        self._mean = np.average(y, axis=0, weights=weights)
        std = np.sqrt(np.average((y - self._mean) ** 2, axis=0, weights=weights))
        self._std = np.where(std > 10 * np.finfo(np.float64).eps * np.abs(self._mean), std, 1.0)

    def _targets(self, y: NDArray[Any]) -> Tensor:
        if (y.ndim == 2) != self._several or (self._several and y.shape[1] != len(self._mean)):
            raise ValueError(f"y has shape {y.shape}, unlike that of the first call: give the same number of targets")
        scaled = ((y - self._mean) / self._std).astype(np.float32)
        return from_numpy(scaled if self._several else scaled[:, None])

    def _outputs(self) -> int:
        return len(self._mean) if self._several else 1

    def _other_lr(self, hidden: tuple[int, ...]) -> float:
        return min(0.1, 1 / hidden[-1])  # the loss curves in proportion to the width of the layer before

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    def _strata(self, y: NDArray[Any]) -> None:
        return None

    def _score_of(self, outputs: Tensor, y: NDArray[Any], weights: NDArray[np.float64] | None) -> float:
        found = outputs.double().numpy() * self._std + self._mean
        return float(r2_score(y, found if self._several else found[:, 0], sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        """Several targets are taken, too."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
