"""Checks of the sizes that describe a network."""

from __future__ import annotations

from collections.abc import Sequence


def size(name: str, value: object) -> int:
    """Return ``value`` if it is a positive int.

    Raises:
        TypeError: ``value`` is not an int.
        ValueError: ``value`` is less than 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: give a whole number of at least 1")
    if value < 1:
        raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
    return value


def sizes(name: str, values: object) -> tuple[int, ...]:
    """Return ``values`` as a tuple if it is a sequence of positive ints (it may be empty).

    Raises:
        TypeError: ``values`` is not a sequence of ints.
        ValueError: One of them is less than 1.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{name}={values!r}: give a sequence of whole numbers, for example (256, 256)")
    return tuple(size(f"{name}[{index}]", value) for index, value in enumerate(values))


def fraction(name: str, value: object) -> float:
    """Return ``value`` if it is a number in [0, 1).

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is outside [0, 1).
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: give a number in [0, 1)")
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}: give a number in [0, 1)")
    return float(value)
