"""Batch normalisation that keeps the memory layout in which sparse layers pass activations on."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["FeatureMajorBatchNorm1d"]


class FeatureMajorBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` that is fast between `SparseLinear` layers: same arguments, results and state_dict.

    On the feature-major outputs of a sparse layer, ``nn.BatchNorm1d`` is several times slower than on others, above all
    backward, and the next layer has to copy what it returns. Here they are normalised as one sample with
    the batch as its length, which is the same sum, and stay as they are. Any other input is left to ``nn.BatchNorm1d``.

    Raises:
        ValueError: As ``nn.BatchNorm1d``.

    Shape:
        (batch, num_features) or (batch, num_features, length) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input, normalised over the batch."""
        if input.ndim != 2 or input.is_contiguous() or not input.t().is_contiguous():
            return super().forward(input)
        normalised: Tensor = super().forward(input.t().unsqueeze(0))
        return normalised.squeeze(0).t()
