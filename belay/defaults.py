"""Defaults files: the setting that a study recommends, read as data and fitted to a new run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from belay.checks import whole
from belay.oscillator import Oscillator

FORMAT = "belay-defaults/1"
PARAMETERS = ("decay", "damping", "coupling")
FURTHEST = 10**9  # counts that are looked through
REFUSED = (yaml.YAMLError, ValueError, RecursionError)  # in turn: no YAML, no UTF-8 or an impossible value, too deep


def load_defaults(path: str | Path, *, steps: int | None = None, batch_size: int | None = None) -> Oscillator:
    """Reads a defaults file and fits its oscillator to a run.

    What carries over is dimensionless: the half-life as a share of the run, the damping ratio and the effective mass
    ratio, and with them the memory, as nearly as lags are many steps. A run of n times fewer steps gets
    `Oscillator.rescale` by n. The learning rate is not fitted: tune it anew.

    Args:
        path: A file written by ``belay-study export``.
        steps: Optimizer steps of the new run, >= 1. If given, it decides alone: a larger batch in as many steps changes
            nothing, and `batch_size` is not used.
        batch_size: Batch size of the new run, >= 1; without `steps` the run is taken to see as many samples as the
            one measured, so that an n times larger batch means n times fewer steps. Where it does not, give `steps`.

    Returns:
        The oscillator for the new run; the file's own if neither is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a defaults file, lacks what is asked of it, or its oscillator cannot be fitted that far;
            the message says how far it can be.
    """
    document = read_defaults(path)
    setting, measured = document["setting"], document["transfer"]
    try:
        oscillator = Oscillator(*(_number(name, setting[name]) for name in PARAMETERS))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`path` must hold a valid setting, got {path}: {error}") from error
    name, asked = ("batch_size", batch_size) if steps is None else ("steps", steps)
    return oscillator if asked is None else _fitted(oscillator, path, name, whole(name, asked, 1), measured)


def read_defaults(path: str | Path) -> dict[str, Any]:
    """The whole defaults file (setting, evidence, origin) as plain data; YAML tags are refused, nothing is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a defaults file.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except REFUSED as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else _line(str(error))
        raise ValueError(f"`path` must be a YAML defaults file, got {path}: {said}.") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        shown = _line(found) if isinstance(found, str) else None if found is None else type(found).__name__
        raise ValueError(f"`path` must be a defaults file of format {FORMAT}, got {path} of format {shown}.")
    for section, names in (("setting", PARAMETERS), ("transfer", ())):
        values = document.get(section)
        missing = [name for name in names if name not in values] if isinstance(values, dict) else [section]
        if missing:
            raise ValueError(
                f"`path` must hold {', '.join(missing)} in `{section}`, got {path} without; export it again."
            )
    return dict(document)


def _fitted(oscillator: Oscillator, path: str | Path, name: str, asked: int, measured: dict[str, Any]) -> Oscillator:
    """The oscillator in a run of so many `steps`, or with such a `batch_size`.

    Raises:
        ValueError: There is none; the message names the nearest count, on the way to the measured one, that has one.
    """
    fits = _known(path, measured, name)

    def at(count: int) -> Oscillator:
        return oscillator.rescale(fits / count if name == "steps" else count / fits)

    try:
        return at(asked)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"`{name}` must be near enough to {fits}, at which {path} was measured, for {oscillator} to be fitted, got "
            f"{_shown(asked)}; take {_shown(_nearest(at, fits, asked))}, as far as it goes, or run a study there."
        ) from error


def _nearest(at: Callable[[int], Oscillator], fits: int, fails: int) -> int:
    """The count nearest to one that has no oscillator which has one, on the way to one that has.

    Counts that have one may lie between others that have none: nearer ones are looked for at a thousand places.
    """
    last = _last(at, fits, fails)
    apart = last - fails
    for place in range(1000 if abs(apart) < FURTHEST else 0):
        count = fails + round(math.copysign(abs(apart) ** (place / 1000), apart))
        if _is_one(at, count):
            return _last(at, count, fails)
    return last


def _last(at: Callable[[int], Oscillator], fits: int, fails: int) -> int:
    """A count that has an oscillator, next to one that has none."""
    while abs(fails - fits) > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if _is_one(at, middle) else (fits, middle)
    return fits


def _is_one(at: Callable[[int], Oscillator], count: int) -> bool:
    """Whether a count has an oscillator."""
    try:
        at(count)
    except (ValueError, OverflowError):
        return False
    return True


def _known(path: str | Path, measured: dict[str, Any], name: str) -> int:
    value = measured.get(name)
    try:
        number = 0.0 if value is None else _number(name, value)
    except TypeError:
        number = 0.0
    if not (number > 0 and number.is_integer()):
        raise ValueError(f"`{name}` cannot be fitted: {path} was measured at {name} {_shown(value)}; leave it out.")
    return int(number)


def _number(name: str, value: object) -> float:
    """A number of a file, which may hold anything.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a real number, got {_shown(value)}.")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    """A value of a file as it may stand in a message: aliases can make a list that would fill the memory as text."""
    if isinstance(value, str):
        return repr(_line(value))
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64):
        return str(value)
    return f"a value of type {type(value).__name__}"


def _line(text: str) -> str:
    """Text as one short line without control characters."""
    line = " ".join(text[:1000].split())[:200]
    return "".join(character if character.isprintable() else "?" for character in line)
