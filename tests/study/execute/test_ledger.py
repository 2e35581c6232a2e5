"""What the ledger keeps and says of a study, on SQLite and on PostgreSQL, and what it says if it cannot."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text, update
from studies import small

from study.design.config import parse_config
from study.design.schema import MOST_RIDERS, RIDERS, Outcome, Printed, SeedResult
from study.design.study import Study
from study.errors import BadInput
from study.execute import tables
from study.execute.ask import Asker
from study.execute.ledger import Counts, Ledger, check_name, counts, printed, stored_config
from study.execute.printed import Page
from study.execute.tables import VERSIONS, opened


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{request.getfixturevalue('databases')}/ledger.db"


HISTORY = [(30, {"average/excess_loss": 0.7, "live/excess_loss": 0.9}), (60, {"average/excess_loss": 0.5})]


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(search={"sampler": "random", "settings": 3, "baseline": 1}, **changes)))


def refused(url: str) -> str:
    with pytest.raises(BadInput) as caught, opened(url, making=True):
        pass
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@contextmanager
def asking(study: Study, url: str) -> Iterator[tuple[Ledger, Asker]]:
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        yield ledger, Asker(study, ledger)


def run(study: Study, url: str, *states: str) -> None:
    """Asks for settings and keeps that they ended so."""
    with asking(study, url) as (_, asker):
        for state in states:
            pack = asker.next()
            assert pack is not None
            results = [SeedResult(0, HISTORY), SeedResult(1, HISTORY, state)]  # type: ignore[arg-type]
            asker.tell([Outcome(pack.settings[0].number, results)])


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_is_told_comes_back_whole_and_in_the_table_by_the_objective_s_last_value(url):
    study = study_of()
    told = [
        SeedResult(0, HISTORY, seconds=1.5, finished=1.7e9),
        SeedResult(1, HISTORY[:1], "diverged", diverged_at=31, seconds=0.5, finished=1.8e9),
    ]
    with asking(study, url) as (ledger, asker):
        pack = asker.next()
        ledger.tell([Outcome(0, told)])
        assert ledger.asked()[0].setting == pack.settings[0]
        assert ledger.outcome(0) == Outcome(0, told)
        (ends,) = ledger.outcomes().values()
        assert ends.seeds[0].history == [(60, {"average/excess_loss": 0.5})]  # the live one was not reported then
        assert ends.seeds[1].history == [(30, {"live/excess_loss": 0.9, "average/excess_loss": 0.7})]
        assert (ends.seconds, ends.finished, ends.state) == (2.0, 1.8e9, "diverged")
        assert ends.seeds[1].diverged_at == 31


def test_seeds_that_are_added_later_have_histories_of_their_own(url):
    with asking(study_of(), url) as (ledger, asker):
        asker.next()
        ledger.tell([Outcome(0, [SeedResult(0, HISTORY), SeedResult(1, HISTORY[:1])])])
        ledger.tell([Outcome(0, [SeedResult(2, HISTORY[1:])])])
        ledger.tell([])
        assert [result.history for result in ledger.outcome(0).seeds] == [HISTORY, HISTORY[:1], HISTORY[1:]]


def test_values_out_of_range_and_texts_of_any_script_come_back(url):
    told = Outcome(0, [SeedResult(0, [(60, {"average/x": -math.inf})], message="Grüße ✓")])
    with asking(study_of(), url) as (ledger, asker):
        asker.next()
        ledger.tell([told])
        assert ledger.outcome(0) == told
        assert ledger.outcomes()[0].seeds[0].history == []  # the objective is another metric


# --- how far a study is -----------------------------------------------------------------------------------------------


def test_settings_are_counted_over_all_searches_by_what_they_came_to(url):
    study = study_of()
    run(study, url, "complete", "diverged", "failed")
    assert counts(study, url) == Counts(planned=4, done=3, pruned=0, diverged=1, failed=1, raced=0, confirmed=0)


def test_a_setting_that_is_asked_and_not_told_is_not_done(url):
    study = study_of()
    with asking(study, url) as (_, asker):
        asker.next()
        assert counts(study, url) == Counts(planned=4, done=0, pruned=0, diverged=0, failed=0, raced=0, confirmed=0)


def test_a_setting_that_lacks_seeds_of_a_study_that_grew_is_not_done(url):
    run(study_of(), url, "complete", "diverged")
    assert counts(study_of(seeds=3), url) == Counts(
        planned=4, done=0, pruned=0, diverged=0, failed=0, raced=0, confirmed=0
    )


def test_the_config_comes_back_as_it_was_given(url):
    study = study_of()
    run(study, url)
    assert stored_config("small", url).question == study.config.question


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_may_be_used_again_for_the_same_question_alone(url):
    check_name(study_of().config, url)
    run(study_of(), url)
    check_name(study_of(resources={"cpus": 2}).config, url)
    check_name(study_of(name="other", steps=61).config, url)
    with pytest.raises(BadInput) as caught:
        check_name(study_of(steps=61).config, url)
    assert str(caught.value) == (
        f"the study's name must be new or its config the same, got 'small' with another config in {url}; change "
        "`name`, e.g. to small-2, or resume the old one."
    )


def test_a_study_that_is_not_there_is_told_by_name(url):
    run(study_of(), url)
    with pytest.raises(BadInput) as caught:
        stored_config("smal", url)
    assert str(caught.value) == f"the study must exist in {url}, got 'smal'; `belay-study list` shows what does."


def test_names_that_differ_by_case_alone_are_refused(url):
    run(study_of(), url)
    with pytest.raises(BadInput) as caught:
        run(study_of(name="Small"), url)
    assert str(caught.value) == (
        f"names of studies must differ by more than upper and lower case, got 'Small' beside 'small' in {url}; choose "
        "another `name`."
    )


def test_reading_makes_no_database(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    check_name(study_of().config, url)
    with pytest.raises(BadInput, match="the study must exist"):
        stored_config("small", url)
    assert list(tmp_path.iterdir()) == []


# --- a storage that cannot be opened ----------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_told_without_its_password():
    text = refused("postgresql+psycopg://belay:secret@127.0.0.1:1/studies")
    assert text.startswith(
        "`storage.url` must be a database that answers, got postgresql+psycopg://belay:***@127.0.0.1:1/studies: "
    )
    assert "refused" in text
    assert text.endswith("; start or mend it.")
    assert "secret" not in text


def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not a database, though longer than one's header: " + "x" * 200)
    url = f"sqlite:///{tmp_path}/notes.txt"
    assert refused(url) == (
        f"`storage.url` must be a database that answers, got {url}: file is not a database; start or mend it."
    )


def test_a_database_in_memory_is_refused_as_it_would_end_with_the_run():
    assert refused("sqlite://").startswith("`storage.url` must name a file, got sqlite://; ")
    assert refused("sqlite:///:memory:").startswith("`storage.url` must name a file, got sqlite:///:memory:; ")


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path):
    assert refused(f"sqlite:///{tmp_path}") == (
        f"`storage.url` must lie in a writable folder, got sqlite:///{tmp_path}: Is a directory; choose another."
    )


@pytest.mark.parametrize("url", ["nonsense", "gopher://127.0.0.1/studies"])
def test_what_names_no_kind_of_database_is_told(url):
    assert refused(url).startswith(f"`storage.url` must be a database that answers, got {url}: ")


def test_opening_to_write_makes_the_folder_and_opening_to_read_makes_nothing(tmp_path):
    url = f"sqlite:///{tmp_path}/new/folder/ledger.db"
    with pytest.raises(BadInput, match="unable to open database file"), opened(url, making=False):
        pass
    assert list(tmp_path.iterdir()) == []
    with opened(url, making=True):
        pass
    assert (tmp_path / "new" / "folder" / "ledger.db").exists()


def test_a_folder_may_have_characters_in_its_name_that_mean_something_in_a_url(tmp_path):
    url = f"sqlite:///{tmp_path}/50% #1 & more/ledger.db"
    run(study_of(), url, "complete")
    assert counts(study_of(), url).done == 1
    assert stored_config("small", url).name == "small"


def test_a_study_is_read_although_its_driver_was_killed_in_the_middle_of_a_transaction(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    run(study_of(), url, "complete")
    code = f"""
import os, sqlite3
database = sqlite3.connect({str(tmp_path / "ledger.db")!r})
database.execute("pragma cache_size = 1")
database.execute("update belay_results set message = hex(zeroblob(1000000))")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "ledger.db-journal").stat().st_size  # it has to be rolled back
    assert counts(study_of(), url).done == 1


def test_it_keeps_what_riders_measured_of_which_nan_may_be(url):
    study = study_of()
    with asking(study, url) as (ledger, asker):
        pack = asker.next()
        assert pack is not None
        riders = [{"average/excess_loss": [0.1, math.nan], "average/distance": [1.0 + seed, 2.0]} for seed in (0, 1)]
        seeds = [SeedResult(seed, HISTORY, riders=riders[seed]) for seed in pack.seeds]
        asker.tell([Outcome(pack.settings[0].number, seeds)])
        kept, slim = ledger.outcome(0).seeds, ledger.outcomes()[0].seeds
        assert [repr(result.riders) for result in kept] == [repr(each) for each in riders]
        assert repr(slim[1].riders) == "{'average/excess_loss': [0.1, nan]}"


def test_it_keeps_what_settings_print_once_for_those_that_trained_together(url):
    study = study_of(seeds=3)
    texts = {"one": "Grüße\x1b[31m\x00\n", "both": "x" * 20_000, "more": "later\n"}
    with asking(study, url) as (ledger, asker):
        asker.next()
        first, second = [SeedResult(0, HISTORY), SeedResult(1, HISTORY)], [SeedResult(2, HISTORY)]
        ledger.tell([Outcome(0, first, Printed(texts["one"], (0,)))])
        ledger.tell([Outcome(1, first, Printed(texts["both"], (1, 2))), Outcome(2, first)])
        ledger.tell([Outcome(2, second, Printed(texts["more"], (2, 0))), Outcome(0, second)])
    more = Page([2], [0, 2], texts["more"])
    assert printed("small", 0, url) == [Page([0, 1], [0], texts["one"]), more]
    assert printed("small", 1, url) == [Page([0, 1], [1, 2], texts["both"])]
    assert printed("small", 2, url) == [Page([0, 1], [1, 2], texts["both"]), more]
    assert printed("small", RIDERS + MOST_RIDERS + 5, url) == printed("small", 1, url)


def test_of_a_setting_that_has_not_printed_it_says_whether_it_is_yet_to_train_or_there_is_none(url):
    study = study_of()
    run(study, url, "complete")
    planned = counts(study, url).planned
    for waits in (planned - 1, RIDERS + MOST_RIDERS * (planned - 1)):
        said = rf"must be one that is done, got {waits} of 'small', of which 1 of {planned} are; wait"
        with pytest.raises(BadInput, match=said):
            printed("small", waits, url)
    for none in (-1, planned, RIDERS + MOST_RIDERS * planned):
        said = rf"must be one of the study's {planned}, from 0 to {planned - 1}, or a rider of theirs, got {none} of"
        with pytest.raises(BadInput, match=said):
            printed("small", none, url)


def test_a_ledger_from_before_there_were_riders_and_prints_is_read_as_it_is_and_goes_on(url):
    study = study_of()
    run(study, url, "complete")
    with opened(url, making=True) as engine, engine.begin() as connection:
        for table in ("belay_riders", "belay_printed"):
            connection.execute(text(f"drop table {table}"))
        connection.execute(update(VERSIONS).values(version=1))
    assert printed("small", 0, url) == []
    assert stored_config("small", url) == study.config
    assert counts(study, url).done == 1
    with opened(url, making=False) as engine:
        assert Ledger(engine, "small", url).outcomes().keys() == {0}
    run(study, url, "complete")
    assert counts(study, url).done == 2


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_ledger_of_a_newer_version_is_refused_and_stays_as_it_is(url):
    run(study_of(), url, "complete")
    with opened(url, making=True) as engine, engine.begin() as connection:
        connection.execute(update(VERSIONS).values(version=7))
    said = f"the ledger must be of version 3 or older, got 7 in {url}; install the belay-study that wrote it, or name"
    assert refused(url).startswith(said)
    with pytest.raises(BadInput, match="must be of version 3 or older, got 7"):
        stored_config("small", url)


def test_a_ledger_of_an_older_version_is_brought_up_to_date_once(url, monkeypatch):
    run(study_of(), url, "complete")

    def upgrade(connection: Connection) -> None:
        connection.execute(text("alter table belay_results add column note text"))

    monkeypatch.setattr(tables, "UPGRADES", (*tables.UPGRADES, upgrade))
    assert stored_config("small", url) == study_of().config  # read as it is
    for _ in range(2):
        with opened(url, making=True) as engine, engine.connect() as connection:
            assert connection.execute(select(VERSIONS.c.version)).scalars().all() == [4]
            assert connection.execute(text("select note from belay_results")).scalars().all() == [None, None]


def test_several_processes_make_the_tables_at_once(url):
    code = f"""
from study.execute.tables import opened
with opened({url!r}, making=True) as engine:
    print(engine.connect().exec_driver_sql("select version from belay_version").fetchall())
"""
    drivers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [driver.communicate(timeout=600)[0] for driver in drivers] == ["[(3,)]\n"] * 4
