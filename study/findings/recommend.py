"""The recommendation: one setting with its evidence, as plain data and as a defaults file that `belay` loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd

from belay import Oscillator
from belay.defaults import FORMAT
from study.design.document import dump_document, plain
from study.design.schema import NATURAL, PARAMETERS, Tag, Value, figures, host_of, oscillator_of, over_seeds, regime_of
from study.errors import FailedWork
from study.findings.choose import FEWEST, row, shrunken
from study.findings.collect import Records
from study.findings.compare import (
    BASELINES,
    Baseline,
    Comparison,
    Method,
    against,
    beside,
    best_of,
    comparisons,
    confirmed,
    metric_of,
    ranking,
    rivals,
    values,
)
from study.findings.regimes import Region, possible, region


@dataclass(frozen=True)
class Recommendation:
    """The best setting by its mean over seeds, and how sure that is.

    Attributes:
        records: The study's records.
        setting: Its number.
        parameters: Its values.
        mean: Mean of the objective over seeds.
        se: Standard error of the mean; nan with one seed.
        shrunken: The mean, less some of its luck, where it was chosen by the seeds that it is measured on, of enough
            settings to say; else None.
        seeds: Seeds that it was searched by; in a race more than other settings.
        fresh: How many fresh seeds, which took no part in the search, the mean is over; 0 if none.
        finalists: How many settings were confirmed on these, of which it is the best.
        rivals: Numbers of the settings and riders that cannot be told from it, best first; None if nothing is known of
            that, with one seed.
        left: Settings and riders that left a race before it.
        tried: Complete settings it was chosen from.
        riders: Averages that it was chosen from too, which watched the trainings of `hosts` settings.
        hosts: How many settings had riders.
        pruned: Settings that stopped early.
        diverged: Settings that diverged.
        failed: Settings that failed.
        unfinished: Settings and riders whose seeds so far all completed, but that lack a seed which every setting gets.
        versus: The comparisons that could be made with the best EMA and with no averaging; where one of these is the
            best itself, also with the best damped average, BELAY and push.
    """

    records: Records
    setting: int
    parameters: dict[str, Value]
    mean: float
    se: float
    shrunken: float | None
    seeds: int
    fresh: int
    finalists: int
    rivals: list[int] | None
    left: int
    tried: int
    riders: int
    hosts: int
    pruned: int
    diverged: int
    failed: int
    unfinished: int
    versus: list[Comparison]

    @property
    def settled(self) -> bool:
        """Whether it is told from all others that have as many seeds, at 95 % over all of them at once."""
        return self.others > 0 and self.rivals == [] and (self.fresh or self.seeds) >= FEWEST

    @property
    def others(self) -> int:
        """How many complete settings and riders there are beside it."""
        return self.tried + self.riders - 1

    @property
    def oscillator(self) -> Oscillator | None:
        """The recommended average; None of a table without averages."""
        return oscillator_of(self.parameters) if self.records.derived else None


def recommend(records: Records) -> Recommendation:
    """Chooses the complete setting with the best mean over the seeds of the search, in a race of those with most seeds.

    Where finalists were confirmed on fresh seeds, it is the one with the best mean over these, of those that completed
    them, and what it came to is told by them alone.

    Raises:
        FailedWork: No setting was completed by every seed.
    """
    table = ranking(records)
    states = records.settings["state"].value_counts()
    if table.empty:
        mend = "lower the learning rate or mend the task"
        if not records.run:
            mend = "a cell that is empty, nan, inf or beyond 1e100 has diverged: fill it, or remove its seed's rows"
        raise FailedWork(
            f"a setting must have completed every seed to be recommended, got none of {records.name!r} "
            f"({states.get('diverged', 0)} diverged, {states.get('failed', 0)} failed); {mend}."
        )
    hosts = Counter(host for number in table.index if (host := host_of(int(number))) is not None)
    finalists = confirmed(records)
    best = finalists[0] if finalists else int(table.index[0])
    chosen = row(table, best)
    measured = row(values(records, records.metric, fresh=bool(finalists)), best).dropna()
    versus = _versus(records, best, ("ema", "none"))
    if any(comparison.itself for comparison in versus):
        versus = _versus(records, best, BASELINES)
    return Recommendation(
        records=records,
        setting=best,
        parameters={name: plain(chosen[name]) for name in records.parameters},
        mean=over_seeds(measured),
        se=float(cast(float, measured.sem())),
        shrunken=None if finalists else _shrunken(records, best),
        seeds=int(chosen["seeds"]),
        fresh=len(measured) if finalists else 0,
        finalists=len(finalists),
        rivals=rivals(records, best),
        left=int((table["seeds"] < chosen["seeds"]).sum()),
        tried=len(table) - sum(hosts.values()),
        riders=sum(hosts.values()),
        hosts=len(hosts),
        pruned=int(states.get("pruned", 0)),
        diverged=int(states.get("diverged", 0)),
        failed=int(states.get("failed", 0)),
        unfinished=int(states.get("complete", 0)) - len(table),
        versus=versus,
    )


def _versus(records: Records, best: int, baselines: Sequence[Baseline]) -> list[Comparison]:
    """The comparisons that could be made of the best setting."""
    return [found for baseline in baselines if (found := against(records, best, baseline))]


def compared(
    records: Records, family: Baseline | Method | None = None, baseline: Baseline | Method | None = None
) -> pd.DataFrame:
    """The best setting, or the best of a family, beside the best of a baseline, or of each that was measured.

    Raises:
        BadInput: The study has not measured one that was asked for.
        FailedWork: No setting was completed by every seed.
    """
    if family is None:
        return comparisons(records, recommend(records).setting, baseline)
    return comparisons(records, best_of(records, family), baseline, metric_of(records, family))


def as_data(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as plain data: what ``belay-study best --format json`` prints."""
    found, records = recommendation, recommendation.records
    average = found.oscillator
    return {
        "study": records.name,
        "setting": found.parameters,
        "number": found.setting,
        "rider_of": host_of(found.setting),
        "metric": records.metric,
        "mode": records.mode,
        "mean": found.mean,
        "standard_error": plain(found.se),
        "shrunken_mean": found.shrunken,
        "seeds": found.seeds,
        "fresh_seeds": found.fresh,
        "finalists": found.finalists,
        "settings_tried": found.tried,
        "settings_planned": records.planned,
        "riders": found.riders,
        "left": found.left,
        "pruned": found.pruned,
        "diverged": found.diverged,
        "failed": found.failed,
        "unfinished": found.unfinished,
        "rivals": found.rivals,
        "settled": found.settled,
        "finished": records.finished if records.run else None,  # no table says so
        "regime": average and regime_of(average),
        "oscillator": average and {name: plain(value) for name, value in figures(average, records.steps).items()},
        "versus": {comparison.baseline: _difference(comparison) for comparison in found.versus},
        "notes": list(records.notes),
    }


def defaults_file(recommendation: Recommendation) -> str:
    """The text of the defaults file that `belay.load_defaults` reads."""
    found, records, data = recommendation, recommendation.records, as_data(recommendation)
    where = region(records, found.setting)
    transfer = {name: data["oscillator"][name] for name in NATURAL}
    evidence = ["metric", "mode", "mean", "standard_error", "seeds", "fresh_seeds"]
    evidence += ["settings_tried", "settings_planned", "riders", "left", "versus"]
    document = {
        "format": FORMAT,
        "setting": found.parameters,
        "as_good": _as_good(found),
        "oscillator": {"regime": data["regime"], **data["oscillator"]},
        "region": where and _region(where),
        "transfer": {"steps": records.steps, "batch_size": found.parameters.get("batch_size"), **transfer},
        "evidence": {name: data[name] for name in evidence},
        "origin": {
            "study": records.name,
            "task": records.task,
            "data": records.tags.get(Tag.DATA, ""),
            "mlflow_run": records.run,
            "commit": records.tags.get(Tag.COMMIT, ""),
            "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    head = f"# Recommended by the study {records.name}; load it with belay.load_defaults(path, steps=...).\n"
    return head + dump_document(document)


def _as_good(found: Recommendation) -> dict[str, Any] | None:
    """What the best setting and those span that cannot be told from it; None if nothing is known of that."""
    if found.rivals is None:
        return None
    settings = ranking(found.records).loc[[found.setting, *found.rivals]]
    ends = {name: [plain(settings[name].min()), plain(settings[name].max())] for name in (*PARAMETERS, *NATURAL)}
    return {"settings": len(settings), **ends}


def _region(found: Region) -> dict[str, Any]:
    """Where the truly best setting lies: ranges and probabilities, of regimes and families that may be it."""
    return {
        "candidates": found.candidates,
        "likely": found.likely,
        "regimes": {kind: round(share, 4) for kind, share in possible(found.regimes).items()},
        "families": {kind: round(share, 4) for kind, share in possible(found.families).items()},
        "ranges": {name: [_rounded(ends.low), _rounded(ends.high)] for name, ends in found.ranges.items()},
    }


def _rounded(value: float) -> Any:
    """A figure at nine digits, as plain data: equal ones that were computed in two ways are the same."""
    return plain(float(f"{value:.9g}"))


def _shrunken(records: Records, best: int) -> float | None:
    """The best setting's mean, shrunken among those of all that have as many seeds; None where there are too few."""
    means = shrunken(beside(records, best))
    return None if means is None else float(means[best])


def _difference(comparison: Comparison) -> dict[str, Any]:
    difference = {name: plain(value) for name, value in asdict(comparison.difference).items()}
    difference["settled"] = comparison.difference.settled
    return {
        "setting": comparison.setting,
        "metric": comparison.metric,
        "mean": comparison.mean,
        "difference": difference,
        "fresh": comparison.fresh,
    }
