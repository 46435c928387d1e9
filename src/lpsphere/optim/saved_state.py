"""The state of a parameter as `lpsphere.LpSGD` saves it, and back: what is sharded, and what does not exist yet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lpsphere.distributed import as_shared, is_shared, local, rows_of

__all__ = ["loaded_state", "saved_state"]

_MOMENTUM = "momentum_buffer"
_FLOAT32_KEYS = ("dual", "primal", _MOMENTUM, "radius")


def saved_state(param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The state of a parameter to be saved: sharded as it is, and with a momentum of NaN where there is none yet."""
    saved = {key: as_shared(value, param) if _has_rows(value) else value for key, value in state.items()}
    if group["momentum"] != 0 and param.requires_grad and saved.get(_MOMENTUM) is None:
        like = param if group["p"] is None else state.get(group["form"], local(param))
        saved[_MOMENTUM] = as_shared(torch.full_like(like, torch.nan), param)
    return saved


def loaded_state(param: Tensor, group: dict[str, Any], saved: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `saved_state`: a copy, of weights on spheres only the rows that are here.

    Args:
        param: The parameter.
        group: Its group.
        saved: What was saved.
        taken: What torch has made of it: in the dtype of the parameter and on its device, not always a copy.
    """
    loaded = dict(taken)
    half = "p" in saved and param.dtype in (torch.float16, torch.bfloat16)
    for key, value in saved.items():
        if half and key in _FLOAT32_KEYS:
            loaded[key] = value.to(param.device, torch.float32, copy=True)
        elif loaded[key] is value and isinstance(value, Tensor):
            loaded[key] = value.clone()
        if is_shared(param) and _has_rows(value):
            part = rows_of(loaded[key], param)
            loaded[key] = part if group["p"] is not None else as_shared(part, param)
    momentum = loaded.get(_MOMENTUM)
    if isinstance(momentum, Tensor) and local(momentum).numel() and bool(local(momentum).isnan().all()):
        del loaded[_MOMENTUM]  # it was saved before the first step
    return loaded


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
