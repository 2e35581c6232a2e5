"""Studies from Python, in a notebook or a program: `run` one or `load` one, and ask for what it says."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # what takes seconds to import is imported where it is called for
    import pandas as pd

    from study.execute.packs import Progress
    from study.findings.collect import Records
    from study.findings.compare import Baseline, Method
    from study.findings.importance import Importances
    from study.findings.recommend import Recommendation
    from study.findings.regimes import Region
    from study.pictures.base import Picture


def run(
    config: str | Path | Mapping[str, Any],
    changes: Sequence[str] = (),
    *,
    watch: Callable[[Progress], None] | None = None,
    inline: bool = False,
    tracking: str | None = None,
    storage: str | None = None,
) -> Results:
    """Runs a study, or what is left of it, and gives its results.

    Args:
        config: The study's YAML file, or what such a file holds.
        changes: Changes of it, as the command line's ``--set`` takes them: ``"seeds=16"``.
        watch: Called with the progress at the start and after each pack; left out, stderr shows it.
        inline: Whether to train in this process, without Ray.
        tracking: MLflow tracking URI; left out, the config's, MLFLOW_TRACKING_URI or a file in ``.belay-study``.
        storage: URL of the ledger; left out, the config's, BELAY_STORAGE_URL or a file in ``.belay-study``.

    Raises:
        BadInput: The study cannot be run as asked.
        FailedWork: Every setting failed, or a worker or MLflow could not do its part; what is done is kept.
        Interrupted: By Ctrl-C, or a notebook's stop button; what is done is kept, and the same call goes on.
    """
    from study.design.config import parse_config
    from study.design.document import apply_override, read_document
    from study.design.study import Study
    from study.execute.sweep import run as sweep
    from study.live import LiveView, opening
    from study.options import connecting

    document = copy.deepcopy(dict(config)) if isinstance(config, Mapping) else read_document(Path(config))
    for change in changes:
        apply_override(document, change)
    study = Study.of(parse_config(document))
    if inline:
        from study.execute.inline import back_end
    else:
        from study.execute.cluster import back_end
    asked = study.config
    view = LiveView(asked.objective.metric, opening(study, inline))
    with (
        connecting(storage or asked.storage.url, tracking or asked.tracking.uri, inline, hurried=False) as chosen,
        view if watch is None else nullcontext(),
    ):
        if asked.search.start_from is not None:
            from study.earlier import begun

            study = begun(study, chosen.connections, view.say)
        sweep(study, chosen.connections, back_end, watch or view.show, view.say)
        return load(asked.name, chosen.connections.tracking)


def load(study: str, tracking: str | None = None) -> Results:
    """The results of a study that was run before, finished or not.

    Args:
        study: Its name.
        tracking: MLflow tracking URI; left out, MLFLOW_TRACKING_URI or a file in ``.belay-study``.

    Raises:
        BadInput: There are no records of it.
    """
    from study.findings.collect import load as records_of
    from study.options import connecting

    with connecting(tracking=tracking) as chosen:
        return Results(records_of(study, chosen.connections.tracking))


@dataclass(frozen=True)
class Results:
    """What a study came to.

    Attributes:
        records: Its records; ``records.table`` has a row for each setting and seed.
    """

    records: Records

    def __repr__(self) -> str:
        records = self.records
        return f"Results({records.name!r}: {records.metric} of {len(records.settings)} settings and riders)"

    def best(self) -> Best:
        """The recommended setting, with its evidence.

        Raises:
            FailedWork: No setting was completed by every seed.
        """
        from study.findings.recommend import recommend

        return Best(recommend(self.records))

    def settings(self) -> pd.DataFrame:
        """The complete settings and riders, best first: mean, standard error, seeds and parameters."""
        from study.findings.compare import ranking

        return ranking(self.records)

    def compare(
        self, family: Baseline | Method | None = None, baseline: Baseline | Method | None = None
    ) -> pd.DataFrame:
        """The best setting, or the best of a family, beside the best of others, paired over seeds.

        Args:
            family: ``ema``, ``damped``, ``belay``, ``push``, ``none`` or a method of `belay.methods`.
            baseline: The same; left out, each family that was measured.

        Raises:
            BadInput: There is no such family, or the study has not measured it.
        """
        from study.findings.recommend import compared

        return compared(self.records, family, baseline)

    def region(self) -> Region | None:
        """Where the truly best setting lies; None where settings have one seed."""
        from study.findings.regimes import region

        return region(self.records, self.best().recommendation.setting)

    def importance(self) -> Importances:
        """Which parameters matter."""
        from study.findings.importance import importances

        return importances(self.records)

    def plot(self, kind: str, theme: Literal["light", "dark"] = "light") -> Drawing:
        """One of the report's pictures, which a notebook shows.

        Raises:
            BadInput: There is no such kind, or the study has no data for it.
        """
        from study.pictures.catalogue import picture

        return Drawing(picture(self.records, kind), theme)

    def report(self, path: str | Path) -> Path:
        """Writes the report as one HTML file; its path.

        Raises:
            BadInput: It cannot be written there.
        """
        from study.report.page import report
        from study.show import write

        return write(Path(path), report(self.records).encode(), "path")


@dataclass(frozen=True, repr=False)
class Best:
    """The recommended setting: its values in ``recommendation``, and as a table that a notebook shows."""

    recommendation: Recommendation

    def __repr__(self) -> str:
        from study.answer import answer

        return answer(self.recommendation)

    def _repr_html_(self) -> str:
        from study.answer import lines

        rows = "".join(
            f"<tr><th>{html.escape(head)}</th><td>{html.escape(text)}</td></tr>"
            for head, text in lines(self.recommendation)
        )
        return f'<table style="text-align: left">{rows}</table>'

    def export(self, path: str | Path) -> Path:
        """Writes the defaults file that `belay.load_defaults` reads; its path.

        Raises:
            BadInput: It cannot be written there.
        """
        from study.findings.recommend import defaults_file
        from study.show import write

        return write(Path(path), defaults_file(self.recommendation).encode(), "path")


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture, which a notebook shows."""

    picture: Picture
    theme: Literal["light", "dark"]

    def __repr__(self) -> str:
        return self.picture.description

    def _repr_svg_(self) -> str:
        from study.pictures.catalogue import image

        return image(self.picture, "svg", self.theme).decode()

    def save(self, path: str | Path) -> Path:
        """Writes it as the file's name says, PNG or SVG; its path.

        Raises:
            BadInput: The name ends in neither, or it cannot be written there.
        """
        from study.pictures.catalogue import image
        from study.show import picture_form, write

        file = Path(path)
        form = picture_form(file, None, "path")
        return write(file, image(self.picture, form, self.theme), "path")
