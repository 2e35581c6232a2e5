"""The settings as rows of the page's table, those that did not finish, and all data as a file inside the page."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass

import pandas as pd

from belay import Oscillator
from study.design.schema import FIGURES, PARAMETERS, host_of, regime_of
from study.errors import counted, printable
from study.findings.collect import Records
from study.findings.compare import ranking, values
from study.pictures.base import drawn
from study.pictures.points import points
from study.show import mean_text, number

PLACE = "#"  # the column of a setting's place, by a name that no hyperparameter has
SHOWN = 1000  # settings in the table, best first
ENDED = 100  # settings that did not finish, listed
LONGEST = 500  # characters of a message that are shown
CELLS = 400_000  # of the data, from which they are not even tried to fit
LARGEST = 1_500_000  # characters of the data inside the page
MEANINGS = {
    "se": "standard error of the mean over seeds",
    "seeds": "seeds of the search",
    "fresh": "mean over the fresh seeds, which took no part in the search",
    **PARAMETERS,
    **FIGURES,
}


@dataclass(frozen=True)
class Head:
    """A column's head: its name, what it means, and whether it holds numbers."""

    name: str
    title: str
    number: bool


@dataclass(frozen=True)
class Row:
    """A setting's cells, and where it lies on the regime map."""

    cells: list[str]
    gap: float
    damping: float


@dataclass(frozen=True)
class Download:
    """A compressed CSV file: its name, its content in base64, and what it holds."""

    name: str
    content: str
    note: str


def table(records: Records) -> tuple[list[Head], list[Row]]:
    """The best settings with their figures."""
    best = ranking(records).head(SHOWN)
    shown = pd.DataFrame({PLACE: range(1, len(best) + 1), "setting": best.index}, index=best.index)
    shown = shown.assign(**{records.metric: best["mean"]}, se=best["se"], seeds=best["seeds"])
    fresh = values(records, records.metric, fresh=True)
    if len(fresh):
        shown["fresh"] = fresh.mean(axis=1).reindex(best.index)
    names = [*PARAMETERS, *(name for name in records.varied if name not in PARAMETERS)]
    shown = pd.concat([shown, best[names], best[["memory", "damping_ratio", "mass_ratio"]]], axis=1)
    shown["regime"] = [regime_of(Oscillator(*average)) for average in best[[*PARAMETERS]].itertuples(index=False)]
    heads = [Head(str(name), MEANINGS.get(str(name), ""), shown[name].infer_objects().dtype.kind in "if")
             for name in shown]  # fmt: skip
    texts = shown.astype(object).map(number)
    texts[records.metric] = [mean_text(mean, error) for mean, error in zip(best["mean"], best["se"], strict=True)]
    cells = map(list, texts.itertuples(index=False, name=None))
    places = zip((1 - best["decay"]).map(drawn), best["damping"].map(drawn), strict=True)
    return heads, [Row(line, gap, damping) for line, (gap, damping) in zip(cells, places, strict=True)]


def table_note(records: Records, rows: int) -> str:
    """What the table holds."""
    complete = len(ranking(records))
    if complete == 1:
        return "The only setting that is complete."
    which = f"The best {rows} of {complete}" if rows < complete else f"All {complete}"
    return f"{which} complete settings and riders, best first; a click on a head sorts by it. Printed, the first 25."


def ended(records: Records) -> tuple[list[tuple[str, str, str, str]], str]:
    """Number, state, step and message of settings that did not finish, and how many there are."""
    settings = records.settings.assign(state=points(records).set_index("setting")["state"])
    settings = settings[settings.index.map(host_of).isna()]
    bad = settings[settings["state"] != "complete"]
    found = []
    for setting, state, step, message in bad[["state", "diverged_at", "message"]].head(ENDED).itertuples(name=None):
        text = _so_far(records, setting) if state == "unfinished" else printable(message)[:LONGEST]
        found.append((str(setting), state, number(step), text or "-"))
    more = f", of which the first {ENDED} are listed" if len(bad) > ENDED else ""
    return found, f"{counted(len(bad), 'setting')} in all{more}; riders are not counted."


def _so_far(records: Records, setting: int) -> str:
    """How many of the seeds that every setting gets have the objective."""
    rows = records.table[(records.table["setting"] == setting) & (records.table["seed"] < records.seeds)]
    done = rows[records.metric].notna().sum() if records.metric in rows else 0
    return f"{done} of {counted(records.seeds, 'seed')} so far"


def download(records: Records) -> Download:
    """All data as far as they fit into the page: a row for each setting and seed, or else for each setting."""
    held = pd.concat([records.table, records.fresh]).drop(columns="message")
    if held.size <= CELLS and len(content := _packed(held)) <= LARGEST:
        return Download(f"{records.name}.csv.gz", content, f"{len(held)} rows, one for each setting and seed.")
    means = records.settings.drop(columns="message").join(ranking(records)[["mean", "se", "seeds"]])
    note = (
        f"{len(means)} rows, one for each setting, with the mean of {records.metric} and its standard error. The "
        f"{len(held)} rows of all seeds and metrics are too many for this page; they are the artifact results.parquet "
        "of the study's MLflow run."
    )
    return Download(f"{records.name}-settings.csv.gz", _packed(means.reset_index()), note)


def _packed(rows: pd.DataFrame) -> str:
    text = rows.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
