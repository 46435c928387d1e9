"""How many CPU threads a run trains with, where nobody has said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lpsphere.flops import layer_costs, training_flops

__all__ = ["threads_for", "using_threads"]

SHORT_STEP = 1e8
"""FLOPs of a step that is over before a second thread has paid for itself."""
_LOCK = threading.Lock()
_inside, _outside = 0, 0
"""How many compute with another number of threads at the moment, and how many threads there are without them."""


def threads_for(model: nn.Module, example: Tensor, batch_size: int) -> int | None:
    """One thread where a step is short; None: as many as torch takes.

    Threads wait for each other after every operation. For short steps that costs what they gain, and where other
    programs want the processor too, each wait lasts until the thread that is waited for has its turn again: training
    then takes many times longer.

    Args:
        model: The network; it is run in evaluation mode; its own is restored.
        example: A batch that it takes, shape (n, ...).
        batch_size: Samples of a step.
    """
    step = training_flops(layer_costs(model, example), steps=1, batch_size=batch_size)
    return 1 if step < SHORT_STEP else None


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads, and afterwards with as many as before; None: change nothing.

    Several of the program's own threads may do it side by side, but none within another. torch's number is the whole
    process's: what it was before the first of them is what each leaves behind.
    """
    global _inside, _outside
    if count is None:
        yield
        return
    with _LOCK:
        if not _inside:
            _outside = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            torch.set_num_threads(_outside)
