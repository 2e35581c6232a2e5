"""Weight averaging as damped harmonic motion: EMA, damped averages and BELAY for PyTorch."""

from belay.oscillator import Oscillator

__all__ = ["Oscillator"]
