"""The multilayer perceptron, for tables and small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lpsphere.models.arguments import fraction, size, sizes


class MLP(nn.Module):
    """Flatten -> [Linear -> BatchNorm1d -> ReLU -> Dropout] for each hidden layer -> Linear.

    The network of the UCI experiments (method, section 5). Hidden layers are ``hidden.0.linear``,
    ``hidden.0.norm``, ...; the output layer is ``head``. Initialisation is torch's own, from its global
    generator.

    Args:
        in_features: Values in one sample, after flattening.
        hidden: Neurons of each hidden layer; may be empty (a linear model).
        out_features: Outputs: number of classes, or 1 for regression.
        norm: Batch normalisation after each hidden Linear, which then has no bias.
        dropout: Chance of each hidden output to be left out in training, in [0, 1); 0: there is no such layer.

    Raises:
        TypeError: A size is not an int, ``hidden`` is not a sequence of ints, ``norm`` not a bool or ``dropout`` no
            number.
        ValueError: A size is less than 1, or ``dropout`` outside [0, 1).

    Shape:
        (n, ...) with ``in_features`` values in each sample -> (n, out_features).
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (256, 256),
        out_features: int = 10,
        *,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(norm, bool):
            raise TypeError(f"norm={norm!r}: give True or False")
        self.in_features = size("in_features", in_features)
        self.widths = sizes("hidden", hidden)
        self.out_features = size("out_features", out_features)
        self.norm, self.dropout = norm, fraction("dropout", dropout)
        fan_ins = (self.in_features, *self.widths)
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential(
            *(_layer(fan_in, width, norm, dropout) for fan_in, width in zip(fan_ins, self.widths, strict=False))
        )
        self.head = nn.Linear(fan_ins[-1], self.out_features)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `lpsphere.models.build` makes the same architecture."""
        return {
            "kind": "mlp",
            "in_features": self.in_features,
            "hidden": list(self.widths),
            "out_features": self.out_features,
            "norm": self.norm,
            "dropout": self.dropout,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, out_features), before any softmax, for samples x (n, ...)."""
        outputs: Tensor = self.head(self.hidden(self.flatten(x)))
        return outputs


def _layer(fan_in: int, width: int, norm: bool, dropout: float) -> nn.Sequential:
    modules: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(fan_in, width, bias=not norm))
    if norm:
        modules["norm"] = nn.BatchNorm1d(width)
    modules["relu"] = nn.ReLU()
    if dropout:
        modules["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(modules)
