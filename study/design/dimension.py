"""Dimensions: which values a parameter may take, drawn by Optuna, listed in a grid or computed from [0, 1]."""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from study.design.faults import STEPPED, check_storable, shown
from study.design.schema import Scalar, Value, identity

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

LARGEST, LARGEST_WHOLE = 1e100, 10**9  # in size; TPE cannot tell larger whole numbers from their neighbours
# The share of a range at which it is probed between its ends; irrational, so that between whole ends the value is not
# whole and shows where a task takes whole numbers only.
BETWEEN = (3 - math.sqrt(5)) / 2


def _two_numbers(value: Any) -> Any:
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(end) for end in value)):
        raise ValueError(f"must be [low, high], two finite numbers, got {shown(value)}; change it.")
    return value


def _some_values(value: Any) -> Any:
    if not (isinstance(value, list | tuple) and value and all(is_value(one) for one in value)):
        raise ValueError(
            f"must be a list of one or more finite numbers up to {LARGEST:g} in size, texts (inf in a damping ratio) "
            f"or truth values, of null or of lists of these, got {shown(value)}; change it."
        )
    return value


def _lists_of_values(value: Any) -> Any:
    """Lets ``when: {optimizer: adam}`` stand for ``when: {optimizer: [adam]}``, and 8.0 for 8."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            f"must be a mapping of other parameters to their values, as {{optimizer: adam}}, got {shown(value)}; "
            "change it."
        )
    lists = {name: tuple(each) if isinstance(each, list | tuple) else (each,) for name, each in value.items()}
    for name, each in lists.items():
        if not each or not all(map(is_value, each)):
            raise ValueError(f"must name a value of {name}, or a list of them, got {shown(value[name])}; change it.")
    check_storable(value)
    return {
        name: [int(one) if isinstance(one, float) and one.is_integer() else one for one in each]
        for name, each in lists.items()
    }


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def is_value(value: Any) -> bool:
    """Whether a parameter may have this value: a finite number, a text, a truth value, null or a list of these."""
    if isinstance(value, list):
        return all(is_value(entry) for entry in value)
    return value is None or isinstance(value, bool | str) or (_is_number(value) and abs(value) <= LARGEST)


Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Whole = Annotated[int, Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
Interval = Annotated[tuple[Real, Real], BeforeValidator(_two_numbers)]
Conditions = Annotated[
    dict[str, tuple[Value, ...]], BeforeValidator(_lists_of_values, json_schema_input_type=dict[str, Value])
]


class _Dimension(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: Conditions = Field({}, exclude_if=operator.not_)  # left out where there is none
    """The values that other parameters must have for this one to vary."""

    @property
    def count(self) -> float:
        """How many values it has; inf where it is a range of real numbers."""
        return math.inf

    @property
    def words(self) -> str:
        """What it is, as text."""
        own = self.model_dump(mode="json", exclude={"when"}).items()
        kinds = ", ".join(f"{kind} {shown(each)}" for kind, each in own)
        conditions = " and ".join(f"{name} is {' or '.join(map(shown, each))}" for name, each in self.when.items())
        return f"{kinds}, when {conditions}" if conditions else kinds

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Whether its parameter varies beside these values of others."""
        return all(name in values and identity(values[name]) in wanted for name, wanted in self._wanted.items())

    def wants(self, name: str, value: Value) -> bool:
        """Whether its parameter may vary where another, which it depends on, has this value."""
        return identity(value) in self._wanted[name]

    @functools.cached_property
    def _wanted(self) -> dict[str, set[tuple[int, Any]]]:
        """The values of its conditions, by what they are the same by."""
        return {name: set(map(identity, each)) for name, each in self.when.items()}

    def drawn_as(self, value: Value) -> Value:
        """What Optuna draws where it comes to a value."""
        return value


def _within(interval: tuple[float, float], value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and interval[0] <= value <= interval[1]


class Uniform(_Dimension):
    """A real number between two, drawn uniformly."""

    uniform: Interval

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_order(self.uniform)
        return self

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least, largest and one between."""
        return *self.uniform, self.at(BETWEEN)

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return _within(self.uniform, value)

    def at(self, share: float) -> Scalar:
        """The value at this share of the range, from 0 (the low end) to 1 (the high end)."""
        low, high = self.uniform
        return min(low + share * (high - low), high)

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return trial.suggest_float(name, *self.uniform)


class Log(_Dimension):
    """A positive number between two, drawn uniformly in its logarithm."""

    log: Interval

    @model_validator(mode="after")
    def _ordered(self) -> Log:
        _check_order(self.log, least=0)
        return self

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least, largest and one between."""
        return *self.log, self.at(BETWEEN)

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return _within(self.log, value)

    def at(self, share: float) -> Scalar:
        """The value at this share of the range, from 0 (the low end) to 1 (the high end)."""
        low, high = self.log
        return float(min(low * (high / low) ** share, high))

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return trial.suggest_float(name, *self.log, log=True)


class LogGap(_Dimension):
    """A number below 1 between two, drawn uniformly in the logarithm of its gap to 1: the natural scale of decay."""

    log_gap: Interval

    @model_validator(mode="after")
    def _ordered(self) -> LogGap:
        _check_order(self.log_gap, most=1)
        return self

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least, largest and one between."""
        return *self.log_gap, 1 - cast(float, self.at(BETWEEN))

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return _within(self.log_gap, value)

    def at(self, share: float) -> Scalar:
        """The gap to 1 of the value at this share of the range; Optuna draws the gap in place of the value."""
        wide, narrow = self._gaps()
        return float(max(wide * (narrow / wide) ** share, narrow))

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value whose gap to 1 Optuna draws."""
        (low, high), (wide, narrow) = self.log_gap, self._gaps()
        return min(max(1 - trial.suggest_float(label(name, self), narrow, wide, log=True), low), high)

    def drawn_as(self, value: Value) -> Scalar:
        """Its gap to 1."""
        wide, narrow = self._gaps()
        return min(max(1 - cast(float, value), narrow), wide)

    def _gaps(self) -> Interval:
        return 1 - self.log_gap[0], 1 - self.log_gap[1]


class Integers(_Dimension):
    """A whole number between two, both included."""

    integers: Annotated[tuple[Whole, Whole], BeforeValidator(_two_numbers)]

    @model_validator(mode="after")
    def _ordered(self) -> Integers:
        _check_order(self.integers)
        return self

    @property
    def values(self) -> Sequence[int]:
        """All of them."""
        return range(self.integers[0], self.integers[1] + 1)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.values)

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least and largest."""
        return self.integers

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return isinstance(value, int) and _within(self.integers, value)

    def at(self, share: float) -> Scalar:
        """The value at this share of the range, from 0 (the low end) to 1 (the high end)."""
        return self.values[_place(share, self.count)]

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return trial.suggest_int(name, *self.integers)


class SteppedIntegers(_Dimension):
    """A whole number between two, both included, a whole number of steps from either."""

    integers: Annotated[tuple[Whole, Whole], BeforeValidator(_two_numbers)]
    step: Annotated[int, Field(ge=1, le=LARGEST_WHOLE)]

    @model_validator(mode="after")
    def _ordered(self) -> SteppedIntegers:
        _check_order(self.integers)
        low, high = self.integers
        if beyond := (high - low) % self.step:
            raise ValueError(
                f"must end a whole number of steps above its low end, got {list(self.integers)} with step {self.step}; "
                f"end at {high - beyond + self.step}{f' or {high - beyond}' if high - beyond > low else ''}."
            )
        return self

    @property
    def values(self) -> Sequence[int]:
        """All of them."""
        return range(self.integers[0], self.integers[1] + 1, self.step)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.values)

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least and largest."""
        return self.integers

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return isinstance(value, int) and _within(self.integers, value) and (value - self.integers[0]) % self.step == 0

    def at(self, share: float) -> Scalar:
        """The value at this share of the range, from 0 (the low end) to 1 (the high end)."""
        return self.values[_place(share, self.count)]

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return trial.suggest_int(name, *self.integers, step=self.step)


class LogIntegers(_Dimension):
    """A positive whole number between two, both included, drawn uniformly in its logarithm and rounded."""

    log_integers: Annotated[tuple[Whole, Whole], BeforeValidator(_two_numbers)]

    @model_validator(mode="after")
    def _ordered(self) -> LogIntegers:
        _check_order(self.log_integers, least=0)
        return self

    @property
    def values(self) -> Sequence[int]:
        """All of them."""
        return range(self.log_integers[0], self.log_integers[1] + 1)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.values)

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: least and largest."""
        return self.log_integers

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return isinstance(value, int) and _within(self.log_integers, value)

    def at(self, share: float) -> Scalar:
        """The value at this share of the range, from 0 (the low end) to 1 (the high end)."""
        low, high = self.log_integers
        least, most = low - 0.5, high + 0.5  # what is rounded to either end
        return min(max(round(float(least * (most / least) ** share)), low), high)

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return trial.suggest_int(name, *self.log_integers, log=True)


class Choice(_Dimension):
    """One of a list of values."""

    choice: Annotated[tuple[Value, ...], BeforeValidator(_some_values)] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        check_storable(self.choice)
        if len({identity(value) for value in self.choice}) < len(self.choice):
            raise ValueError(f"must name each value once, got {shown(list(self.choice))}; remove one.")
        return self

    @property
    def values(self) -> Sequence[Value]:
        """All of them."""
        return self.choice

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.choice)

    def probes(self) -> Sequence[Value]:
        """Values to check a rule with: all."""
        return self.choice

    def holds(self, value: Value) -> bool:
        """Whether a value is one of it."""
        return identity(value) in self._places

    def at(self, share: float) -> Scalar | None:
        """What Optuna draws where it comes to the value at this share of the list."""
        return self._names[_place(share, self.count)]

    def suggest(self, name: str, trial: BaseTrial) -> Value:
        """The value that Optuna draws."""
        return copy.copy(self.choice[self._names.index(trial.suggest_categorical(name, self._names))])

    def drawn_as(self, value: Value) -> Scalar | None:
        """The name by which Optuna knows it."""
        return self._names[self._places[identity(value)]]

    @functools.cached_property
    def _places(self) -> dict[tuple[int, Any], int]:
        """The place of each value in the list."""
        return {identity(value): place for place, value in enumerate(self.choice)}

    @functools.cached_property
    def _names(self) -> tuple[Scalar | None, ...]:
        """What Optuna draws: the values, or their JSON where some are lists or it would confuse them, as 1 and true."""
        scalars = [value for value in self.choice if not isinstance(value, list)]
        if len(scalars) == len(self.choice) == len(set(scalars)):
            return tuple(scalars)
        return tuple(map(json.dumps, self.choice))


def _kind(value: Any) -> str | None:
    """Which dimension a value of the ``space`` entry describes."""
    keys = type(value).model_fields if isinstance(value, _Dimension) else value if isinstance(value, Mapping) else ()
    match [key for key in keys if key != "when"]:
        case [kind]:
            return str(kind)
        case ["integers", "step"] | ["step", "integers"]:
            return STEPPED
    return None


Dimension = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[Log, Tag("log")]
    | Annotated[LogGap, Tag("log_gap")]
    | Annotated[Integers, Tag("integers")]
    | Annotated[SteppedIntegers, Tag(STEPPED)]
    | Annotated[LogIntegers, Tag("log_integers")]
    | Annotated[Choice, Tag("choice")],
    Discriminator(_kind),
]
Listed = Integers | SteppedIntegers | LogIntegers | Choice  # those of finitely many values


def only(value: Value) -> Choice:
    """The dimension of a parameter that does not vary."""
    return Choice(choice=(value,))


def label(name: str, dimension: Dimension) -> str:
    """Optuna's name of a parameter: ``1 - name`` where Optuna draws its gap to 1."""
    return f"1 - {name}" if isinstance(dimension, LogGap) else name


def _check_order(interval: tuple[float, float], least: float = -math.inf, most: float = math.inf) -> None:
    low, high = interval
    if not (least < low < high < most):
        bounds = f" in ({least:g}, {most:g})" if least > -math.inf or most < math.inf else ""
        raise ValueError(f"must be [low, high] with low < high{bounds}, got [{low}, {high}]; change it.")


def _place(share: float, count: int) -> int:
    """The place among so many values at a share of them, from 0 (the first) to 1 (the last)."""
    return min(count - 1, math.floor(share * count))
