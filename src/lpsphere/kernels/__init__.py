"""Compiled inner loops: here the products of sparse layers, which touch nothing but the connections that exist.

Knows arrays and index structures, nothing of modules, optimizers or masks. The loops are compiled by Numba when the
first product is taken, once for each float type (a few seconds), and kept in Numba's cache for later processes.
"""

from lpsphere.kernels.chain import ChainLayer, LayerChain
from lpsphere.kernels.index import ConnectionIndex
from lpsphere.kernels.products import multiply, multiply_transposed, sample

__all__ = ["ChainLayer", "ConnectionIndex", "LayerChain", "multiply", "multiply_transposed", "sample"]
