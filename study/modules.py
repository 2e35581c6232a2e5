"""Where Python looks for modules: in a user's working directory last, as a file there may be named like a package."""

import sys
from pathlib import Path


def packages_first() -> None:
    """Moves the working directory, which ``python -m`` puts first, to the end; a checkout of this stays first."""
    here = Path(sys.path[0]).resolve()
    if not sys.flags.safe_path and here != Path(__file__).resolve().parents[1]:
        sys.path.sort(key=lambda place: Path(place).resolve() == here)
