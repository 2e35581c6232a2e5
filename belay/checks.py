"""Checks of numbers given by a caller: each returns the number, or raises with the rule, the name and the value."""

from __future__ import annotations

import math
from numbers import Integral, Real


def real(name: str, value: object) -> float:
    """A real number of any type but bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a real number, got {value!r}.")
    return float(value)


def positive(name: str, value: object) -> float:
    """A real number in (0, inf)."""
    number = real(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {name}={number}.")
    return number


def nonnegative(name: str, value: object) -> float:
    """A real number in [0, inf)."""
    number = real(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"`{name}` must be finite and at least 0, got {name}={number}.")
    return number


def whole(name: str, value: object, least: int) -> int:
    """A whole number of any integer type but bool, of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    return int(value)
