"""Layers that hold only their connections, and compute with nothing else; trained models made smaller, and exported."""

from lpsphere.sparse.chain import SparseChain
from lpsphere.sparse.compact import compact
from lpsphere.sparse.compaction import Compacted, CompactionReport, LayerCompaction
from lpsphere.sparse.convert import sparsify
from lpsphere.sparse.export import Exported, export, load_export
from lpsphere.sparse.linear import SparseLinear
from lpsphere.sparse.normalization import FeatureMajorBatchNorm1d

__all__ = [
    "Compacted",
    "CompactionReport",
    "Exported",
    "FeatureMajorBatchNorm1d",
    "LayerCompaction",
    "SparseChain",
    "SparseLinear",
    "compact",
    "export",
    "load_export",
    "sparsify",
]
