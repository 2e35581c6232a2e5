"""Weight averaging as damped harmonic motion: EMA, damped averages and BELAY for PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from belay import methods
from belay.defaults import load_defaults
from belay.oscillator import Oscillator

if TYPE_CHECKING:
    from belay.average import Belay

__all__ = ["Belay", "Oscillator", "load_defaults", "methods"]


def __getattr__(name: str) -> Any:
    """Imports `Belay` at its first use: the mathematics does not need torch, which takes a second to load."""
    if name != "Belay":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from belay.average import Belay

    globals()[name] = Belay
    return Belay


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
