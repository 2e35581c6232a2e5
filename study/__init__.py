"""The study service: sweeps decay, damping and coupling on a cluster and says what is best, and how sure it is."""

from study.notebook import load, run

__all__ = ["load", "run"]
