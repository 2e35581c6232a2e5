"""Weight averaging as damped harmonic motion: EMA, damped averages and BELAY for PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from belay import methods
from belay.defaults import load_defaults
from belay.kernels import PowerProfile
from belay.oscillator import Oscillator

if TYPE_CHECKING:
    from belay.average import Belay
    from belay.bank import Bank
    from belay.posthoc import reconstruct
    from belay.snapshots import Snapshots

__all__ = ["Bank", "Belay", "Oscillator", "PowerProfile", "Snapshots", "load_defaults", "methods", "reconstruct"]
_LAZY = {
    "Bank": "belay.bank",
    "Belay": "belay.average",
    "Snapshots": "belay.snapshots",
    "reconstruct": "belay.posthoc",
}


def __getattr__(name: str) -> Any:
    """Imports what needs torch at first use: the mathematics does not, and torch takes a second to load."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
