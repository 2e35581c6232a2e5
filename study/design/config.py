"""A study's YAML file as a frozen, checked `StudyConfig`; unknown keys are refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from study.design.dimension import Dimension
from study.design.document import apply_override, read_document
from study.design.faults import CONNECTIONS, check_storable, explain, shown
from study.design.schema import LONGEST_TAG, Direction, Scalar
from study.design.start import Earlier, name_alone, plain_settings
from study.errors import BadInput

Sampler = Literal["grid", "random", "qmc", "tpe", "gp"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MOST_SETTINGS = 100_000  # of one search
MEANS = {"resources", "limits"}  # entries that are no part of the question
LATER = ("riders", "race", "rungs", "start", "start_from")  # of `search`: studies from before them keep their identity
EXTENT = {"seeds", "search.settings", "search.baseline", "confirm"}  # entries that may grow under the study's name


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name != "race":  # pydantic would take YAML's `yes` for 1
            raise ValueError(f"must not be a truth value, got {value}; change it.")
        return value


class TaskEntry(_Entry):
    """What is trained: a built-in task or an import path, and values for its hyperparameters."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="a built-in task (`belay-study tasks`) or `package.module:TaskOrTrainFunction`")

    @model_validator(mode="after")
    def _plain_data(self) -> TaskEntry:
        for name, value in self.options.items():
            check_storable(value)
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:  # a date, an infinite number
                raise ValueError(f"must hold finite plain data, got {name}: {shown(value)}; change it.") from error
        if (length := len(json.dumps(self.model_dump(mode="json")))) > LONGEST_TAG:
            raise ValueError(
                f"must be at most {LONGEST_TAG} characters long as JSON, got {length}; name a file instead."
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The hyperparameters that this entry fixes."""
        return dict(self.model_extra or {})


class Objective(_Entry):
    """Which metric decides."""

    metric: str = Field(
        description="`average/NAME` (averaged weights) or `live/NAME` (the model's own) of a task's metric"
    )
    mode: Direction | None = Field(None, description="max or min; by default what the task says of the metric")


class Riders(_Entry):
    """A grid of averages without coupling, which watch trainings that no average pulls."""

    carried: Literal["auto", "none", "always"] = Field(
        "auto", description="auto: where runs are trained side by side; none; or always, as where a grid is given"
    )
    memory: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        tuple(0.005 * 2**power for power in range(8)),
        min_length=1,
        max_length=20,
        description="memories, shares of the run above 0 and at most 1, at most 20 of them",
    )
    damping_ratio: tuple[Annotated[float, Field(ge=0.1, le=100)] | Literal["inf"], ...] = Field(
        ("inf", 3.0, 1.0, 0.5),
        min_length=1,
        max_length=20,
        description="damping ratios, from 0.1 to 100 or `inf` (EMA), at most 20 of them",
    )

    @field_validator("memory", "damping_ratio")
    @classmethod
    def _distinct(cls, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"must name each value once, got {shown(list(values))}; remove one.")
        return values


def _grid_or_word(riders: Any) -> Any:
    """Lets ``none`` stand for ``{carried: none}``; a grid that is given is always carried."""
    if isinstance(riders, str):
        return {"carried": riders}
    return {"carried": "always", **riders} if isinstance(riders, Mapping) else riders


class Search(_Entry):
    """How the space is searched."""

    sampler: Sampler = Field("tpe", description="grid, random, qmc (Sobol), tpe or gp")
    settings: int | None = Field(
        None,
        ge=1,
        le=MOST_SETTINGS,
        description=f"settings tried, at most {MOST_SETTINGS:,}; not for grid, which tries every combination",
    )
    baseline: int | None = Field(
        None,
        ge=0,
        le=MOST_SETTINGS,
        description="further settings of plain EMA (damping 1, coupling 0), searched by the same sampler over the rest "
        f"of the space, to compare with, at most {MOST_SETTINGS:,}; by default a quarter of `settings`, for grid every "
        "combination",
    )
    in_flight: int = Field(
        16,
        ge=1,
        le=MOST_SETTINGS,
        description="for tpe and gp: settings that run at once, at most, in two waves: a wave of half as many is drawn "
        "once all waves but the last are done, so that the answer does not depend on timing; for other samplers too "
        f"where there are `rungs`; at most {MOST_SETTINGS:,}",
    )
    seed: int = Field(0, ge=0, le=2**53, description="seed of the sampler, at most 2**53")
    race: StrictBool = Field(
        False,
        description="whether better settings get more seeds: once the search is done on half of `seeds`, the best "
        "quarter gets `seeds` more, and the best eighth then twice `seeds` more, `seeds` a setting in the mean",
    )
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        max_length=10,
        description="shares of the run at which a setting stops early if its first seed does worse there than half of "
        "those that got there before it; rising, above 0 and below 1, at most 10",
    )
    riders: Annotated[
        Riders, BeforeValidator(_grid_or_word, json_schema_input_type=Riders | Literal["auto", "none"])
    ] = Field(
        Riders(),
        description="averages without coupling that watch each training that no average pulls, beside its own: `none`, "
        "or {memory: [...], damping_ratio: [...]}, of which every pair is one; by default 8 memories from 0.005 to "
        "0.64 x 4 damping ratios where runs are trained side by side",
    )
    start: Annotated[tuple[dict[str, Any], ...], AfterValidator(plain_settings)] = Field(
        (),
        max_length=1000,
        description="known settings that are tried first, as [{lr: 0.1, decay: 0.99}]; what one leaves out is drawn by "
        "the sampler; not for grid; at most `settings` and 1,000",
    )
    start_from: Annotated[Earlier | None, BeforeValidator(name_alone, json_schema_input_type=Earlier | str | None)] = (
        Field(
            None,
            description="an earlier study, or {study: NAME, top: 5}, whose best settings become the `start`, moved "
            "into this space where they are outside; at most `settings` of them",
        )
    )

    @property
    def emas(self) -> int:
        """How many settings of plain EMA are searched beside those of the space, where they are not a grid's."""
        return max(1, (self.settings or 0) // 4) if self.baseline is None else self.baseline

    @model_validator(mode="after")
    def _start_fits_the_search(self) -> Search:
        if self.start and self.start_from:
            raise ValueError(f"must have `start` or `start_from`, got both, {self.start_from.study!r}; remove one.")
        if self.sampler == "grid" and (self.start or self.start_from):
            raise ValueError("must have no known settings for the grid, which tries every combination; remove them.")
        if self.settings is not None and len(self.start) > self.settings:
            raise ValueError(
                f"must have at most `settings` as `start`, got {len(self.start)} of {self.settings}; raise `settings`."
            )
        return self

    @model_validator(mode="after")
    def _settings_fit_the_sampler(self) -> Search:
        if self.sampler == "grid" and self.settings is not None:
            raise ValueError(
                f"must not have `settings` for the grid, which tries every combination, got {self.settings}; remove it."
            )
        if self.sampler == "grid" and self.baseline:
            raise ValueError(
                "must not have a `baseline` for the grid but 0, as it tries every combination with plain EMA too, got "
                f"{self.baseline}; remove it."
            )
        if self.sampler != "grid" and self.settings is None:
            raise ValueError(
                f"must say how many settings the {self.sampler} sampler tries, got no `settings`; add e.g. 64."
            )
        return self


class Confirm(_Entry):
    """How the best settings are measured once more, on fresh seeds; the best by these is the answer."""

    finalists: int = Field(
        4,
        ge=3,
        le=1000,
        description="settings measured again, 3 to 1,000: the best, the best EMA, the best without averaging, then the "
        "best of each other family and the next best",
    )
    seeds: int = Field(16, ge=2, le=1000, description="fresh seeds of each, 2 to 1,000")


class Resources(_Entry):
    """What one pack occupies while it trains."""

    cpus: float = Field(1, gt=0, le=10_000, description="CPU cores a pack, at most 10,000")
    gpus: float = Field(0, ge=0, le=10_000, description="GPUs a pack, may be a fraction, at most 10,000")
    side_by_side: int = Field(
        64,
        ge=1,
        le=10_000,
        description="trainings (a seed of a setting, or of several whose averages only watch it) of one pack as one "
        "batched model, at most, where the task names what is `stackable`; 1 for one after the other; at most 10,000",
    )

    @property
    def threads(self) -> int:
        """Threads that torch uses while it trains a pack."""
        return max(1, min(int(self.cpus), os.cpu_count() or 1))


class Limits(_Entry):
    """What ends work that would go on for too long; without an entry nothing does."""

    setting_seconds: float | None = Field(
        None,
        gt=0,
        le=10**8,
        description="seconds of a pack for each of its settings, at most 10**8; one that takes longer is trained "
        "setting by setting, and a setting that takes longer by itself has failed, with what it was doing",
    )
    hours: float | None = Field(
        None,
        gt=0,
        le=10**5,
        description="hours of a run or resume, at most 10**5, after which nothing further is begun",
    )
    settings_without_gain: int | None = Field(
        None,
        ge=1,
        le=MOST_SETTINGS,
        description="settings that may come to nothing better, one after the other, before the search ends; race "
        f"and confirmation follow; at most {MOST_SETTINGS:,}",
    )


class Tracking(_Entry):
    """Where MLflow keeps the records."""

    uri: str | None = Field(
        None,
        repr=False,
        description="MLflow tracking URI, in which ${VARIABLE} stands for the environment's; by default "
        "MLFLOW_TRACKING_URI or an SQLite file",
    )


class Storage(_Entry):
    """Where the ledger is: what was asked and what it came to, the truth that `resume` goes by."""

    url: str | None = Field(
        None,
        repr=False,
        description="SQLAlchemy URL, in which ${VARIABLE} stands for the environment's; by default "
        "BELAY_STORAGE_URL or an SQLite file",
    )


def _fixed_values(space: Any) -> Any:
    """Lets ``lr: 0.1`` stand for ``lr: {choice: [0.1]}``."""
    if not isinstance(space, Mapping):
        return space
    return {
        name: {"choice": [value]} if isinstance(value, bool | int | float | str) else value
        for name, value in space.items()
    }


def _name_alone(task: Any) -> Any:
    """Lets ``task: digits`` stand for ``task: {name: digits}``."""
    return {"name": task} if isinstance(task, str) else task


class StudyConfig(_Entry):
    """One question asked of one task."""

    name: str = Field(pattern=NAME, description="the study's name: letters, digits, `.`, `_`, `-`; at most 100")
    task: Annotated[TaskEntry, BeforeValidator(_name_alone, json_schema_input_type=TaskEntry | str)]
    steps: int = Field(ge=1, le=10**9, description="optimizer steps of each run, at most 10**9")
    seeds: int = Field(
        4,
        ge=1,
        le=1000,
        description="seeds of each setting, the same for all, at most 1,000; with `search.race` their mean",
    )
    evaluations: int = Field(
        5,
        ge=1,
        le=1000,
        validate_default=True,
        description="evaluations of each run, evenly spaced, the last after the last step; at most `steps` and 1,000",
    )
    objective: Objective
    space: Annotated[
        dict[str, Dimension],
        BeforeValidator(_fixed_values, json_schema_input_type=dict[str, Dimension | Scalar]),
    ] = Field(
        max_length=100,
        description="decay, damping, coupling, or memory (share of the run), damping_ratio (or `inf`, the EMA), "
        "mass_ratio, and the task's hyperparameters; what is left out beside decay or memory is plain EMA's; each is "
        "{uniform: [a, b]}, {log: [a, b]}, {log_gap: [a, b]} (log in 1 - value), {integers: [a, b]} (and step: n), "
        "{log_integers: [a, b]}, {choice: [...]}, or one value, perhaps only `when: {NAME: VALUE}`; whole numbers to "
        "1e9, others to 1e100 in size",
    )
    search: Search
    confirm: Confirm | None = None
    resources: Resources = Resources()
    limits: Limits = Limits()
    tracking: Tracking = Tracking()
    storage: Storage = Storage()

    @field_validator("evaluations")
    @classmethod
    def _no_more_evaluations_than_steps(cls, evaluations: int, info: ValidationInfo) -> int:
        return min(evaluations, int(info.data.get("steps", evaluations)))

    @field_validator("search")
    @classmethod
    def _rungs_are_apart(cls, search: Search, info: ValidationInfo) -> Search:
        steps = info.data.get("steps", 10**9)
        places = [0, *(round(share * steps) for share in search.rungs), steps]
        if any(before >= after for before, after in itertools.pairwise(places)):
            raise ValueError(
                f"must have rising `rungs` that fall on different steps of a run of {steps}, got "
                f"{shown(list(search.rungs))}; sort them, or leave some out."
            )
        return search

    @field_validator("search")
    @classmethod
    def _starts_from_another(cls, search: Search, info: ValidationInfo) -> Search:
        if search.start_from and search.start_from.study == info.data.get("name"):
            raise ValueError(f"must `start_from` another study, got {search.start_from.study!r} itself; name another.")
        return search

    @field_validator("search")
    @classmethod
    def _seeds_fit_a_race(cls, search: Search, info: ValidationInfo) -> Search:
        seeds = info.data.get("seeds", 4)
        if search.race and (seeds < 4 or seeds % 2):
            raise ValueError(
                f"must have an even number of `seeds`, at least 4, for a `race`, got {seeds}; give e.g. 4, of which "
                "every setting gets 2."
            )
        return search

    @property
    def stages(self) -> tuple[range, ...]:
        """The seeds of the search in the order in which settings get them: all get the first, in a race some more."""
        if not self.search.race:
            return (range(self.seeds),)
        ends = (0, self.seeds // 2, self.seeds * 3 // 2, self.seeds * 7 // 2)
        return tuple(range(start, end) for start, end in itertools.pairwise(ends))

    @property
    def first_seeds(self) -> int:
        """How many seeds every setting gets."""
        return len(self.stages[0])

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The steps after which a training may stop early."""
        return tuple(round(share * self.steps) for share in self.search.rungs)

    @property
    def identity(self) -> str:
        """Hash of what is asked; two studies of one name must agree in it."""
        return self._hash(MEANS | EXTENT)

    @property
    def question(self) -> str:
        """Hash of what is asked and how much of it."""
        return self._hash(MEANS)

    def _hash(self, without: set[str]) -> str:
        """Hash of the config without these entries, some of them in `search`."""
        asked = {key: value for key, value in self.plain().items() if key not in without}
        asked["search"] = {key: value for key, value in asked["search"].items() if f"search.{key}" not in without}
        for name in LATER:
            if getattr(self.search, name) == Search.model_fields[name].default:
                del asked["search"][name]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """The config as the plain data that is stored and sent to workers: without the URLs of its connections."""
        return self.model_dump(mode="json", exclude=CONNECTIONS)


def load_config(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Reads a study's YAML file.

    Args:
        path: The file.
        overrides: ``dotted.key=value`` with a YAML value, applied in order.

    Raises:
        BadInput: No such file, no YAML, or something in it is not as it must be.
    """
    document = read_document(path)
    for override in overrides:
        apply_override(document, override)
    return parse_config(document)


def extended(config: StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    """A stored config with changes, each as `load_config` takes it.

    Raises:
        BadInput: Something in it is not as it must be.
    """
    document = config.plain()
    for override in overrides:
        apply_override(document, override)
    return parse_config(document)


def parse_config(document: Mapping[str, Any]) -> StudyConfig:
    """Checks a study given as plain data.

    Raises:
        BadInput: Something in it is not as it must be; the message names the first fault.
    """
    try:
        return StudyConfig.model_validate(document)
    except ValidationError as error:
        raise BadInput(explain(error, StudyConfig)) from error
