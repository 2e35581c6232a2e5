"""One driver a study: leases on real databases. What takes time in use is done by the tests themselves here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text

from study.errors import BadInput, FailedWork
from study.execute.lease import Driver, Lease, driven
from study.execute.tables import METADATA

NEVER = 1e6  # seconds between renewals: none happens during a test


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the test's own; SQLite waits long for its lock, as a process that holds it may be paused."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db?timeout=300"
    return request.getfixturevalue("postgresql")


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    with opened(url) as made:
        METADATA.create_all(made)
        yield made


def no_line(line: str) -> None:
    pytest.fail(f"there is nothing to wait for: {line}")


def no_pause() -> None:
    pytest.fail("there is nothing to wait for")


def lease_of(study: str, engine: Engine, **changes: Any) -> Lease:
    """A lease that renews nothing by itself, and may not wait for other drivers."""
    return Lease(**({"study": study, "engine": engine, "say": no_line, "every": NEVER, "pause": no_pause} | changes))


def drive(lease: Lease) -> None:
    with lease:
        lease.check()


def alter(engine: Engine, change: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"update belay_leases set {change}"))


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("select * from belay_leases order by study"))]


def since(engine: Engine) -> float:
    return float(rows(engine)[0][-2])


def expires(engine: Engine) -> float:
    return float(rows(engine)[0][-1])


EXPIRED, ELSEWHERE = "expires = expires - 1000", "machine = 'another'"


def test_a_lease_is_given_back_also_after_an_exception_and_can_be_taken_again(engine: Engine) -> None:
    def fail() -> None:
        with lease_of("a", engine) as one, lease_of("b", engine) as other:
            one.check()
            other.check()
            assert [row[0] for row in rows(engine)] == ["a", "b"]
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert rows(engine) == []


def test_a_second_driver_is_told_who_holds_the_study_and_since_when_without_waiting(engine: Engine) -> None:
    with lease_of("a", engine) as lease:
        alter(engine, "since = 1732716202, host = 'node-7'")
        before = rows(engine)
        said = f"got 'a', which process {os.getpid()} on node-7 has driven since 2024-11-27 14:03:22 UTC; wait for its"
        with pytest.raises(BadInput, match=re.escape(said)):
            drive(lease_of("a", engine))
        assert rows(engine) == before
        lease.check()


def test_a_lease_keeps_the_time_at_which_it_was_taken_when_it_is_renewed(engine: Engine) -> None:
    with lease_of("a", engine) as lease:
        taken = since(engine)
        assert taken < expires(engine)
        assert taken == pytest.approx(time.time(), abs=1000)  # less than any two time zones are apart
        alter(engine, EXPIRED)
        lease.check()
        assert taken == since(engine) < expires(engine)


def test_of_many_that_begin_at_once_one_drives(url: str) -> None:
    all_tried = threading.Barrier(6)

    def drives(engine: Engine) -> bool:
        try:
            with lease_of("a", engine):
                all_tried.wait(timeout=600)
        except BadInput:
            all_tried.wait(timeout=600)
            return False
        return True

    engines = [create_engine(url) for _ in range(6)]
    METADATA.create_all(engines[0])
    with ThreadPoolExecutor(6) as drivers:
        assert sum(drivers.map(drives, engines)) == 1
    for engine in engines:
        engine.dispose()


HOLD = """
import sys
from sqlalchemy import create_engine
from study.execute.lease import Lease
from study.execute.tables import METADATA
engine = create_engine(sys.argv[1])
METADATA.create_all(engine)
with Lease("a", engine, print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(url: str) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-c", HOLD, url]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_living_process_of_this_machine_is_named(url: str, engine: Engine) -> None:
    with held_by_another_process(url) as holder:
        with pytest.raises(BadInput, match=rf"process {holder.pid} on \S+ has driven since \S+ \S+ UTC"):
            drive(lease_of("a", engine))
        assert holder.poll() is None


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_without_waiting(url: str, engine: Engine) -> None:
    with held_by_another_process(url) as holder:
        holder.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays in the process table, as a zombie
        drive(lease_of("a", engine))


def test_a_driver_elsewhere_that_renews_its_lease_is_alive(engine: Engine) -> None:
    said: list[str] = []
    with lease_of("a", engine) as lease:
        alter(engine, ELSEWHERE)
        pauses = iter([lambda: None, lease.check])
        with pytest.raises(BadInput, match="has driven since"):
            drive(lease_of("a", engine, say=said.append, pause=lambda: next(pauses)()))
        assert next(pauses, None) is None
    assert len(said) == 1
    assert re.fullmatch(r"a: process \d+ on \S+ holds this study; waiting until it renews .* expires .*", said[0])


def test_the_lease_of_a_driver_elsewhere_is_taken_when_it_expires(engine: Engine) -> None:
    said: list[str] = []
    with lease_of("a", engine) as gone:
        alter(engine, ELSEWHERE)
        pauses = iter([lambda: None, lambda: alter(engine, EXPIRED)])
        with lease_of("a", engine, say=said.append, pause=lambda: next(pauses)()) as lease:
            lease.check()
            with pytest.raises(FailedWork):
                gone.check()
    assert next(pauses, None) is None
    assert len(said) == 1


def test_a_study_is_driven_while_its_driver_lives_or_elsewhere_while_it_renews_its_lease(
    url: str, engine: Engine
) -> None:
    with lease_of("here", engine), lease_of("later", engine), held_by_another_process(url) as holder:
        assert driven(url) == {"a": True, "here": True, "later": True}
        holder.kill()
        holder.wait()
        alter(engine, f"{EXPIRED} where study = 'here'")  # as after a pause of its process
        alter(engine, f"{ELSEWHERE} where study = 'later'")
        assert driven(url) == {"a": False, "here": True, "later": True}
        alter(engine, f"{EXPIRED} where study = 'later'")
        assert driven(url) == {"a": False, "here": True, "later": False}


def test_a_ledger_that_is_not_there_or_empty_has_no_driven_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    assert driven(url) == {}
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "none.db").touch()
    assert driven(url) == {}


def test_a_lease_that_is_given_back_while_another_driver_waits_is_taken(engine: Engine) -> None:
    said: list[str] = []
    lease = lease_of("a", engine).__enter__()
    alter(engine, ELSEWHERE)
    drive(lease_of("a", engine, say=said.append, pause=lambda: lease.__exit__(None, None, None)))
    assert len(said) == 1


@pytest.mark.parametrize("other_ended", [False, True])
def test_a_driver_that_was_away_is_refused_once_another_took_over(engine: Engine, other_ended: bool) -> None:
    with lease_of("a", engine) as away:
        alter(engine, EXPIRED)
        other = lease_of("a", engine).__enter__()
        if other_ended:  # what the first knows of the study is old all the same
            other.__exit__(None, None, None)
        with pytest.raises(FailedWork, match=r"another driver took 'a' over; `belay-study status a` says how far"):
            away.check()
        if not other_ended:
            other.check()
            other.__exit__(None, None, None)


def test_a_refused_driver_leaves_the_lease_of_the_other_alone(engine: Engine) -> None:
    away = lease_of("a", engine).__enter__()
    alter(engine, EXPIRED)
    with lease_of("a", engine) as other:
        away.__exit__(None, None, None)
        other.check()


def test_a_driver_that_was_away_goes_on_if_nobody_took_over(engine: Engine) -> None:
    with lease_of("a", engine) as away:
        alter(engine, EXPIRED)
        away.check()
        with pytest.raises(BadInput, match="has driven since"):
            drive(lease_of("a", engine))


def test_a_lease_renews_itself_until_it_is_given_back_also_after_the_database_failed(engine: Engine) -> None:
    renewed, failed = threading.Semaphore(0), threading.Semaphore(0)
    event.listen(engine, "commit", lambda connection: renewed.release())
    event.listen(engine, "handle_error", lambda context: failed.release())

    def assert_renewed() -> None:
        alter(engine, EXPIRED)
        while expires(engine) < since(engine):
            assert renewed.acquire(timeout=600)

    with lease_of("a", engine, every=0.2) as lease:
        assert lease._renewing.is_alive()
        assert_renewed()
        rename(engine, "belay_leases", "away")
        assert failed.acquire(timeout=600)
        rename(engine, "away", "belay_leases")
        assert_renewed()
    assert not lease._renewing.is_alive()


def rename(engine: Engine, table: str, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"alter table {table} rename to {name}"))


def test_a_database_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database, but a text that is long enough to be looked at\n" * 100)
    with (
        opened(f"sqlite:///{tmp_path}/ledger.db") as engine,
        pytest.raises(FailedWork, match=r"^`storage.url` must take the lease of 'a', got file is not a .*resume a`\.$"),
    ):
        drive(lease_of("a", engine))


def test_a_process_is_known_to_live_or_to_be_dead_on_its_own_machine_alone() -> None:
    this = Driver.this()
    assert this.alive is True
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    assert Driver(this.host, process.pid, this.machine, this.began).alive is False
    assert Driver(this.host, this.process, this.machine, "1").alive is False  # an earlier process had the same number
    assert Driver(this.host, this.process, "another", this.began).alive is None
    assert Driver(this.host, this.process, "", this.began).alive is None
