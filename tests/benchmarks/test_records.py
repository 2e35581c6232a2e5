"""What MLflow's records cost: of a setting on SQLite, and of an answer from many."""

from __future__ import annotations

import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from programs import seconds_of

from study import results
from study.design.config import parse_config
from study.design.places import Connections
from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.inline import back_end
from study.execute.ledger import Ledger
from study.execute.record import Recorder
from study.execute.sweep import run
from study.execute.tables import opened
from study.execute.train import train_pack
from study.execute.train.probe import room
from study.tracking import artifacts, connect

FULL = os.environ.get("BELAY_BENCHMARK_SIZE") == "full"
SETTINGS, MANY = (100, 10_000) if FULL else (10, 100)
SEEDS, METRICS = 4, ("val_accuracy", "val_loss")


def asked(name: str, settings: int) -> Study:
    config = {"name": name, "task": "digits", "steps": 600, "seeds": SEEDS, "search": {"settings": settings}}
    config |= {"objective": {"metric": "average/val_accuracy"}, "space": {"decay": {"uniform": [0.5, 0.99]}, "lr": 0.1}}
    return Study.of(parse_config(config))


def tried(study: Study, settings: int) -> Iterator[tuple[Setting, Outcome]]:
    """Settings and outcomes of random numbers, as a study of digits measures them."""
    rng = random.Random(0)
    names = [system + metric for system in ("average/", "live/") for metric in METRICS]
    for number in range(settings):
        drawn = {"decay": rng.uniform(0.5, 0.99), "damping": rng.choice([1.0, 0.5]), "coupling": rng.choice([0.0, 0.1])}
        seeds = [
            SeedResult(seed, [(step, {name: rng.random() for name in names}) for step in range(120, 601, 120)])
            for seed in range(SEEDS)
        ]
        yield study.setting(number, drawn | {"lr": rng.uniform(0.1, 1)}), Outcome(number, seeds)


def test_records_of_a_setting(figure: Callable[..., None], databases: Path) -> None:
    study = asked("records", SETTINGS)
    recorder = Recorder(study, f"sqlite:///{databases}/mlflow.db")
    recorder.open(SETTINGS)
    each = list(tried(study, SETTINGS))
    began = time.perf_counter()
    for setting, outcome in each:
        recorder.record(setting, outcome)
    recorder.close("FINISHED")
    figure("records of a setting in MLflow, SQLite", "", 1000 * (time.perf_counter() - began) / SETTINGS, 25, "ms")


def test_answer_from_many_settings(figure: Callable[..., None], databases: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{databases}/mlflow.db"
    study, client = asked("many", MANY), connect(uri, "tracking", "see the traceback")
    recorder = Recorder(study, uri)
    recorder.open(MANY)
    recorder.close("FINISHED")
    experiment = client.get_experiment_by_name("many")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    rows = [row for each in tried(study, MANY) for row in results.rows(*each, "")]
    results.write(artifacts(client, run.info.run_id), results.table(rows))
    commands = {"best": ("-m", "study", "best", "many"), "import": ("-c", "import mlflow")}
    commands["report"] = ("-m", "study", "report", "many", "-o", "report.html")
    times = 3 if FULL else 1
    taken = {name: min(seconds_of(*command, home=tmp_path) for _ in range(times)) for name, command in commands.items()}
    what = f"{MANY} settings x {SEEDS} seeds"
    figure(f"belay-study best, {what}", "import mlflow", taken["best"] - taken["import"], 1, "s")
    figure(f"belay-study report, {what}", "", taken["report"], 30, "s")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000  # of the largest process
    figure(f"belay-study report, {what}, memory", "", memory, 1000, "MB")
    figure(f"belay-study report, {what}, file", "", (tmp_path / "report.html").stat().st_size / 1e6, 5, "MB")


def test_training_with_records_beside_training_without(figure: Callable[..., None], databases: Path) -> None:
    settings, steps, repetitions = (48, 300, 5) if FULL else (8, 30, 1)

    def study_of(name: str) -> Study:
        config = {"name": name, "task": {"name": "digits", "batch_size": 100}, "steps": steps, "seeds": SEEDS}
        config |= {"objective": {"metric": "average/val_accuracy"}, "search": {"settings": settings, "baseline": 0}}
        space = {"decay": {"uniform": [0.5, 0.99]}, "coupling": {"uniform": [0.01, 0.3]}, "lr": {"log": [0.1, 1]}}
        return Study.of(parse_config(config | {"space": space}))

    def recorded(name: str) -> None:
        storage, tracking = (f"sqlite:///{databases}/{file}.db" for file in ("ledger", "mlflow"))
        run(study_of(name), Connections.of(storage, tracking), back_end, lambda _: None, lambda _: None)

    def trained(name: str) -> None:
        study, url = study_of(name), f"sqlite:///{databases}/ledger.db"
        with opened(url, making=True) as engine, back_end(study.config):
            ledger = Ledger(engine, name, url)
            ledger.begin(study.config)
            asker = Asker(study, ledger, room(study).runs)
            while (pack := asker.next()) is not None:
                asker.tell(list(train_pack(study, pack)))

    taken: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(-1, repetitions):  # the first ones import and make tables
        for how, function in (("with", recorded), ("without", trained)):
            began = time.perf_counter()
            function(f"{how}-{number + 1}")
            if number >= 0:
                taken[how].append(time.perf_counter() - began)
    ratio = statistics.median(taken["with"]) / statistics.median(taken["without"])
    figure(f"{settings} settings x {SEEDS} seeds, recorded in MLflow, SQLite", "not recorded", ratio, 1.1)
