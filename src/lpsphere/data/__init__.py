"""Benchmark data as tensors: data sets that are known by name, CSV tables and IDX image folders."""

from lpsphere.data.catalog import load
from lpsphere.data.dataset import Dataset, holdout

__all__ = ["Dataset", "holdout", "load"]
