"""What MLflow's runs hold beside the results: what a study asked, and what people search and plot settings by."""

from __future__ import annotations

import io
import json
import math
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from statistics import stdev

from study.design.schema import (
    PACKAGES,
    STUDY_RUN,
    Outcome,
    Setting,
    Tag,
    error_metric,
    family,
    figures,
    fresh_metric,
    over_seeds,
    regime_of,
)
from study.design.study import Study
from study.design.tasks.base import Task
from study.design.tasks.curvature import largest_curvature
from study.errors import printable, reason, shortened
from study.execute.train.undisturbed import TRAINING, defaults_kept, seeded

CURVED = 4  # seeds at whose initial weights the curvature is measured
LONGEST_MESSAGE = 500  # characters; the table of results has all that is kept
POINTS = 10  # of a metric's history, evenly spread; each costs MLflow's database a row


def study_tags(study: Study) -> dict[str, str]:
    """The tags that say what a study asks, and of which data and code.

    Raises:
        BadInput: The task's data cannot be read.
    """
    config = study.config
    return {
        Tag.KIND: STUDY_RUN,
        Tag.IDENTITY: config.identity,
        Tag.METRIC: config.objective.metric,
        Tag.MODE: study.mode,
        Tag.STEPS: str(config.steps),
        Tag.SEEDS: str(config.first_seeds),
        Tag.TASK: json.dumps(config.task.model_dump(mode="json")),
        Tag.DATA: study.data_digest(),
        Tag.COMMIT: _commit(),
        Tag.VERSIONS: json.dumps({package: version(package) for package in PACKAGES}),
    }


def _curvature(task: Task, seed: int) -> float:
    """The largest curvature at the weights from which a seed's training starts; what the task prints is left out."""
    with defaults_kept(), seeded(TRAINING, seed), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return largest_curvature(task, seed)


def curvature_tag(study: Study) -> dict[str, str]:
    """The tag with the largest curvature at the first seeds' initial weights, or with why it is not known."""
    if not study.is_plain_sgd:
        return {}
    assert isinstance(study.task, Task)
    if study.config.limits.setting_seconds is not None:  # it would hang here, where nothing ends it
        return {
            Tag.CURVATURES: json.dumps("a task that may hang, as `limits.setting_seconds` says, is not tried for it")
        }
    found: list[float] | str
    try:
        found = [_curvature(study.task, seed) for seed in range(min(CURVED, study.config.seeds))]
    except Exception as error:  # whatever a task may raise
        raised = printable(f"{type(error).__name__}: {reason(error)}")
        found = shortened(f"the loss has to be differentiable twice, but that raised {raised}", LONGEST_MESSAGE)
    return {Tag.CURVATURES: json.dumps(found)}


def _commit() -> str:
    """The commit checked out in the working directory; "" where there is none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def labels(setting: Setting, outcome: Outcome) -> dict[str, str]:
    """The tags that say what a setting is and how it ended."""
    searched, fresh = outcome.part("search"), outcome.part("confirmation")
    steps = [result.diverged_at for result in searched.seeds if result.diverged_at is not None]
    found = {
        Tag.FAMILY: family(setting.oscillator),
        Tag.REGIME: regime_of(setting.oscillator),
        Tag.OUTCOME: searched.state,
        Tag.SEEDS: str(len(outcome.seeds)),
        Tag.MESSAGE: shortened(searched.message, LONGEST_MESSAGE),
    }
    if fresh.seeds:
        found[Tag.CONFIRMED] = fresh.state
    return found | ({Tag.DIVERGED_AT: str(min(steps))} if steps else {})


def metrics(setting: Setting, outcome: Outcome) -> Iterator[tuple[str, float, int, float]]:
    """Name, value, step and Unix time of everything measured or derived; nothing that is not finite.

    The mean over seeds is kept only of a setting that every seed completed, so that MLflow sorts no other first. That
    over a finalist's fresh seeds has a name of its own. What the search measured has the search's time, so that it is
    the same entry when a finalist is recorded once more.
    """
    searched, fresh = outcome.part("search"), outcome.part("confirmation")
    if searched.state == "complete":
        yield from _means(searched)
    if fresh.seeds and fresh.state == "complete":
        yield from ((fresh_metric(name), value, step, then) for name, value, step, then in _means(fresh))
    for name, value in figures(setting.oscillator, int(setting["steps"])).items():
        if math.isfinite(value):
            yield f"oscillator/{name}", value, 0, searched.finished
    yield "seconds", outcome.seconds, 0, outcome.finished


def _means(part: Outcome) -> Iterator[tuple[str, float, int, float]]:
    """The mean over seeds, and its standard error, at steps that all of them reported."""
    values: dict[str, dict[int, list[float]]] = {}
    for result in part.seeds:
        for step, reported in result.history:
            for name, value in reported.items():
                values.setdefault(name, {}).setdefault(step, []).append(value)
    seeds = len(part.seeds)
    for name, by_step in values.items():
        shared = [
            (step, each)
            for step, each in sorted(by_step.items())
            if len(each) == seeds and all(map(math.isfinite, each))
        ]
        for step, each in _spread(shared):
            yield name, over_seeds(each), step, part.finished
            if seeds > 1:
                yield error_metric(name), stdev(each) / seeds**0.5, step, part.finished


def _spread(items: Sequence[tuple[int, list[float]]]) -> Sequence[tuple[int, list[float]]]:
    """At most `POINTS` of the items, evenly spread, the first and the last among them."""
    if len(items) <= POINTS:
        return items
    return [items[round(place * (len(items) - 1) / (POINTS - 1))] for place in range(POINTS)]
