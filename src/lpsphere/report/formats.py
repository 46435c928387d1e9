"""Numbers and values as a person reads them; what is missing is a dash."""

from __future__ import annotations

import math
from typing import Any

from lpsphere.report.run import number

DASH = "–"
_SPACE = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: Any) -> str:
    """A whole number with thousands separators: 8141 -> 8,141."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def decimal(value: Any, digits: int = 3) -> str:
    """A number to `digits` decimals: 0.70512 -> 0.705."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}f}"


def significant(value: Any, digits: int = 3) -> str:
    """A number of unknown size: 0.07123 -> 0.0712, 1.15 -> 1.15, 123456 -> 1.23e+05."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}g}"


def percent(value: Any, digits: int = 2) -> str:
    """A fraction as a percentage, without idle zeros: 0.9861 -> 98.61 %, 0.9 -> 90 %."""
    found = number(value)
    return DASH if found is None else f"{_trim(f'{100 * found:.{digits}f}')}{_SPACE}%"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points: 0.0213 -> 2.13 points."""
    return f"{_trim(f'{100 * abs(difference):.2f}')}{_SPACE}points"


def scientific(value: Any) -> str:
    """A very small number: 1.23e-07 -> 1.2e-7; 0 stays 0."""
    found = number(value)
    if found is None:
        return DASH
    if found == 0:
        return "0"
    mantissa, exponent = f"{found:.1e}".split("e")
    return f"{_trim(mantissa)}e{int(exponent)}"


def duration(value: Any) -> str:
    """A time in seconds: 9.13 -> 9.1 s, 200 -> 3 min 20 s, 3900 -> 1 h 05 min, 90000 -> 25.0 h."""
    found = number(value)
    if found is None:
        return DASH
    if found < 59.95:
        return f"{found:.1f}{_SPACE}s"
    minutes, seconds = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {seconds:02d}{_SPACE}s"
    if found >= 36_000:
        return f"{found / 3600:,.1f}{_SPACE}h"
    hours, minutes = divmod(round(found / 60), 60)
    return f"{hours}{_SPACE}h {minutes:02d}{_SPACE}min"


def plain(value: Any) -> str:
    """A configured value as it was written: None -> –, True -> yes, 1.15 -> 1.15, a list with commas."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or DASH
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or DASH
    return str(value)


def power_of_ten(exponent: float) -> str:
    """A tick of a logarithmic axis: -3 -> 10⁻³; between whole powers the value itself."""
    if not math.isclose(exponent, round(exponent), abs_tol=1e-6):
        return f"{10**exponent:.2g}"
    return f"10{str(round(exponent)).translate(_SUPERSCRIPTS)}"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
