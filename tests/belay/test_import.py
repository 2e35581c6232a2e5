"""Importing the library loads nothing that belongs to the study."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["ray", "mlflow", "optuna", "pandas", "sklearn", "scipy", "study"]


def test_importing_belay_loads_none_of_the_packages_of_the_study():
    code = f"import belay, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_mathematics_the_methods_and_the_defaults_need_no_torch_until_belay_is_asked_for():
    code = """
import sys, belay
belay.load_defaults, belay.methods.nesterov(0.9), belay.Oscillator.ema(0.9)
before = "torch" in sys.modules
print(before, belay.Belay is belay.Belay, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True True"


def test_belay_offers_eight_names_and_no_other():
    import belay

    assert belay.__all__ == [
        "Bank",
        "Belay",
        "Oscillator",
        "PowerProfile",
        "Snapshots",
        "load_defaults",
        "methods",
        "reconstruct",
    ]
    assert set(belay.__all__) <= set(dir(belay))
    with pytest.raises(AttributeError, match="module 'belay' has no attribute 'Rope'"):
        belay.Rope  # noqa: B018
