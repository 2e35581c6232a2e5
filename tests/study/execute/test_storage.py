"""What the storage says of a study, on SQLite and on PostgreSQL, and what it says if it cannot."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from studies import small

from study.design.config import parse_config
from study.design.schema import Outcome, SeedResult
from study.design.study import Study
from study.errors import BadInput
from study.execute.ask import Asker
from study.execute.storage import Counts, check_name, check_storage, counts, is_finished, open_storage, stored_config


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{request.getfixturevalue('databases')}/optuna.db"


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(search={"sampler": "random", "settings": 3, "baseline": 1}, **changes)))


def run(study: Study, url: str, *states: str) -> None:
    """Asks for settings and keeps that they ended so."""
    asker = Asker(study, url)
    for state in states:
        setting = asker.ask()
        assert setting is not None
        last = [(60, {"average/excess_loss": 0.5})]
        asker.tell(Outcome(setting.number, [SeedResult(0, last), SeedResult(1, last, state)]))  # type: ignore[arg-type]


def refused(url: str) -> str:
    with pytest.raises(BadInput) as caught:
        check_storage(url)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- how far a study is -----------------------------------------------------------------------------------------------


def test_settings_are_counted_over_all_searches_by_what_they_came_to(url):
    study = study_of()
    run(study, url, "complete", "diverged", "failed")
    assert counts(study, url) == Counts(planned=4, done=3, diverged=1, failed=1)


def test_a_setting_that_is_asked_and_not_told_is_not_done(url):
    study = study_of()
    asker = Asker(study, url)
    asker.ask()
    assert counts(study, url) == Counts(planned=4, done=0, diverged=0, failed=0)


def test_a_study_is_finished_when_every_setting_is_told_whatever_it_came_to(url):
    study = study_of()
    assert not is_finished(study, url)
    run(study, url, "complete", "failed", "diverged")
    assert not is_finished(study, url)
    run(study, url, "complete")
    assert is_finished(study, url)


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
        f"the study's name must be new or its config the same, got 'small' with another config in {url}; change `name` "
        "(or `--set name=small-2`), or resume the old one."
    )


def test_a_study_that_is_not_there_is_told_by_name(url):
    run(study_of(), url)
    with pytest.raises(BadInput) as caught:
        stored_config("smal", url)
    assert str(caught.value) == f"the study must exist in {url}, got 'smal'; `belay-study list` shows what does."


def test_a_study_whose_driver_died_before_its_config_was_kept_is_as_if_it_were_not_there(url):
    optuna.create_study(storage=url, study_name="small")
    check_name(study_of().config, url)
    assert not is_finished(study_of(), url)
    with pytest.raises(BadInput, match="the study must exist"):
        stored_config("small", url)


def test_reading_makes_no_database(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    check_name(study_of().config, url)
    assert not is_finished(study_of(), url)
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


def test_opening_a_storage_makes_its_folder(tmp_path):
    open_storage(f"sqlite:///{tmp_path}/new/folder/optuna.db").engine.dispose()
    assert (tmp_path / "new" / "folder" / "optuna.db").exists()
