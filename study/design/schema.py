"""What a study records: the names of parameters, figures, metrics and tags, and the types of settings and outcomes.

`study.execute` writes these to MLflow and `study.findings` reads them; each name is defined here and nowhere else.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from belay import Oscillator
from belay.oscillator import Regime

Scalar = bool | int | float | str
Value = Scalar | list[Any] | None  # of a hyperparameter
Family = Literal["ema", "damped", "belay", "push"]
Direction = Literal["max", "min"]  # which is better
State = Literal["complete", "pruned", "diverged", "failed"]  # pruned: stopped early, at a rung
NUMERIC = 2  # kind of a value, after null and booleans and before texts, lists and mappings
STATES: tuple[State, ...] = ("complete", "pruned", "diverged", "failed")  # a setting is as bad as its worst seed
Role = Literal["search", "confirmation", "rider"]
History = list[tuple[int, dict[str, float]]]  # steps, and the metrics reported at each

PARAMETERS = {  # the average's raw coordinates, which every setting holds
    "decay": "EMA decay, in [0, 1); the spring's stiffness is 1 - decay",
    "damping": "share of the average's velocity lost to friction each step, in (0, 2); 1 is EMA",
    "coupling": "share of the stretch by which the model is pulled back (above 0) or pushed on (below 0) each step, in "
    "(-(1 - decay) / damping, 1); 0 leaves training alone",
}
NATURAL = {  # the same average in the coordinates that carry over to runs of other lengths
    "memory": "lag + 1 as a share of the run, above 1 / steps",
    "damping_ratio": "damping ratio of the poles, above 0; 1 is critical, inf EMA",
    "mass_ratio": "coupling times (lag + 1), above -1: what the average adds to the model's mass in slow motion",
}
FIGURES = {
    **NATURAL,
    "lag": "mean age of the averaged weights, in steps",
    "half_life": "steps in which the slowest mode halves",
    "noise_gain": "variance of the average over that of white noise in the model",
    "overshoot": "overshoot of the step response, as a share of the step",
    "immediate_lr_factor": "factor on the learning rate in the gradient's immediate step: 1 - coupling",
    "slow_mode_lr_factor": "factor on the learning rate at which slow modes learn: 1 / (1 + mass_ratio)",
    "max_stable_step": "largest stable learning rate times curvature of plain SGD (2 without coupling)",
}
COORDINATES = frozenset((*PARAMETERS, *NATURAL))
RESERVED = frozenset(  # other columns of the tables that hold settings: names that no hyperparameter may have
    (
        "steps",
        "setting",
        "seed",
        "seeds",
        "role",
        "state",
        "message",
        "diverged_at",
        "rider_of",
        "seeds_planned",
        "mean",
        "se",
        "family",
        "settings",
        "best",
        "median",
        "from",
        "to",
        "fresh",
        "regime",
        *FIGURES,
    )
)
# Averaged weights or the model's own; in MLflow's characters, as a path that leads nowhere else, and not as the records
# name the error of a mean.
METRIC = re.compile(r"(?=.{1,200}\Z)(average|live)(/(?!\.\.?(/|\Z))[\w. -]+)+(?<!\.se)")
METRIC_NAMES = (
    "letters, digits, `_`, `.`, `-` and spaces in parts between `/`, 200 characters in all, without `.se` at the end"
)
LARGEST_METRIC = 1e100  # in size; beyond it a run has diverged: its square, by which errors are told, must be a number
LARGEST_STEP = 2**31 - 1  # that every database takes
CRITICAL = 0.05  # how far a damping ratio may be from 1 to count as critical: no study tells less apart
PLAIN = {"damping": 1.0, "coupling": 0.0}  # what makes an average an EMA
INFINITE = "inf"  # an EMA's damping ratio as a space and the records' JSON write it
NATURAL_PLAIN: Mapping[str, Scalar] = {"damping_ratio": INFINITE, "mass_ratio": 0.0}  # an EMA in natural coordinates

CONFIRMATION = 10_000  # the first of the seeds that take no part in choosing a setting
RIDERS, MOST_RIDERS = 10_000_000, 1000  # a rider's number is RIDERS + MOST_RIDERS * its host's + its place


class Tag:
    """Names of the tags by which MLflow's runs are found and told apart."""

    KIND, SETTING, IDENTITY = "belay.kind", "belay.setting", "belay.identity"
    PLANNED, DONE = "belay.planned", "belay.done"  # settings
    METRIC, MODE, STEPS, SEEDS = "belay.metric", "belay.mode", "belay.steps", "belay.seeds"
    TASK, DATA, COMMIT, VERSIONS = "belay.task", "belay.data", "belay.commit", "belay.versions"
    CURVATURES = "belay.curvatures"  # of the loss at some seeds' initial weights
    FAMILY, REGIME, OUTCOME = "belay.family", "belay.regime", "belay.outcome"
    CONFIRMED = "belay.confirmed"  # how a finalist's fresh seeds ended
    MESSAGE, DIVERGED_AT = "belay.message", "belay.diverged_at"
    AFTER = "belay.after"  # of a setting's run: how many rows the results on record had when it was written
    PARENT = "mlflow.parentRunId"


STUDY_RUN, SETTING_RUN = "study", "setting"  # values of Tag.KIND
CONFIG_ARTIFACT, RESULTS_ARTIFACT = "config.json", "results.parquet"
LONGEST_TAG, LONGEST_PARAM = 8000, 6000  # characters that MLflow keeps of one; it cuts off the rest
DISTRIBUTION = "belay-study"  # what pip calls this project
PACKAGES = (DISTRIBUTION, "torch", "ray", "optuna", "mlflow", "pandas")  # whose versions are recorded
LIVE, AVERAGE = "live/", "average/"


def live_of(metric: str) -> str:
    """The metric of the model's own weights that belongs to one of their average; a live one is its own."""
    return LIVE + metric.removeprefix(AVERAGE) if metric.startswith(AVERAGE) else metric


def fresh_metric(metric: str) -> str:
    """Name under which the mean, or its error, over a finalist's fresh seeds is recorded."""
    return f"confirmed/{metric}"


def error_metric(metric: str) -> str:
    """Name under which the standard error of a metric's mean over seeds is recorded."""
    return f"{metric}.se"


def identity(value: Any) -> tuple[int, Any]:
    """What two plain values are the same by, and sorted by: 1 is 1.0, and neither "1" nor true; null comes first."""
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1 if isinstance(value, bool) else NUMERIC, value
    return (3, value) if isinstance(value, str) else (4, json.dumps(value, sort_keys=True))


def order(values: Iterable[Any]) -> list[int]:
    """The place of each value among the different ones, sorted as `identity` says."""
    keys = [identity(value) for value in values]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return [places[key] for key in keys]


def family(oscillator: Oscillator) -> Family:
    """EMA, damped (without coupling), BELAY (the average pulls: coupling above 0) or push (coupling below 0)."""
    if oscillator.coupling:
        return "belay" if oscillator.coupling > 0 else "push"
    return "ema" if oscillator.damping == 1 else "damped"


def regime_of(oscillator: Oscillator) -> Regime:
    """An average's regime as studies tell it: critical where the damping ratio is within `CRITICAL` of 1."""
    return "critical" if abs(oscillator.damping_ratio - 1) <= CRITICAL else oscillator.regime


def figures(oscillator: Oscillator, steps: int) -> dict[str, float]:
    """The derived figures of `FIGURES`, by name, for a run of `steps` steps; some may be inf or nan."""
    others = {name: float(getattr(oscillator, name)) for name in FIGURES if name not in NATURAL}
    return natural(oscillator, steps) | others


def natural(oscillator: Oscillator, steps: int) -> dict[str, float]:
    """The natural coordinates of an average in a run of `steps` steps; the damping ratio may be inf or nan.

    Where the steps are not known, 0, the memory is nan.
    """
    return {
        "memory": (oscillator.lag + 1) / steps if steps else math.nan,
        "damping_ratio": oscillator.damping_ratio,
        "mass_ratio": oscillator.effective_mass_ratio,
    }


@dataclass(frozen=True)
class Setting(Mapping[str, Any]):
    """One setting: a mapping of decay, damping, coupling, ``steps`` and the task's own hyperparameters to values."""

    number: int
    parameters: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def oscillator(self) -> Oscillator:
        """The average that this setting asks for."""
        return oscillator_of(self.parameters)

    @property
    def trajectory(self) -> str:
        """What fixes how its seeds are trained, as text: all but an average without coupling, which only watches."""
        watching = PARAMETERS if self["coupling"] == 0 else ()
        return json.dumps({name: value for name, value in self.items() if name not in watching}, sort_keys=True)


def oscillator_of(values: Mapping[str, Any]) -> Oscillator:
    """The oscillator of a setting's values; damping and coupling may be left out."""
    return Oscillator(**{name: float(values.get(name, PLAIN.get(name, math.nan))) for name in PARAMETERS})


@functools.lru_cache(maxsize=1024)  # a grid of 100,000 settings has few pairs, each of which takes 0.3 ms to solve
def _uncoupled(damping_ratio: float, lag: float) -> Oscillator:
    return Oscillator.from_damping_ratio(damping_ratio, lag)


def from_natural(values: Mapping[str, Any], steps: int) -> Oscillator:
    """The oscillator of natural coordinates in a run of `steps` steps; damping and mass ratio may be left out.

    Raises:
        ValueError: There is none.
    """
    memory, ratio, mass = (float({**NATURAL_PLAIN, **values}[name]) for name in NATURAL)
    average = _uncoupled(ratio, memory * steps - 1)
    return replace(average, coupling=mass * average.stiffness / average.damping)


def over_seeds(values: Collection[float]) -> float:
    """The value of a setting, by which it is searched, chosen and shown: the mean of its seeds'; nan if one is nan."""
    return math.fsum(values) / len(values)


def host_of(setting: int) -> int | None:
    """The number of the setting that a rider watched, by its own number; None of one that was asked."""
    return (setting - RIDERS) // MOST_RIDERS if setting >= RIDERS else None


def role_of(seed: int, setting: int = 0) -> Role:
    """What a seed of a setting is for: to search by, to confirm a finalist with, or to carry a rider."""
    if seed >= CONFIRMATION:
        return "confirmation"
    return "search" if host_of(setting) is None else "rider"


@dataclass(frozen=True)
class SeedResult:
    """What one seed of a setting measured: its metrics at every evaluation, and how it ended."""

    seed: int
    history: History = field(default_factory=list)
    state: State = "complete"
    message: str = ""
    diverged_at: int | None = None
    seconds: float = 0.0  # of training and evaluation
    finished: float = 0.0  # Unix time
    riders: dict[str, list[float]] = field(default_factory=dict)  # of each in its place: a metric's value at the end
    note: str = ""  # what was otherwise than planned in its training, a colon, and why; the ledger does not keep it

    def last(self, metric: str) -> float:
        """A metric at the last step that was reported; nan if the run failed, diverged or did not report it there."""
        found = math.nan
        if self.state == "complete" and self.history:
            end = self.history[-1][0]
            for step, metrics in self.history:  # a step may be reported in several parts
                if step == end:
                    found = metrics.get(metric, found)
        return found


@dataclass(frozen=True)
class Printed:
    """What was printed as settings trained together, or its end, and their numbers."""

    text: str
    settings: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What a setting came to over its seeds, in their order."""

    setting: int
    seeds: list[SeedResult]
    printed: Printed | None = None  # of those that trained together the first has it

    def part(self, role: Role) -> Outcome:
        """What it came to on the seeds of one role."""
        return Outcome(self.setting, [result for result in self.seeds if role_of(result.seed) == role])

    def whole(self, stages: Sequence[Collection[int]]) -> Outcome:
        """What it came to on the seeds of those stages of the search that it has all seeds of."""
        have = {result.seed for result in self.seeds}
        whole = {seed for stage in stages if have.issuperset(stage) for seed in stage}
        return Outcome(self.setting, [result for result in self.seeds if result.seed in whole])

    @property
    def notes(self) -> list[str]:
        """What was otherwise than planned in the training of its seeds."""
        return list(dict.fromkeys(result.note for result in self.seeds if result.note))

    @property
    def seconds(self) -> float:
        """What training and evaluation took."""
        return math.fsum(result.seconds for result in self.seeds)

    @property
    def finished(self) -> float:
        """When the last seed ended, as Unix time."""
        return max(result.finished for result in self.seeds)

    @property
    def state(self) -> State:
        """That of its worst seed."""
        return max((result.state for result in self.seeds), key=STATES.index)

    @property
    def message(self) -> str:
        """Why it failed, or ""."""
        return next((result.message for result in self.seeds if result.message), "")

    def value(self, metric: str) -> float:
        """Mean of a metric over seeds; nan unless every seed has it."""
        return over_seeds([result.last(metric) for result in self.seeds])

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote."""
        seeds = [
            SeedResult(**{**s, "history": [(step, metrics) for step, metrics in s["history"]]}) for s in data["seeds"]
        ]
        printed = data["printed"]
        return cls(data["setting"], seeds, printed and Printed(printed["text"], tuple(printed["settings"])))
