"""Layers that hold only their connections, and compute with nothing else."""

from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.normalization import FeatureMajorBatchNorm1d

__all__ = ["FeatureMajorBatchNorm1d", "SparseLinear"]
