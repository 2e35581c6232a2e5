"""The ledger: what was asked of each study and what it came to, a row a (setting, seed). The one truth.

A driver writes twice for a setting: when it is asked, together with all others of its wave, and when its pack is done,
together with all others of the pack. Each is one transaction, in which the driver's lease is renewed: a driver that
lost its lease writes nothing, and a killed one leaves nothing half written.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, case, delete, func, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError

from study.design.config import StudyConfig, parse_config
from study.design.places import secrets, sqlite_file, without_password
from study.design.schema import CONFIRMATION, STATES, History, Outcome, SeedResult, Setting, Value, host_of, live_of
from study.design.study import Study
from study.errors import BadInput, FailedWork, reason
from study.execute.lease import Lease
from study.execute.plan import plan
from study.execute.printed import Page, pages
from study.execute.printed import rows as printed_rows
from study.execute.tables import HISTORIES, OF_STUDIES, PRINTED, RESULTS, RIDERS, SETTINGS, STUDIES, opened

Ridden = dict[str, list[float]]  # what the riders of a seed measured, by metric


@dataclass(frozen=True)
class Asked:
    """A setting that was asked.

    Attributes:
        search: The search that it belongs to.
        drawn: What the search's sampler drew, by its own names.
        setting: The setting that came of it.
    """

    search: str
    drawn: dict[str, Value]
    setting: Setting


@dataclass(frozen=True)
class Counts:
    """How far a study is, in settings; one is done when all of its seeds are."""

    planned: int
    done: int
    pruned: int
    diverged: int
    failed: int
    raced: int  # those with more seeds than every setting gets
    confirmed: int  # those with all fresh seeds


class Ledger:
    """One study's pages of the ledger.

    Args:
        engine: The ledger's database.
        name: The study.
        url: The database's URL, for messages.
        lease: The right to drive the study; may be left out where no other driver can reach the database.
    """

    def __init__(self, engine: Engine, name: str, url: str, lease: Lease | None = None) -> None:
        self._engine, self._name, self._url, self._lease = engine, name, url, lease
        self._found = self._find()
        with self._reading() as connection:
            self._tables = inspect(connection).get_table_names()  # not all where it is read as it was before them

    @property
    def config(self) -> StudyConfig | None:
        """The study's config; None where the ledger has no such study."""
        return None if self._found is None else parse_config(json.loads(self._found[1]))

    def begin(self, config: StudyConfig) -> None:
        """Enters the study, or its new extent.

        Raises:
            BadInput: The ledger holds a study of this name that asks something else, or more.
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        check_growth(self.config, config, self._url)
        row = {"name": config.name, "folded": config.name.casefold(), "config": json.dumps(config.plain())}
        with self._writing() as connection:
            if self._found is None:
                self._check_case(connection)
                connection.execute(insert(STUDIES).values(row))
            else:
                connection.execute(update(STUDIES).where(STUDIES.c.id == self._found[0]).values(row))
        self._found = self._find()

    def ask(self, wave: Sequence[Asked]) -> None:
        """Keeps the settings of a wave.

        Raises:
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        rows = [
            {
                "study": self._study,
                "number": asked.setting.number,
                "search": asked.search,
                "drawn": json.dumps(asked.drawn),
                "parameters": json.dumps(dict(asked.setting)),
            }
            for asked in wave
        ]
        with self._writing() as connection:
            connection.execute(insert(SETTINGS), rows)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps what a pack came to.

        Raises:
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        if not outcomes:
            return
        metric = self._metric
        results = [_result_row(self._study, each.setting, result, metric) for each in outcomes for result in each.seeds]
        histories = [_history_row(self._study, outcome) for outcome in outcomes]
        riders = [row for outcome in outcomes for row in _rider_rows(self._study, outcome)]
        printed = list(printed_rows(self._study, outcomes))
        with self._writing() as connection:
            connection.execute(insert(RESULTS), results)
            connection.execute(insert(HISTORIES), histories)
            for table, rows in ((RIDERS, riders), (PRINTED, printed)):
                if rows:
                    connection.execute(insert(table), rows)

    def asked(self) -> list[Asked]:
        """The settings that were asked, in the order of their numbers."""
        query = select(SETTINGS).where(SETTINGS.c.study == self._study).order_by(SETTINGS.c.number)
        with self._reading() as connection:
            return [
                Asked(row.search, json.loads(row.drawn), Setting(row.number, json.loads(row.parameters)))
                for row in connection.execute(query)
            ]

    def outcomes(self) -> dict[int, Outcome]:
        """What each setting came to, by number.

        Of the histories there are only the objective's last value and that of its live counterpart, of riders only the
        objective's.
        """
        query = select(RESULTS).where(RESULTS.c.study == self._study).order_by(RESULTS.c.setting, RESULTS.c.seed)
        found: dict[int, Outcome] = {}
        metric = self._metric
        with self._reading() as connection:
            riders = self._riders(connection)
            for row in connection.execute(query):
                outcome = found.setdefault(row.setting, Outcome(row.setting, []))
                last = {live_of(metric): row.live, metric: row.value}
                values = {name: value for name, value in last.items() if value is not None}
                ridden = {
                    name: each for name, each in riders.get((row.setting, row.seed), {}).items() if name == metric
                }
                outcome.seeds.append(_result(row, [(row.step, values)] if values else [], ridden))
        return found

    def histories(self) -> Iterator[Outcome]:
        """What the seeds of all settings measured as they went, without how they ended."""
        query = select(HISTORIES.c.setting, HISTORIES.c.histories).where(HISTORIES.c.study == self._study)
        with self._reading() as connection:
            for page in connection.execute(query):
                yield Outcome(page.setting, [SeedResult(seed, each) for seed, each in _histories(page.histories)])

    def outcome(self, setting: int) -> Outcome:
        """What one setting came to, with the whole of its histories."""
        place = {"study": self._study, "setting": setting}
        results = select(RESULTS).filter_by(**place).order_by(RESULTS.c.seed)
        pages = select(HISTORIES.c.histories).filter_by(**place)
        with self._reading() as connection:
            histories = {seed: each for page in connection.execute(pages).scalars() for seed, each in _histories(page)}
            riders = self._riders(connection, setting)
            rows = connection.execute(results)
            return Outcome(
                setting, [_result(row, histories[row.seed], riders.get((setting, row.seed), {})) for row in rows]
            )

    def printed(self, setting: int) -> list[Page]:
        """What a setting printed as it trained, a page for each time; of a rider also what its host printed.

        Raises:
            BadInput: The study has no such setting, or it has not trained yet.
        """
        host = host_of(setting)
        trained = [setting] if host is None else [host, setting]
        found = select(RESULTS.c.seed).where(RESULTS.c.study == self._study, RESULTS.c.setting.in_(trained))
        with self._reading() as connection:
            if connection.execute(found).first() is not None:
                return list(pages(connection, self._study, trained)) if PRINTED.name in self._tables else []
        raise self._not_done(setting, trained[0])

    def counts(self, study: Study) -> Counts:
        """How far the study is; nothing is changed."""
        worst = case({state: rank for rank, state in enumerate(STATES)}, value=RESULTS.c.state)
        seeds, confirm = study.config.first_seeds, study.config.confirm
        each = select(func.max(worst), func.count()).where(RESULTS.c.study == self._study).group_by(RESULTS.c.setting)
        searched = each.where(RESULTS.c.seed < CONFIRMATION).having(func.count() >= seeds)
        fresh = each.where(RESULTS.c.seed >= CONFIRMATION).having(func.count() >= (confirm.seeds if confirm else 1))
        searches = select(SETTINGS.c.search).where(SETTINGS.c.study == self._study).order_by(SETTINGS.c.number)
        with self._reading() as connection:
            done = connection.execute(searched).all()
            confirmed = len(connection.execute(fresh).scalars().all())
            asked = list(connection.execute(searches).scalars())
        states = [STATES[rank] for rank, _ in done]
        return Counts(
            planned=plan(study, asked).settings,
            done=len(done),
            pruned=states.count("pruned"),
            diverged=states.count("diverged"),
            failed=states.count("failed"),
            raced=sum(count > seeds for _, count in done),
            confirmed=confirmed,
        )

    def size(self) -> tuple[int, int]:
        """How many settings of the study there are, and how many results, one for each seed of a setting."""
        settings, results = (
            select(func.count()).select_from(table).where(table.c.study == self._study) for table in (SETTINGS, RESULTS)
        )
        with self._reading() as connection:
            return connection.execute(settings).scalar_one(), connection.execute(results).scalar_one()

    def delete(self) -> None:
        """Removes the study and all that there is of it.

        Raises:
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        with self._writing() as connection:
            for table in OF_STUDIES:
                connection.execute(delete(table).where(table.c.study == self._study))
            connection.execute(delete(STUDIES).where(STUDIES.c.id == self._study))
        self._found = None

    def _not_done(self, setting: int, asked: int) -> BadInput:
        """Says that a setting, or the one that a rider watches, has not trained, or that there is no such."""
        assert self.config is not None  # as `printed` has found it
        count = self.counts(Study.of(self.config))
        if not 0 <= asked < count.planned:
            rule = f"one of the study's {count.planned}, from 0 to {count.planned - 1}, or a rider of theirs"
            return BadInput(
                f"the setting must be {rule}, got {setting} of {self._name!r}; choose another "
                f"(`belay-study best {self._name}`)."
            )
        return BadInput(
            f"the setting must be one that is done, got {setting} of {self._name!r}, of which {count.done} of "
            f"{count.planned} are; wait (`belay-study status {self._name}`), or choose another "
            f"(`belay-study best {self._name}`)."
        )

    @property
    def _metric(self) -> str:
        config = self.config
        assert config is not None  # `begin` has entered it
        return config.objective.metric

    @property
    def _study(self) -> int:
        assert self._found is not None  # `begin` has entered it
        return self._found[0]

    def _riders(self, connection: Connection, setting: int | None = None) -> dict[tuple[int, int], Ridden]:
        """What riders measured, by setting and seed: of all settings or of one."""
        if RIDERS.name not in self._tables:
            return {}
        query = select(RIDERS.c.setting, RIDERS.c.riders).where(RIDERS.c.study == self._study)
        pages = connection.execute(query if setting is None else query.where(RIDERS.c.setting == setting))
        return {(page.setting, seed): riders for page in pages for seed, riders in _ridden(page.riders)}

    def _find(self) -> tuple[int, str] | None:
        """The study's id and config."""
        query = select(STUDIES.c.id, STUDIES.c.config).where(STUDIES.c.name == self._name)
        with self._reading() as connection:
            if not inspect(connection).has_table(STUDIES.name):
                return None
            row = connection.execute(query).first()
        return None if row is None else (row.id, row.config)

    def _check_case(self, connection: Connection) -> None:
        query = select(STUDIES.c.name).where(STUDIES.c.folded == self._name.casefold())
        if taken := connection.execute(query).scalar():
            raise BadInput(
                f"names of studies must differ by more than upper and lower case, got {self._name!r} beside {taken!r} "
                f"in {without_password(self._url)}; choose another `name`."
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._refusing("be readable"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction in which this driver's lease is renewed first."""
        with self._refusing("take what is asked and told"), self._engine.begin() as connection:
            if self._lease is not None:
                self._lease.check(connection)
            yield connection

    @contextmanager
    def _refusing(self, rule: str) -> Iterator[None]:
        """Turns an error of the database into one line."""
        try:
            yield
        except SQLAlchemyError as error:
            raise FailedWork(
                f"`storage.url` must {rule}, got {reason(error, secrets(self._url))}; mend it, then "
                f"`belay-study resume {self._name}`."
            ) from None  # as its text may hold the password


def check_growth(old: StudyConfig | None, new: StudyConfig, url: str) -> None:
    """Raises BadInput unless a study may go on under its name with a new config: the same question, no less of it."""
    if old is None:
        return
    name = new.name
    if old.identity != new.identity:
        raise BadInput(
            f"the study's name must be new or its config the same, got {name!r} with another config in "
            f"{without_password(url)}; change `name`, e.g. to {name}-2, or resume the old one."
        )
    for key, before, after in (
        ("seeds", old.seeds, new.seeds),
        ("search.settings", old.search.settings or 0, new.search.settings or 0),
        ("search.baseline", old.search.emas, new.search.emas),
        ("confirm.finalists", old.confirm.finalists if old.confirm else 0, new.confirm.finalists if new.confirm else 0),
        ("confirm.seeds", old.confirm.seeds if old.confirm else 0, new.confirm.seeds if new.confirm else 0),
    ):
        if after < before:
            raise BadInput(
                f"`{key}` must not shrink, got {after} of {name!r}, which has {before} in {without_password(url)}; "
                f"leave it, or change `name`, e.g. to {name}-2."
            )


def stored_config(name: str, url: str) -> StudyConfig:
    """The config of a study in the ledger.

    Raises:
        BadInput: The ledger cannot be opened or has no study of this name.
    """
    config = find_config(name, url)
    if config is None:
        raise BadInput(
            f"the study must exist in {without_password(url)}, got {name!r}; `belay-study list` shows what does."
        )
    return config


def check_name(config: StudyConfig, url: str) -> None:
    """Raises BadInput if the ledger holds a study of this name that asks something else, or more; makes nothing."""
    check_growth(find_config(config.name, url), config, url)


def counts(study: Study, url: str) -> Counts:
    """How far a study of the ledger is, in settings; nothing is changed."""
    with opened(url, making=False) as engine:
        return Ledger(engine, study.config.name, url).counts(study)


def printed(name: str, setting: int, url: str) -> list[Page]:
    """What a setting of a study in the ledger printed as it trained, a page for each time.

    Raises:
        BadInput: The ledger cannot be opened, has no such study, or the study no such setting that is done.
    """
    stored_config(name, url)
    with opened(url, making=False) as engine:
        return Ledger(engine, name, url).printed(setting)


def find_config(name: str, url: str) -> StudyConfig | None:
    """The config of a study in the ledger; None where there is none. Nothing is made."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return None
    with opened(url, making=False) as engine:
        return Ledger(engine, name, url).config


def _result_row(study: int, setting: int, result: SeedResult, metric: str) -> dict[str, Any]:
    ends = [(step, values) for step, values in result.history if metric in values]
    step, values = ends[-1] if ends else (None, {})
    row: dict[str, Any] = {"study": study, "setting": setting, "seed": result.seed, "step": step}
    row |= {"value": values.get(metric), "live": values.get(live_of(metric))}
    row |= {"state": result.state, "message": result.message, "diverged_at": result.diverged_at}
    return row | {"seconds": result.seconds, "finished": result.finished}


def _result(row: Row[Any], history: History, riders: Ridden) -> SeedResult:
    return SeedResult(row.seed, history, row.state, row.message, row.diverged_at, row.seconds, row.finished, riders)


def _rider_rows(study: int, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """One row of what the riders of an outcome measured; none if there are none."""
    seeds = {
        result.seed: {
            name: [value if math.isfinite(value) else None for value in values]
            for name, values in result.riders.items()
        }
        for result in outcome.seeds
        if result.riders
    }
    if seeds:
        row = {"study": study, "setting": outcome.setting, "seed": min(seeds)}
        yield row | {"riders": zlib.compress(json.dumps(seeds).encode())}


def _ridden(page: bytes) -> Iterator[tuple[int, Ridden]]:
    """Seeds, and what riders measured on them, that `_rider_rows` wrote."""
    for seed, metrics in json.loads(zlib.decompress(page)).items():
        yield (
            int(seed),
            {name: [math.nan if value is None else value for value in values] for name, values in metrics.items()},
        )


def _history_row(study: int, outcome: Outcome) -> dict[str, Any]:
    """One row of an outcome's histories, each a table: steps and the metrics' values, null where one is missing."""
    metrics = list(dict.fromkeys(name for result in outcome.seeds for _, values in result.history for name in values))
    seeds = [
        [result.seed, [[step, *map(values.get, metrics)] for step, values in result.history]]
        for result in outcome.seeds
    ]
    row = {"study": study, "setting": outcome.setting, "seed": outcome.seeds[0].seed}
    return row | {"histories": zlib.compress(json.dumps({"metrics": metrics, "seeds": seeds}).encode())}


def _histories(page: bytes) -> Iterator[tuple[int, History]]:
    """Seeds and histories that `_history_row` wrote."""
    kept = json.loads(zlib.decompress(page))
    for seed, rows in kept["seeds"]:
        yield seed, [(step, _reported(kept["metrics"], values)) for step, *values in rows]


def _reported(metrics: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    return {name: value for name, value in zip(metrics, values, strict=True) if value is not None}
