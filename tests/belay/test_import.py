"""Importing the library loads nothing that belongs to the study."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ["ray", "mlflow", "optuna", "pandas", "sklearn", "scipy", "study"]


def test_importing_belay_loads_none_of_the_packages_of_the_study():
    code = f"import belay, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_belay_offers_four_names():
    import belay

    assert belay.__all__ == ["Belay", "Oscillator", "load_defaults", "methods"]
