"""Weight averaging as damped harmonic motion: EMA, damped averages and BELAY for PyTorch."""

from belay import methods
from belay.average import Belay
from belay.defaults import load_defaults
from belay.oscillator import Oscillator

__all__ = ["Belay", "Oscillator", "load_defaults", "methods"]
