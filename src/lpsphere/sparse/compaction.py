"""What `compact` did, as values and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from lpsphere.text import cell, table

__all__ = ["Compacted", "CompactionReport", "LayerCompaction"]


@dataclass(frozen=True)
class LayerCompaction:
    """One Linear or convolution.

    Attributes:
        name: Its name in the model.
        before: Shape of its weight in the given model.
        after: The same in the compacted one; what is missing was dead.
        connections: Its weights that are not 0, in the compacted model.
        form: "dense", or "sparse": a `SparseLinear`.
        norms: Names of the batch norms whose work it does now.
        joined: Name of the `SparseChain` that computes it together with others; "" if none does.
        microseconds_before: Measured time of one call on the example; None: the example does not reach it.
        microseconds_after: The same in the compacted model. Of joined layers the first has the time of all.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    connections: int
    form: str
    norms: tuple[str, ...]
    joined: str
    microseconds_before: float | None
    microseconds_after: float | None


@dataclass(frozen=True)
class CompactionReport:
    """What was done to each layer and what came of it; ``print`` shows a table.

    Attributes:
        goal: "speed" or "size".
        layers: One entry a Linear or convolution.
        microseconds_before: Measured time of the whole model on the example.
        microseconds_after: The same of the compacted model, measured in turn with it.
        bytes_before: Parameters and buffers in memory, without the masks.
        bytes_after: The same of the compacted model.
        difference: Largest absolute difference between the outputs for the example.
        note: Why the structure was left as it is and only layers were exchanged; "" if it was not.
    """

    goal: str
    layers: tuple[LayerCompaction, ...]
    microseconds_before: float
    microseconds_after: float
    bytes_before: int
    bytes_after: int
    difference: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A table, one line a layer, and the totals."""
        header = ("layer", "weight", "now", "connections", "form", "batch norm", "us before", "us after")
        rows = [
            (
                layer.name or "(the model)",
                " x ".join(map(str, layer.before)),
                " x ".join(map(str, layer.after)),
                f"{layer.connections:,}",
                f"{layer.form} in {layer.joined}" if layer.joined else layer.form,
                ", ".join(layer.norms) or "-",
                cell(layer.microseconds_before, ",.1f"),
                cell(layer.microseconds_after, ",.1f"),
            )
            for layer in self.layers
        ]
        lines = [
            table(header, rows),
            f"time    {self.microseconds_before:,.1f} us before, {self.microseconds_after:,.1f} us after: "
            f"{self.microseconds_before / self.microseconds_after:.2f} times as fast",
            f"memory  {self.bytes_before:,} bytes before, {self.bytes_after:,} after: "
            f"{self.bytes_after / max(1, self.bytes_before):.1%}",
            f"largest difference of the outputs  {self.difference:.1e}",
        ]
        return "\n".join([*lines, f"structure left as it is: {self.note}"] if self.note else lines)


@dataclass(frozen=True)
class Compacted:
    """What `compact` returns.

    Attributes:
        model: The new model, in evaluation mode, its parameters frozen.
        report: What was done.
    """

    model: nn.Module
    report: CompactionReport
