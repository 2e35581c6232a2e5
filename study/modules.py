"""How Python imports: from the working directory last, as a file there may be named like a package; and in a hurry."""

import gc
import sys
from pathlib import Path


def packages_first() -> None:
    """Moves the working directory, which ``python -m`` puts first, to the end; a checkout of this stays first."""
    here = Path(sys.path[0]).resolve()
    if not sys.flags.safe_path and here != Path(__file__).resolve().parents[1]:
        sys.path.sort(key=lambda place: Path(place).resolve() == here)


def collect_rarely() -> None:
    """Has Python look for cycles of objects less often: during all imports that would take a quarter of their time."""
    gc.set_threshold(100_000, 50, 100)
