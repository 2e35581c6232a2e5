"""What a defaults file loses in a run of another length or batch size, and what the raw average would lose there.

For each family a search at 300 steps chooses the average. It is carried to another run as it is (raw) and as
`belay.load_defaults` fits it, and judged there beside the best that a search of that run finds, which may choose either
of them too. All three have their learning rate tuned in that run, on the same seeds, so that the average alone is
carried over; and all are measured on fresh seeds, which took no part in choosing.

By default it is a glance; BELAY_BENCHMARK_SIZE=full says something, in a few minutes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import qmc

from belay import Oscillator, load_defaults
from belay.defaults import FORMAT
from study.design.config import parse_config
from study.design.document import dump_document
from study.design.schema import PARAMETERS, from_natural
from study.design.study import Study
from study.execute.plan import pack
from study.execute.train import train_pack
from study.findings.compare import Difference, difference

pytestmark = pytest.mark.timeout(0)  # as long as it takes
FULL = os.environ.get("BELAY_BENCHMARK_SIZE") == "full"
MEMORIES = np.geomspace(0.01, 0.64, 13 if FULL else 2).tolist()  # shares of the run
RATIOS = ["inf", 0.5, 0.7, 1, 2] if FULL else ["inf", 1]
COUPLED = 64 if FULL else 2  # Sobol points
LONGER = 6  # candidates of each group that get more seeds
FRESH = 10_000  # the first of the seeds that all are measured on

Candidate = tuple[Oscillator, float]  # an average and a learning rate
Values = dict[Candidate, pd.Series]  # by seed


@dataclass(frozen=True)
class Run:
    """What a recommendation is carried to; `batch_size` where it is the change, over as many samples."""

    name: str
    steps: int
    batch_size: int | None = None


@dataclass(frozen=True)
class Question:
    """What is trained, and how much of it.

    Attributes:
        task: The config's entry.
        metric: The objective.
        lrs: Learning rates that are tried.
        seeds: How many all candidates get, how many more the better ones, and how many fresh ones.
        room: Trainings side by side.
        runs: What a recommendation is carried to.
    """

    task: Mapping[str, Any]
    metric: str
    lrs: tuple[float, ...]
    seeds: tuple[int, int, int]
    room: int
    runs: tuple[Run, ...]


HERE = Run("here", 300 if FULL else 40)
LENGTHS = (Run("4 x steps", 4 * HERE.steps), Run("1/2 x steps", HERE.steps // 2))
BATCHES = (Run("2 x batch", HERE.steps // 2, 64), Run("4 x batch", HERE.steps // 4, 128))
QUESTIONS = {
    "digits": Question(
        {"name": "digits", "label_noise": 0.2, "batch_size": 32},
        "average/val_accuracy",
        tuple(0.05 * 2**power for power in (range(7) if FULL else (2,))),
        (6, 18, 48) if FULL else (2, 2, 2),
        32,
        (*LENGTHS, *BATCHES) if FULL else BATCHES[1:],
    ),
    "quadratic": Question(
        {"name": "quadratic"},
        "average/excess_loss",
        tuple(0.005 * 2 ** (power / 2) for power in (range(15) if FULL else (8,))),
        (24, 72, 256) if FULL else (2, 2, 2),
        256,
        LENGTHS if FULL else LENGTHS[1:],
    ),
}


def study_of(question: Question, run: Run) -> Study:
    """A study of one average at every learning rate, whose trainings the grid's averages watch."""
    task = {**question.task} | ({"batch_size": run.batch_size} if run.batch_size else {})
    memories = [memory for memory in MEMORIES if memory * run.steps >= 1.5]
    search = {"sampler": "grid", "riders": {"memory": memories, "damping_ratio": RATIOS}}
    config = {"name": "transfer", "task": task, "steps": run.steps, "evaluations": 1, "search": search}
    space = {"decay": {"choice": [0.9]}, "lr": {"choice": question.lrs}}
    return Study.of(parse_config(config | {"objective": {"metric": question.metric}, "space": space}))


def measured(question: Question, run: Run, candidates: Iterable[Candidate], seeds: range) -> Values:
    """The metric of each candidate by seed; nan where its training diverged."""
    study, candidates = study_of(question, run), list(dict.fromkeys(candidates))
    drawn = [{name: getattr(average, name) for name in PARAMETERS} | {"lr": lr} for average, lr in candidates]
    lacking = [(study.setting(number, values), seeds) for number, values in enumerate(drawn)]
    found = {candidate: pd.Series(math.nan, seeds) for candidate in candidates}
    for some in pack(study, lacking, question.room):
        for outcome in train_pack(study, some):
            for result in outcome.seeds:
                found[candidates[outcome.setting]][result.seed] = result.last(question.metric)
    return found


def watched(question: Question, run: Run, seeds: range) -> Values:
    """The metric of each average of the grid at each learning rate, by seed; nan where the training diverged."""
    study = study_of(question, run)
    hosts = [study.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in enumerate(question.lrs)]
    found = {candidate: pd.Series(math.nan, seeds) for candidate in product(study.riders, question.lrs)}
    for some in pack(study, [(host, seeds) for host in hosts], question.room, range(len(hosts))):
        for outcome in train_pack(study, some):
            for result in outcome.seeds:
                values = result.riders.get(question.metric, [])
                for average, value in zip(study.riders, values, strict=bool(values)):
                    found[average, question.lrs[outcome.setting]][result.seed] = value
    return found


def best(question: Question, run: Run, groups: Mapping[str, Sequence[Candidate]], first: int) -> dict[str, Candidate]:
    """The best candidate of each group: of all that a few seeds were given, the best get more.

    Args:
        question: What is asked.
        run: Where.
        groups: Candidates, of which several groups may have the same.
        first: The first of the seeds by which they are chosen.
    """
    few, more, _ = question.seeds
    sign = -1 if study_of(question, run).mode == "max" else 1

    def cost(values: pd.Series) -> float:
        return math.inf if values.isna().any() else sign * float(values.mean())

    before = watched(question, run, range(first, first + few))
    others = dict.fromkeys(one for group in groups.values() for one in group if one not in before)
    before |= measured(question, run, others, range(first, first + few))
    better = {name: sorted(group, key=lambda one: cost(before[one]))[:LONGER] for name, group in groups.items()}
    going = dict.fromkeys(one for group in better.values() for one in group)
    after = measured(question, run, going, range(first + few, first + few + more))
    return {
        name: min(group, key=lambda one: cost(pd.concat([before[one], after[one]]))) for name, group in better.items()
    }


def pools(question: Question, run: Run) -> dict[str, list[Candidate]]:
    """What a search of each family tries: the grid's averages, and for BELAY Sobol points."""
    grid = list(product(study_of(question, run).riders, question.lrs))
    coupled: list[Candidate] = []
    low, high = np.log([0.02, 0.5, question.lrs[0]]), np.log([0.5, 30, 2 * question.lrs[-1]])
    for *point, mass in qmc.Sobol(4, rng=np.random.default_rng(0)).random(COUPLED):
        memory, ratio, lr = map(float, np.exp(low + (high - low) * point))
        if memory * run.steps > max(1.5, 0.2 + 6 * mass):  # else the coupling reaches 1
            natural = {"memory": memory, "damping_ratio": ratio, "mass_ratio": 0.2 + 6 * mass}
            coupled.append((from_natural(natural, run.steps), lr))
    emas = [candidate for candidate in grid if candidate[0].damping == 1]
    return {"EMA": emas, "damped": [one for one in grid if one[0].damping != 1], "BELAY": coupled}


def fitted(average: Oscillator, run: Run, folder: Path) -> list[Oscillator]:
    """An average of the run here, written into a defaults file and loaded for another run; none where refused."""
    path = folder / "defaults.yaml"
    setting = {name: getattr(average, name) for name in PARAMETERS}
    transfer = {"steps": HERE.steps, "batch_size": QUESTIONS["digits"].task["batch_size"]}
    path.write_text(dump_document({"format": FORMAT, "setting": setting, "transfer": transfer}), encoding="utf-8")
    try:
        return [load_defaults(path, **({"batch_size": run.batch_size} if run.batch_size else {"steps": run.steps}))]
    except ValueError:
        return []


def carried(question: Question, chosen: Mapping[str, Candidate], run: Run, folder: Path) -> dict[str, Candidate]:
    """By family and way ("new", "fitted", "raw"): the best there, each with the learning rate that suits it there."""
    groups = {}
    for family, pool in pools(question, run).items():
        average, _ = chosen[family]
        groups[f"{family} fitted"] = list(product(fitted(average, run, folder), question.lrs))
        groups[f"{family} raw"] = [(average, lr) for lr in question.lrs]
        groups[f"{family} new"] = [*pool, *groups[f"{family} fitted"], *groups[f"{family} raw"]]
    return best(question, run, {name: group for name, group in groups.items() if group}, first=1000)


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_a_recommendation_loses_in_another_run(name: str, figure: Callable[..., None], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    question = QUESTIONS[name]
    chosen = best(question, HERE, pools(question, HERE), first=0)
    for run in question.runs:
        found = carried(question, chosen, run, tmp_path)
        values = measured(question, run, found.values(), range(FRESH, FRESH + question.seeds[2]))
        rows = {way: values[candidate] for way, candidate in found.items()}
        for family, here in chosen.items():
            memories = f"memory {memory(here, HERE)} here, {memory(found[f'{family} new'], run)} there"
            ways = [rows.get(f"{family} {way}") for way in ("new", "raw", "fitted")]
            note(figure, f"{name}, {run.name}, {family}, {memories}", question, *ways)


def note(
    figure: Callable[..., None],
    what: str,
    question: Question,
    new: pd.Series,
    raw: pd.Series,
    close: pd.Series | None,
) -> None:
    """Adds a line: what the fitted average loses against the best there, asked to be at most what the raw one does."""
    accuracy = question.metric.endswith("accuracy")
    scale, unit = (100, "points") if accuracy else (100 / new.mean(), "%")

    def lead(ours: pd.Series, theirs: pd.Series) -> Difference:
        others = pd.DataFrame([scale * theirs])
        return difference(scale * ours, others, others.index[0], "max" if accuracy else "min", chosen_from=2)

    lost_raw = lead(new, raw)
    if close is None:
        figure(f"{what}: fitting is refused", f"raw, {interval(lost_raw)}", math.nan, lost_raw.mean, unit)
        return
    lost, gain = lead(new, close), lead(close, raw)
    against = f"raw, {interval(lost_raw)}; fitted gains {interval(gain)} on it"
    figure(f"{what}: fitted loses {interval(lost)}", against, lost.mean, lost_raw.mean, unit)


def memory(candidate: Candidate, run: Run) -> str:
    average, lr = candidate
    return f"{(average.lag + 1) / run.steps:.2g} (lr {lr:.2g})"


def interval(found: Difference) -> str:
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"
