"""Studies made up of chosen numbers, written to MLflow once by the recorder itself, for all tests of the findings."""

from __future__ import annotations

import atexit
import functools
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from study.design.config import parse_config
from study.design.schema import Outcome, Scalar, SeedResult
from study.design.study import Study
from study.findings.collect import Records, load

WARNINGS = ["ignore:.*noload.*loader strategy:DeprecationWarning"]  # MLflow's own tables, on SQLAlchemy 2.1

STEPS = 600
AVERAGE, LIVE = "average/val_accuracy", "live/val_accuracy"
RACED, RACED_LIVE = "average/excess_loss", "live/excess_loss"


@dataclass(frozen=True)
class Tried:
    """A setting and what it came to: values by metric and seed, or how it ended without them."""

    drawn: Mapping[str, Scalar]
    values: Mapping[str, Sequence[float]]
    state: str = "complete"
    message: str = ""
    diverged_at: int | None = None

    def outcome(self, number: int, seeds: int) -> Outcome:
        """What the recorder is told: the first half of the run measured a worse value."""
        results = []
        for seed in range(seeds):
            last = {metric: float(values[seed]) for metric, values in self.values.items()}
            history = (
                [(STEPS // 2, {metric: value - 1 for metric, value in last.items()}), (STEPS, last)] if last else []
            )
            bad = self.state != "complete" and seed == seeds - 1  # one seed is enough
            ending = (self.state, self.message, self.diverged_at) if bad else ("complete", "", None)
            result = SeedResult(seed, history, *ending)
            results.append(replace(result, seconds=2.5, finished=1_700_000_000.0 + number))
        return Outcome(number, results)


def average(decay: float, damping: float = 1.0, coupling: float = 0.0, **other: Scalar) -> dict[str, Scalar]:
    return {"decay": decay, "damping": damping, "coupling": coupling, **other}


def numbers(seed: int, mean: float, spread: float = 0.02, seeds: int = 5) -> list[float]:
    """Values of some seeds around a mean: what a seed adds to every setting, and noise."""
    shared = np.random.default_rng(0).normal(0, 0.05, seeds)
    return list(mean + shared + np.random.default_rng(seed + 1).normal(0, spread, seeds))


def measured(seed: int, mean: float, live: float, **options: Any) -> dict[str, list[float]]:
    return {AVERAGE: numbers(seed, mean, **options), LIVE: numbers(seed + 1000, live, **options)}


def accuracy(
    name: str, tried: Sequence[Tried], seeds: int = 5, metric: str = AVERAGE, planned: int | None = None
) -> None:
    """Records a digits study of these settings."""
    task = {"name": "digits", "label_noise": 0.2}
    space = {"decay": {"log_gap": [0.5, 0.9999]}, "damping": {"uniform": [0.1, 1]}, "coupling": {"uniform": [0, 0.4]}}
    space |= {"lr": {"log": [0.01, 4]}, "optimizer": {"choice": ["sgd", "adam"]}}
    record(name, task, metric, space, tried, seeds, planned)


def record(
    name: str,
    task: Any,
    metric: str,
    space: Mapping[str, Any],
    tried: Sequence[Tried],
    seeds: int,
    planned: int | None = None,
    race: bool = False,
    mode: str | None = None,
) -> None:
    from study.execute.record import Recorder

    objective = {"metric": metric, "mode": mode}
    config = {"name": name, "task": task, "steps": STEPS, "seeds": seeds, "objective": objective}
    study = Study.of(parse_config(config | {"space": space, "search": {"settings": len(tried), "race": race}}))
    recorder = Recorder(study, uri())
    recorder.open(planned or len(tried))
    for number, one in enumerate(tried):
        measured = len(one.values[metric]) if race else seeds
        recorder.record(study.setting(number, one.drawn), one.outcome(number, measured))
    recorder.close("FINISHED")


@functools.cache
def uri() -> str:
    """The tracking store of this test session."""
    folder = tempfile.mkdtemp(prefix="belay-findings-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return f"sqlite:///{folder}/mlflow.db"


@functools.cache
def records(name: str) -> Records:
    """The records of one of the studies in `STUDIES`, which is written when it is first asked for."""
    STUDIES[name]()
    return load(name, uri())


# --- the studies ------------------------------------------------------------------------------------------------------

MIXED = [
    Tried(average(0.9, lr=0.5, optimizer="sgd"), measured(0, 0.70, 0.66)),
    Tried(average(0.99, lr=1.0, optimizer="sgd"), measured(1, 0.80, 0.70)),
    Tried(average(0.99, 0.3, lr=1.0, optimizer="adam"), measured(2, 0.78, 0.72)),
    Tried(average(0.95, 0.4, 0.1, lr=1.0, optimizer="sgd"), measured(3, 0.90, 0.75)),
    Tried(average(0.96, 0.5, 0.1, lr=2.0, optimizer="sgd"), measured(4, 0.89, 0.95)),
    Tried(average(0.9, 0.2, 0.3, lr=4.0, optimizer="adam"), measured(5, 0.99, 0.99), "diverged", diverged_at=17),
    Tried(average(0.98, lr=3.0, optimizer="adam"), {}, "failed", "RuntimeError: no batch fits\nhere"),
]


def mixed() -> None:
    """Five settings of every family that are complete, one that diverged and one that failed; BELAY wins."""
    accuracy("mixed", MIXED, planned=9)


def tiny() -> None:
    """A loss of a millionth, smaller is better, which plain EMA wins; BELAY was tried too."""
    space = {"decay": {"uniform": [0.5, 0.99]}, "coupling": {"choice": [0.0, 0.2]}, "lr": {"log": [0.01, 1]}}
    tried = [
        Tried(average(0.9, lr=0.1), loss(3e-6, 1)),
        Tried(average(0.95, lr=0.1), loss(1e-6, 2)),
        Tried(average(0.95, coupling=0.2, lr=0.1), loss(2e-6, 3)),
    ]
    record("tiny", "quadratic", "average/excess_loss", space, tried, seeds=4)


def pushed() -> None:
    """As `tiny`, with a push, a coupling below 0, beside BELAY."""
    space = {"decay": 0.95, "coupling": {"choice": [-0.02, 0.0, 0.2]}, "lr": {"log": [0.01, 1]}}
    tried = [
        Tried(average(0.95, lr=0.1), loss(1e-6, 2)),
        Tried(average(0.95, coupling=0.2, lr=0.1), loss(3e-6, 3)),
        Tried(average(0.95, coupling=-0.02, lr=0.1), loss(2e-6, 4)),
    ]
    record("pushed", "quadratic", "average/excess_loss", space, tried, seeds=4)


def loss(mean: float, seed: int) -> dict[str, list[float]]:
    draws = np.random.default_rng(seed).normal(mean, 1e-7, (2, 4))
    return {"average/excess_loss": list(draws[0]), "live/excess_loss": list(10 * draws[1])}


def raced() -> None:
    """A race: two seeds of each, six of three settings, fourteen of two; a BELAY that left it did best on its two."""
    tried = [
        Tried(average(0.9, lr=0.1), {RACED: [0.30, 0.32], RACED_LIVE: [0.4, 0.4]}),
        Tried(average(0.95, lr=0.1), {RACED: [0.20, 0.21] * 3, RACED_LIVE: [0.4] * 6}),
        Tried(average(0.96, lr=0.1), {RACED: [0.18, 0.22] * 7, RACED_LIVE: [0.4] * 14}),
        Tried(average(0.95, coupling=0.2, lr=0.1), {RACED: [0.10, 0.11], RACED_LIVE: [0.4, 0.4]}),
        Tried(average(0.96, coupling=0.2, lr=0.1), {RACED: [0.17, 0.20] * 7, RACED_LIVE: [0.4] * 14}),
    ]
    space = {"decay": {"uniform": [0.5, 0.99]}, "coupling": {"choice": [0.0, 0.2]}, "lr": {"log": [0.01, 1]}}
    record("raced", "quadratic", RACED, space, tried, seeds=4, race=True)


def one_seed() -> None:
    accuracy(
        "one-seed", [Tried(one.drawn, measured(i, 0.7 + i / 20, 0.6, seeds=1)) for i, one in enumerate(MIXED[:4])], 1
    )


def constant() -> None:
    """Every setting measured the same on every seed."""
    accuracy("constant", [Tried(one.drawn, {AVERAGE: [0.5] * 3, LIVE: [0.5] * 3}) for one in MIXED[:4]], 3)


def all_diverged() -> None:
    accuracy("all-diverged", [Tried(one.drawn, {}, "diverged", diverged_at=5) for one in MIXED[:3]], 2)


def all_failed() -> None:
    accuracy("all-failed", [Tried(one.drawn, {}, "failed", "OSError: gone") for one in MIXED[:2]], 2)


def live() -> None:
    """The model's own weights decide."""
    accuracy("live", [Tried(one.drawn, one.values) for one in MIXED[:5]], metric=LIVE)


def coupled() -> None:
    """BELAY alone: no EMA and no training without a pull were measured."""
    accuracy("coupled", [Tried(one.drawn, one.values) for one in MIXED[3:5]])


def emas() -> None:
    """EMA alone."""
    tried = [Tried(average(decay), {AVERAGE: numbers(place, 0.8)}) for place, decay in enumerate((0.9, 0.95, 0.99))]
    accuracy("emas", tried)


def many() -> None:
    """Enough settings for quarters of a continuous parameter."""
    rng = np.random.default_rng(7)
    tried = []
    for number in range(16):
        drawn = average(
            1 - 10 ** -(1 + number / 5), float(rng.uniform(0.1, 1)), lr=float(number + 1) / 4, optimizer="sgd"
        )
        tried.append(Tried(drawn, {AVERAGE: list(rng.normal(0.8, 0.05, 2))}))
    accuracy("many", tried, 2)


def many_and_emas() -> None:
    """As `many`, with three plain EMAs."""
    rng = np.random.default_rng(8)
    averages = [(0.95, float(damping)) for damping in np.linspace(0.2, 0.9, 16)] + [
        (0.9 + n / 50, 1.0) for n in range(3)
    ]
    scores = [{AVERAGE: list(rng.normal(0.8, 0.05, 2))} for _ in averages]
    tried = [Tried(average(*one, lr=1.0, optimizer="sgd"), score) for one, score in zip(averages, scores, strict=True)]
    accuracy("many-and-emas", tried, 2)


def steep() -> None:
    """Enough settings to tell what matters: the learning rate does."""
    rng = np.random.default_rng(9)
    tried = []
    for lr in np.geomspace(0.1, 4, 40):
        drawn = average(float(rng.uniform(0.8, 0.99)), float(rng.uniform(0.1, 1)), lr=float(lr), optimizer="sgd")
        tried.append(Tried(drawn, {AVERAGE: list(0.6 + 0.1 * np.log(lr) + rng.normal(0, 0.005, 2))}))
    accuracy("steep", tried, 2)


def in_natural_coordinates() -> None:
    """Two memories with two damping ratios and EMA, drawn in natural coordinates."""
    space = {"memory": {"choice": [0.05, 0.1]}, "damping_ratio": {"choice": [0.3, 0.7, "inf"]}, "mass_ratio": 2}
    drawn = [
        {"memory": memory, "damping_ratio": ratio, "mass_ratio": 2}
        for memory in (0.05, 0.1)
        for ratio in (0.3, 0.7, "inf")
    ]
    tried = [Tried(one, {AVERAGE: [0.8 - number / 100] * 2}) for number, one in enumerate(drawn)]
    record("natural", {"name": "digits"}, AVERAGE, space, tried, seeds=2)


def ridden() -> None:
    """Two trainings that four averages watched, of which one was not finite on a seed, and BELAY."""
    from study.execute.record import Recorder

    config: dict[str, Any] = {"name": "ridden", "task": "digits", "steps": STEPS, "seeds": 2}
    config |= {"objective": {"metric": AVERAGE}, "space": {"decay": 0.9, "coupling": {"choice": [0.0, 0.1]}, "lr": 1.0}}
    riders = {
        "memory": [0.05, 0.2],
        "damping_ratio": ["inf", 1],
    }  # in this order: (0.05, inf), (0.05, 1), (0.2, inf) ...
    study = Study.of(parse_config(config | {"search": {"settings": 3, "riders": riders}}))
    recorder = Recorder(study, uri())
    recorder.open(3)
    for number, (lr, values) in enumerate(((0.1, [0.70, 0.71, 0.72, 0.73]), (1.0, [0.60, 0.90, 0.62, math.nan]))):
        results = [
            SeedResult(
                seed, [(STEPS, {AVERAGE: 0.5, LIVE: 0.4})], riders={AVERAGE: [each + seed / 10 for each in values]}
            )
            for seed in range(2)
        ]
        recorder.record(study.setting(number, average(0.95, lr=lr)), Outcome(number, results))
    recorder.record(
        study.setting(2, average(0.95, coupling=0.1, lr=1.0)), Tried({}, {AVERAGE: [0.8, 0.8]}).outcome(2, 2)
    )
    recorder.close("FINISHED")


def shaped() -> None:
    """Hyperparameters of every shape: a list, a text like a number, whole and other numbers, null."""
    from study.execute.record import Recorder

    config = {"name": "shaped", "task": {"name": "tasks_of_tests:parabola"}, "steps": STEPS, "seeds": 1}
    config |= {"objective": {"metric": "average/score", "mode": "max"}, "space": {"decay": 0.9}}
    study = Study.of(parse_config(config | {"search": {"settings": 3}}))
    recorder = Recorder(study, uri())
    recorder.open(3)
    tried = [([64, 64], "1e-3", 1, None), ([32], "1e3", 0.5, 0.1), ([64, 64], "a", 2, None)]
    for number, values in enumerate(tried):
        setting = study.setting(
            number, average(0.9) | dict(zip(("layers", "tag", "power", "clip"), values, strict=True))
        )
        score = {"average/score": 1.0 - number / 10}
        recorder.record(setting, Outcome(number, [SeedResult(0, [(STEPS, score)])]))
    recorder.close("FINISHED")


def conditional() -> None:
    """A parameter that varies with one optimizer only, all of them EMAs."""
    task, metric = {"name": "tasks_of_tests:parabola"}, "average/score"
    space = {"decay": 0.9, "optimizer": {"choice": ["sgd", "adam"]}}
    space |= {"beta": {"uniform": [0.1, 0.9], "when": {"optimizer": "adam"}}}
    tried = [
        Tried({"decay": 0.9, "optimizer": "adam", "beta": 0.1}, {metric: [0.5, 0.6]}),
        Tried({"decay": 0.9, "optimizer": "adam", "beta": 0.9}, {metric: [0.7, 0.8]}),
        Tried({"decay": 0.9, "optimizer": "sgd"}, {metric: [0.4, 0.5]}),
        Tried({"decay": 0.9, "optimizer": "adam", "beta": 0.5}, {metric: [0.6, 0.6]}),
    ]
    record("conditional", task, metric, space, tried, seeds=2, mode="max")


STUDIES = {
    "mixed": mixed,
    "conditional": conditional,
    "tiny": tiny,
    "pushed": pushed,
    "raced": raced,
    "one-seed": one_seed,
    "constant": constant,
    "all-diverged": all_diverged,
    "all-failed": all_failed,
    "live": live,
    "coupled": coupled,
    "emas": emas,
    "many": many,
    "many-and-emas": many_and_emas,
    "steep": steep,
    "natural": in_natural_coordinates,
    "shaped": shaped,
    "ridden": ridden,
}
