"""The search space: for each parameter the values it may take, as what Optuna draws, as grids and as unit cubes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from study.design.schema import Scalar

if TYPE_CHECKING:
    from optuna.trial import Trial

Interval = tuple[float, float]


class _Dimension(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Uniform(_Dimension):
    """Any real number between two, all alike."""

    uniform: Interval

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_order("uniform", self.uniform)
        return self

    def extremes(self) -> Sequence[Scalar]:
        """Least and largest value."""
        return self.uniform

    def at(self, share: float) -> Scalar:
        """The value below which this share of the range lies."""
        low, high = self.uniform
        return low + share * (high - low)

    def suggest(self, name: str, trial: Trial) -> Scalar:
        """The value that Optuna draws."""
        return trial.suggest_float(name, *self.uniform)


class Log(_Dimension):
    """Any positive number between two, uniform in its logarithm."""

    log: Interval

    @model_validator(mode="after")
    def _ordered(self) -> Log:
        _check_order("log", self.log, least=0)
        return self

    def extremes(self) -> Sequence[Scalar]:
        """Least and largest value."""
        return self.log

    def at(self, share: float) -> Scalar:
        """The value below which this share of the range lies."""
        low, high = self.log
        return float(low * (high / low) ** share)

    def suggest(self, name: str, trial: Trial) -> Scalar:
        """The value that Optuna draws."""
        return trial.suggest_float(name, *self.log, log=True)


class LogGap(_Dimension):
    """Any number below 1 between two, uniform in the logarithm of its gap to 1: the natural scale of decay."""

    log_gap: Interval

    @model_validator(mode="after")
    def _ordered(self) -> LogGap:
        _check_order("log_gap", self.log_gap, most=1)
        return self

    def extremes(self) -> Sequence[Scalar]:
        """Least and largest value."""
        return self.log_gap

    def at(self, share: float) -> Scalar:
        """The gap to 1 above which this share of the range lies."""
        wide, narrow = self._gaps()
        return float(wide * (narrow / wide) ** share)

    def suggest(self, name: str, trial: Trial) -> Scalar:
        """The value whose gap to 1 Optuna draws."""
        (low, high), (wide, narrow) = self.log_gap, self._gaps()
        return min(max(1 - trial.suggest_float(label(name, self), narrow, wide, log=True), low), high)

    def _gaps(self) -> Interval:
        return 1 - self.log_gap[0], 1 - self.log_gap[1]


class Integers(_Dimension):
    """Any whole number between two, both included."""

    integers: tuple[int, int]

    @model_validator(mode="after")
    def _ordered(self) -> Integers:
        _check_order("integers", self.integers)
        return self

    def extremes(self) -> Sequence[Scalar]:
        """Least and largest value."""
        return self.integers

    def at(self, share: float) -> Scalar:
        """The value below which this share of the range lies."""
        low, high = self.integers
        return min(high, low + math.floor(share * (high - low + 1)))

    def suggest(self, name: str, trial: Trial) -> Scalar:
        """The value that Optuna draws."""
        return trial.suggest_int(name, *self.integers)


class Choice(_Dimension):
    """One of a list of values."""

    choice: tuple[Scalar, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len(set(self.choice)) < len(self.choice):
            raise ValueError(f"`choice` must name each value once, got {list(self.choice)}.")
        return self

    def extremes(self) -> Sequence[Scalar]:
        """All of the values."""
        return self.choice

    def at(self, share: float) -> Scalar:
        """The value at this share of the list."""
        return self.choice[min(len(self.choice) - 1, math.floor(share * len(self.choice)))]

    def suggest(self, name: str, trial: Trial) -> Scalar:
        """The value that Optuna draws."""
        return cast(Scalar, trial.suggest_categorical(name, self.choice))


def _kind(value: Any) -> str | None:
    """Which dimension a value of the ``space`` entry describes."""
    if isinstance(value, _Dimension):
        return next(iter(type(value).model_fields))
    if isinstance(value, Mapping) and len(value) == 1:
        return str(next(iter(value)))
    return None


Dimension = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[Log, Tag("log")]
    | Annotated[LogGap, Tag("log_gap")]
    | Annotated[Integers, Tag("integers")]
    | Annotated[Choice, Tag("choice")],
    Discriminator(_kind),
]


def grid(space: Mapping[str, Dimension]) -> list[dict[str, Scalar]]:
    """Every combination of a space whose dimensions are all choices, the last named varying fastest."""
    lists = [dimension.choice if isinstance(dimension, Choice) else () for dimension in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def only(value: Scalar) -> Choice:
    """The dimension of a parameter that does not vary."""
    return Choice(choice=(value,))


def _check_order(kind: str, interval: tuple[float, float], least: float = -math.inf, most: float = math.inf) -> None:
    low, high = interval
    if not (least < low < high < most):
        bounds = f" in ({least:g}, {most:g})" if least > -math.inf or most < math.inf else ""
        raise ValueError(f"`{kind}` must be [low, high] with low < high{bounds}, got [{low:g}, {high:g}].")


def label(name: str, dimension: Dimension) -> str:
    """What Optuna calls a parameter: by its gap to 1 where that is what it draws."""
    return f"1 - {name}" if isinstance(dimension, LogGap) else name
