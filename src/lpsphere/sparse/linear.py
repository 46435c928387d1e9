"""A linear layer that holds only its connections: their weights, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lpsphere.kernels import ConnectionIndex
from lpsphere.neurons import NeuronLayout, NeuronWeight, SegmentLayout
from lpsphere.sparse.direct import DirectRun, is_plain
from lpsphere.sparse.product import sparse_product
from lpsphere.sparse.structure import (
    check_saved_structure,
    count_connections,
    draw_connections,
    order_connections,
    pointers_of,
)
from lpsphere.topology.masks import get_mask

__all__ = ["SparseLinear"]

_COMPUTED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
_STRUCTURE = ("row_pointers", "columns")


class SparseLinear(nn.Module):
    """A linear layer with some of its connections: y = W x + b, in time and memory proportional to their number.

    Computes on the CPU, in compiled loops, with the threads of ``torch.set_num_threads``. Every neuron starts with the
    same number of connections, within one, from features drawn at random; weights and biases start as those of
    ``nn.Linear`` with a neuron's own number of connections as its fan-in.

    **Types.** float64 is computed in float64, everything else in float32. float16 and bfloat16, of the input or of
    the weights, are converted to float32, and the output has the type of the input. ``torch.autocast`` changes
    nothing about that. The weights' gradients have the type of the weights.

    **Memory layout.** Outputs are *feature-major*: of shape (..., out_features), but with the values of one feature
    side by side in memory, as transposed views of contiguous arrays. Another `SparseLinear` takes them as they are; so
    do activation functions and other elementwise operations. ``nn.BatchNorm1d`` is slow on them: use
    `FeatureMajorBatchNorm1d`.

    **Changing the structure.** `set_structure` exchanges the connections; `load_state_dict` takes over those of the
    state. In both cases ``weight`` stays the same Parameter, with another shape, so that an optimizer keeps it; what
    state the optimizer has for it does not fit any more and must be cleared, which topology methods see to.

    **Training.** `lpsphere.neurons.select` finds the layer, so that `lpsphere.param_groups`, `lpsphere.LpSGD`,
    `lpsphere.summary` and the topology methods take it as they take ``nn.Linear``.

    Attributes:
        weight: Parameter of shape (connections,): neuron by neuron, by ascending feature. A connection whose weight
            is 0 exists.
        bias: Parameter of shape (out_features,), or None.
        row_pointers: int32 buffer of shape (out_features + 1,): those of neuron i are row_pointers[i] to
            row_pointers[i + 1].
        columns: int32 buffer of shape (connections,): the features they come from.

    Args:
        in_features: Number of input features.
        out_features: Number of neurons.
        sparsity: Share of the connections that do not exist, in [0, 1): exact, and at most 1 - 1/in_features, which
            leaves one to each neuron.
        bias: Whether neurons have a bias.
        seed: Where the connections and the first values come from; layers of one shape and seed are the same. None:
            torch's global generator, as for ``nn.Linear``.
        dtype: Type of the weights; None: torch's default.
        device: Where they are kept; None: torch's default. Only on the CPU can the layer compute.

    Raises:
        TypeError: If an argument is not of its type.
        ValueError: If a size or the sparsity is out of range.

    Shape:
        (..., in_features) -> (..., out_features), any leading dimensions, none included.

    Example:
        >>> layer = SparseLinear(1024, 512, sparsity=0.95)
        >>> layer.connections
        26214
        >>> layer(torch.randn(8, 1024)).shape
        torch.Size([8, 512])
    """

    in_features: int
    out_features: int
    weight: nn.Parameter
    bias: nn.Parameter | None
    row_pointers: Tensor
    columns: Tensor
    _factors: list[tuple[Tensor, Tensor]] | None = None
    """dY and X of the backward passes since the gradient was zeroed, while they are kept."""
    _direct: DirectRun | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sparsity: float,
        bias: bool = True,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_size("in_features", in_features)
        _check_size("out_features", out_features)
        if isinstance(seed, bool) or not isinstance(seed, int | None):
            raise TypeError(f"seed must be a whole number or None, got {seed!r}")
        dtype = _check_dtype(torch.get_default_dtype() if dtype is None else dtype)
        device = torch.get_default_device() if device is None else torch.device(device)
        connections = count_connections(in_features, out_features, sparsity)
        with torch.device("cpu"):
            generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
            pointers, columns = draw_connections(in_features, out_features, connections, generator)
            fan_ins = pointers.diff()
            reach = fan_ins.rsqrt()  # as in nn.Linear: uniform up to the inverse root of the fan-in
            values = torch.rand(connections, generator=generator).mul_(2).sub_(1)
            values *= reach.repeat_interleave(fan_ins)
            biases = (2 * torch.rand(out_features, generator=generator) - 1) * reach if bias else None
        self._set_up(
            in_features,
            pointers.to(device),
            columns.to(device),
            values.to(device, dtype),
            None if biases is None else biases.to(device, dtype),
        )

    def _set_up(self, in_features: int, pointers: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> None:
        self.in_features, self.out_features = in_features, pointers.numel() - 1
        self.weight = nn.Parameter(values)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self.register_buffer("row_pointers", pointers)
        self.register_buffer("columns", columns)
        self._indexed: tuple[ConnectionIndex, tuple[Tensor, int, Tensor, int]] | None = None

    @classmethod
    def from_dense(cls, linear: nn.Linear, mask: Tensor | None = None) -> SparseLinear:
        """The connections of a linear layer that exist: same outputs, type, device, and frozen or not as there.

        Args:
            linear: The layer; its weights are copied.
            mask: bool, shape (out_features, in_features), True where a connection exists. None: the mask that a
                topology method keeps beside the weight, if there is one, or else where the weight is not 0.

        Returns:
            The sparse layer.

        Raises:
            TypeError: If ``linear`` is no ``nn.Linear``, its type is not supported, or the mask is not a bool tensor.
            ValueError: If the mask has another shape.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"from_dense takes an nn.Linear, got {type(linear).__name__}")
        weight = linear.weight.detach()
        _check_dtype(weight.dtype)
        if mask is None:
            mask = get_mask(NeuronWeight("weight", linear, "weight", NeuronLayout()))
        if mask is None:
            mask = weight != 0
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask must be a bool tensor, got {given}: mask != 0 makes one")
        if mask.shape != weight.shape:
            raise ValueError(f"mask must have the weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
        mask = mask.to(weight.device)
        rows, columns = mask.nonzero(as_tuple=True)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._set_up(weight.shape[1], pointers_of(rows, weight.shape[0]), columns.int(), weight[mask], bias)
        layer.weight.requires_grad_(linear.weight.requires_grad)
        if layer.bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """An ``nn.Linear`` with the same outputs, on the same device, with zeros where there is no connection.

        Which of the connections have weight 0 cannot be seen in it: where that matters, keep `rows` and ``columns``.
        """
        linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.zero_()[self.rows.long(), self.columns.long()] = self.weight
            if self.bias is not None:
                linear.bias.copy_(self.bias)
                linear.bias.requires_grad_(self.bias.requires_grad)
        linear.weight.requires_grad_(self.weight.requires_grad)
        return linear.train(self.training)

    @property
    def connections(self) -> int:
        """Number of connections that exist."""
        return self.weight.numel()

    @property
    def sparsity(self) -> float:
        """1 - connections / weights of the dense layer."""
        return 1 - self.connections / (self.in_features * self.out_features)

    @property
    def rows(self) -> Tensor:
        """The neuron of each connection, int32, shape (connections,), ascending."""
        neurons = torch.arange(self.out_features, dtype=torch.int32, device=self.row_pointers.device)
        return neurons.repeat_interleave(self.row_pointers.diff())

    def neuron_rows(self, name: str) -> SegmentLayout | None:
        """Where the neurons lie in the parameter of that name."""
        return SegmentLayout(self) if name == "weight" else None

    def keep_factors(self, keep: bool) -> None:
        """Whether backward passes from now on keep dY and X, of which dY X' is the gradient of all weights.

        Methods that grow connections by it ask for them at the steps at which they do. Forgets what was kept.
        """
        self._factors = [] if keep else None

    def gradient_factors(self) -> tuple[Tensor, Tensor] | None:
        """dY, shape (out_features, samples), and X, shape (in_features, samples), of all samples in ``weight.grad``.

        None if they were not kept.
        """
        if not self._factors:
            return None
        if len(self._factors) == 1:
            return self._factors[0]
        dys, xs = zip(*self._factors, strict=True)
        return torch.cat(dys, 1), torch.cat(xs, 1)

    def forget_index(self) -> None:
        """Free what the products need beside the buffers, as much memory as twice the weights; made again at need."""
        self._indexed, self._direct = None, None

    @torch.no_grad()
    def set_structure(self, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        """Replace the connections, in place: ``weight`` stays the same Parameter; its gradient is discarded.

        Args:
            rows: Neurons, integers of shape (connections,), in any order.
            columns: The features that the connections come from, likewise.
            values: Their weights, shape (connections,), floating-point.

        Returns:
            The order in which they are kept, int64 of shape (connections,): ``weight`` is ``values[order]``. State of
            an optimizer is to be put in the same order.

        Raises:
            TypeError: If an argument is not a tensor of its type.
            ValueError: If they are not of one length, out of range, or name a connection twice.
        """
        if not isinstance(values, Tensor) or not values.is_floating_point():
            given = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"values must be a floating-point tensor, got {given}")
        rows, columns, order = order_connections(rows, columns, self.in_features, self.out_features)
        if values.shape != rows.shape:
            raise ValueError(
                f"values must have one weight a connection, shape {tuple(rows.shape)}, got {tuple(values.shape)}"
            )
        values = values.clone() if order is None else values[order.to(values.device)]
        pointers = pointers_of(rows, self.out_features)
        self._resize(len(values))
        self.forget_index()
        self.weight.copy_(values)
        self.row_pointers.copy_(pointers)
        self.columns.copy_(columns)
        return torch.arange(len(values), device=rows.device) if order is None else order

    def _resize(self, connections: int) -> None:
        """Room for so many connections in the same Parameter; what is in it is undefined."""
        self.weight.grad, self._direct = None, None
        if connections != self.connections:
            self.weight.data = self.weight.data.new_empty(connections)
            self.columns = self.columns.new_empty(connections)

    def forward(self, input: Tensor) -> Tensor:
        """W x + b.

        Args:
            input: Shape (..., in_features), on the CPU.

        Returns:
            Shape (..., out_features), feature-major, of the input's type.

        Raises:
            TypeError: If the input's type is not supported, or only one of input and weights is float64.
            ValueError: If its last dimension is not in_features, or it or the layer is not on the CPU.
        """
        result = self._without_gradient(input)
        if result is not None:
            return result
        weight, bias = self.weight, self.bias
        kind = self._check_input(input, weight)
        x = _in_type(input, kind)
        x = x if x.ndim == 2 else x.reshape(math.prod(input.shape[:-1]), self.in_features)
        if self._factors is not None:
            x = x.t().contiguous().t()  # one copy for the product and the factors
        y = sparse_product(self._index(), x, _in_type(weight, kind), None if bias is None else _in_type(bias, kind))
        if self._factors is not None and y.requires_grad and weight.requires_grad:
            self._keep_factors_of(y, x.detach().t())
        return _in_type(y if input.ndim == 2 else y.reshape(*input.shape[:-1], self.out_features), input.dtype)

    def _without_gradient(self, input: Tensor) -> Tensor | None:
        """The output where no gradient is wanted and no type is to be converted; None elsewhere."""
        if not is_plain(input) or (input.requires_grad and torch.is_grad_enabled()):
            return None
        run = self._direct
        if run is None or not run.fits():
            run = DirectRun((self,), (False,), feature_major=True) if DirectRun.possible((self,)) else None
            self._direct = run
        return None if run is None or run.wants_gradients(input) else run(input)

    def _keep_factors_of(self, y: Tensor, x: Tensor) -> None:
        if self._factors and (self.weight.grad is None or not self.weight.grad.any()):
            self._factors.clear()  # they are of gradients that were zeroed since, such as those of a skipped step

        def keep(dy: Tensor) -> None:
            if self._factors is not None:
                self._factors.append((dy.detach().t().contiguous(), x))

        y.register_hook(keep)  # type: ignore[no-untyped-call]

    def _check_input(self, input: Tensor, weight: Tensor) -> torch.dtype:
        """The type to compute in."""
        if not (input.is_cpu and weight.is_cpu):
            what, device = ("layer", weight.device) if input.is_cpu else ("input", input.device)
            raise ValueError(
                f"SparseLinear computes on the CPU, but its {what} is on {device}: move it with .cpu(), or use "
                "layer.to_dense(), an nn.Linear with the same outputs, on other devices"
            )
        if input.ndim < 1 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"the input must have shape (..., in_features) = (..., {self.in_features}), got {tuple(input.shape)}"
            )
        kind = _COMPUTED.get(input.dtype)
        if kind is None or kind != _COMPUTED.get(weight.dtype):
            raise TypeError(
                f"the input is {input.dtype} and the weights are {weight.dtype}: both must be float64, or both of "
                "float32, bfloat16 and float16. Convert the input with .to(layer.weight.dtype)"
            )
        return kind

    def _index(self) -> ConnectionIndex:
        """The connections as the kernels take them, checked again whenever the buffers have changed."""
        pointers, columns = self.row_pointers, self.columns
        state = (pointers, _version(pointers), columns, _version(columns))
        if self._indexed is not None:
            index, before = self._indexed
            if state[0] is before[0] and state[2] is before[2] and state[1::2] == before[1::2]:
                return index
        index = ConnectionIndex(pointers.numpy(), columns.numpy(), self.in_features)
        self._indexed = index, state
        return index

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = ("weight", *_STRUCTURE)
        given: Mapping[str, Any] = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        if given:
            problem = check_saved_structure(given, self.in_features, self.out_features)
            if problem is not None:
                error_msgs.append(f"{prefix.rstrip('.') or 'the layer'} is a SparseLinear: {problem}")
                return
            for name in _STRUCTURE:
                state_dict[prefix + name] = given[name].int()
            self._resize(given["weight"].numel())
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def __getstate__(self) -> dict[str, Any]:
        # arrays that share memory with these buffers, not with a copy's; and a copy has no method that asks for factors
        return {**self.__dict__, "_indexed": None, "_factors": None, "_direct": None}

    def extra_repr(self) -> str:
        """Sizes, connections and sparsity, for ``print``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, connections={self.connections}, "
            f"sparsity={self.sparsity:.4g}, bias={self.bias is not None}"
        )


def _check_size(name: str, size: object) -> None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be a whole number of at least 1, got {size!r}")
    if not 1 <= size < 2**31:
        raise ValueError(f"{name} must be from 1 to {2**31 - 1}, got {size}")


def _check_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in _COMPUTED:
        raise TypeError(f"weights must be float32, float64, bfloat16 or float16, got {dtype}")
    return dtype


def _version(buffer: Tensor) -> int:
    """Counts the changes of a tensor in place, where torch counts them."""
    return 0 if buffer.is_inference() else buffer._version


def _in_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
