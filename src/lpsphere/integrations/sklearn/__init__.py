"""Sparse networks for tables as scikit-learn estimators."""

from lpsphere.integrations.sklearn.classifier import LpSphereClassifier
from lpsphere.integrations.sklearn.regressor import LpSphereRegressor

__all__ = ["LpSphereClassifier", "LpSphereRegressor"]
