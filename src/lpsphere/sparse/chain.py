"""Sparse layers one after another as one module, which computes them in one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from lpsphere.sparse.direct import DirectRun, is_plain
from lpsphere.sparse.linear import SparseLinear

__all__ = ["SparseChain"]


class SparseChain(nn.Module):
    """Linear layers, each followed by a ReLU or not: y = relu(W_2 relu(W_1 x + b_1) + b_2), and so on.

    If all layers are `SparseLinear` in float32, or all in float64, without hooks, on the CPU, all of it is one compiled
    call, in which a tile of samples goes through all layers while it is in the cache. In training the way back is
    another, if everything learns. Elsewhere the layers are called one after another, with the same results but for
    rounding: with inputs of another type, in training with frozen weights or where the work is worth several threads
    (`torch.set_num_threads`), and at the steps at which a method grows connections by their gradients.
    `lpsphere.compact` makes chains where that is faster.

    Attributes:
        layers: ``nn.ModuleList`` of the layers; they may be exchanged, and change.
        relu: Whether a ReLU follows, for each.

    Args:
        layers: `SparseLinear` or ``nn.Linear``, at least one; each takes what the one before it returns.
        relu: Whether a ReLU follows, for each.

    Raises:
        TypeError: If a layer is none of these.
        ValueError: If there are none, they do not fit together, or ``relu`` has another length.

    Shape:
        (..., in_features of the first layer) -> (..., out_features of the last), any leading dimensions, none included.

    Example:
        >>> layers = SparseLinear(784, 300, sparsity=0.95), SparseLinear(300, 10, sparsity=0.9)
        >>> chain = SparseChain(layers, (True, False))
        >>> chain(torch.randn(8, 784)).shape
        torch.Size([8, 10])
    """

    layers: nn.ModuleList
    _direct: tuple[tuple[nn.Module, ...], DirectRun] | None = None
    """The layers that were there, and how they are run."""

    def __init__(self, layers: Sequence[nn.Module], relu: Sequence[bool]) -> None:
        super().__init__()
        for layer in layers:
            if not isinstance(layer, SparseLinear | nn.Linear):
                raise TypeError(f"a chain has SparseLinear and nn.Linear layers, got {type(layer).__name__}")
        if not layers or len(layers) != len(relu):
            raise ValueError(
                f"relu must have an entry for each of at least one layer, got {len(relu)} for {len(layers)}"
            )
        sizes = [(int(layer.in_features), int(layer.out_features)) for layer in layers]  # type: ignore[arg-type]
        for (_, given), (taken, _) in pairwise(sizes):
            if given != taken:
                raise ValueError(f"a layer takes {taken} features, but the one before it returns {given}")
        self.layers, self.relu = nn.ModuleList(layers), tuple(bool(follows) for follows in relu)

    def forward(self, input: Tensor) -> Tensor:
        """The last layer's output.

        Args:
            input: Shape (..., in_features).

        Returns:
            Shape (..., out_features), of the input's type.

        Raises:
            TypeError, ValueError: As `SparseLinear`.
        """
        result = self._in_one_call(input)
        if result is not None:
            return result
        for layer, follows in zip(self.layers, self.relu, strict=True):
            input = functional.relu(layer(input)) if follows else layer(input)
        return input

    def _in_one_call(self, input: Tensor) -> Tensor | None:
        """The output; None where the layers have to be called."""
        if not is_plain(input):
            return None
        layers = tuple(self._modules["layers"]._modules.values())  # type: ignore[union-attr]
        before = self._direct
        if before is None or before[0] != layers or not before[1].fits():
            self._direct = before = self._prepared(layers)
        if before is None or before[1].is_watched():
            return None
        run = before[1]
        if not run.wants_gradients(input):
            return run(input)
        return None if any(layer._factors is not None for layer in layers) else run.differentiable(input)

    def _prepared(self, layers: tuple[Any, ...]) -> tuple[tuple[nn.Module, ...], DirectRun] | None:
        if any(type(layer) is not SparseLinear for layer in layers) or not DirectRun.possible(layers):
            return None
        return layers, DirectRun(layers, self.relu, feature_major=False)

    def to_dense(self) -> nn.Sequential:
        """Layers of torch with the same outputs, under the same names: ``layers.0`` and so on."""
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (layer, follows) in enumerate(zip(self.layers, self.relu, strict=True)):
            modules[str(i)] = layer.to_dense() if isinstance(layer, SparseLinear) else layer
            if follows:
                modules[f"{i}_relu"] = nn.ReLU()
        return nn.Sequential(OrderedDict(layers=nn.Sequential(modules))).train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_direct": None}  # addresses of these tensors, not of a copy's

    def extra_repr(self) -> str:
        """Where a ReLU follows, for ``print``."""
        return f"relu={self.relu}"
