"""Networks from plain configuration values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lpsphere.models.cnn import CNN
from lpsphere.models.mlp import MLP
from lpsphere.models.wide_resnet import WideResNet

KINDS: dict[str, type[MLP] | type[WideResNet] | type[CNN]] = {"mlp": MLP, "wide_resnet": WideResNet, "cnn": CNN}
"""The networks that `build` knows, by the value of ``kind``."""


def build(config: Mapping[str, Any]) -> MLP | WideResNet | CNN:
    """Make the network that a configuration describes, with new weights.

    Args:
        config: ``kind`` ("mlp", "wide_resnet" or "cnn") and arguments of that network, as plain JSON values;
            every network's ``config`` is one.

    Returns:
        The network; ``build(network.config)`` has the same architecture.

    Raises:
        TypeError: ``config`` is not a mapping, or a value has the wrong type.
        ValueError: The kind or a key is unknown, a needed key is missing or a value is out of range.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"a network's configuration is a mapping with the key 'kind', not {config!r}")
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    network = KINDS.get(kind) if isinstance(kind, str) else None
    if network is None:
        raise ValueError(f"network of kind {kind!r}: allowed are {', '.join(KINDS)}")
    allowed = inspect.signature(network).parameters
    unknown = [str(key) for key in arguments if key not in allowed]
    if unknown:
        raise ValueError(f"unknown key(s) {', '.join(unknown)} for kind {kind!r}: allowed are {', '.join(allowed)}")
    needed = [key for key, value in allowed.items() if value.default is value.empty and key not in arguments]
    if needed:
        raise ValueError(f"kind {kind!r} lacks the key(s) {', '.join(needed)}: add them to the configuration")
    return network(**arguments)
