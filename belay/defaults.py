"""Defaults files: the setting that a study recommends, read as data and fitted to a new run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from belay.checks import whole
from belay.oscillator import Oscillator

FORMAT = "belay-defaults/1"


def load_defaults(path: str | Path, *, steps: int | None = None, batch_size: int | None = None) -> Oscillator:
    """Reads a defaults file and fits its oscillator to a run.

    What carries over is dimensionless: the memory as a share of the run, the damping ratio and the effective mass
    ratio. A run of n times fewer steps gets `Oscillator.rescale` by n.

    Args:
        path: A file written by ``belay-study export``.
        steps: Optimizer steps of the new run, >= 1. If given, `batch_size` is not needed and not used.
        batch_size: Batch size of the new run, >= 1; without `steps` the run is taken to see as many samples as the
            one measured, so that an n times larger batch means n times fewer steps.

    Returns:
        The oscillator for the new run; the file's own if neither is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a defaults file, lacks what is asked of it, or its oscillator cannot be rescaled that far.
    """
    document = read_defaults(path)
    setting, measured = document["setting"], document["transfer"]
    try:
        oscillator = Oscillator(setting["decay"], setting["damping"], setting["coupling"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"`path` must hold a valid setting, got {path}: {error}") from error
    if steps is not None:
        return oscillator.rescale(_known(path, measured, "steps") / whole("steps", steps, 1))
    if batch_size is not None:
        return oscillator.rescale(whole("batch_size", batch_size, 1) / _known(path, measured, "batch_size"))
    return oscillator


def read_defaults(path: str | Path) -> dict[str, Any]:
    """The whole defaults file (setting, evidence, origin) as plain data; YAML tags are refused, nothing is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a defaults file.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`path` must be a YAML defaults file, got {path}: {' '.join(str(error).split())}.") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(f"`path` must be a defaults file of format {FORMAT}, got {path} of format {found}.")
    for section, names in (("setting", ("decay", "damping", "coupling")), ("transfer", ())):
        values = document.get(section)
        missing = [name for name in names if name not in values] if isinstance(values, dict) else [section]
        if missing:
            raise ValueError(
                f"`path` must hold {', '.join(missing)} in `{section}`, got {path} without; export it again."
            )
    return dict(document)


def _known(path: str | Path, measured: dict[str, Any], name: str) -> float:
    value = measured.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` cannot be fitted: {path} was measured at {name} {value}; leave it out.")
    return float(value)
