"""Hoyer's sparsity, and what p makes of it under the gamma hypothesis (method, section 3).

Pure functions; nothing here knows of networks or optimizers. The hypothesis: the squared weights of a neuron are
independent Gamma variables of shape k = a (p - 1), so that their shares of the sum are symmetric Dirichlet(k).

Every function of p takes numbers or arrays: numbers give a float, arrays broadcast against each other and give an
array. They are accurate for fan_in from 2 to 1e9 and p from 1.0001 to 50: expectations to a relative 1e-10,
standard deviations to 1e-6. Other values are computed too, without that promise.
"""

from lpsphere.theory.arguments import GAMMA_SHAPE
from lpsphere.theory.fit import ShapeFit, fit_shape
from lpsphere.theory.laws import (
    expected_hoyer,
    hoyer,
    hoyer_std,
    p_for_hoyer,
    p_for_sparsity,
    threshold_for_sparsity,
    weak_fraction,
)
from lpsphere.theory.training import p_for_training

__all__ = [
    "GAMMA_SHAPE",
    "ShapeFit",
    "expected_hoyer",
    "fit_shape",
    "hoyer",
    "hoyer_std",
    "p_for_hoyer",
    "p_for_sparsity",
    "p_for_training",
    "threshold_for_sparsity",
    "weak_fraction",
]
