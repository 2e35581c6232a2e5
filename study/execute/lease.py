"""The right to drive a study: one row in the ledger's database, which one process at a time holds.

The holder renews its lease every `EVERY` seconds; `LASTS` seconds after the last renewal the lease has expired, and
another driver may take it over. What that means for a driver that was away (a paused process, a suspended laptop, a
slow database):

- Away for less than `LASTS`: nothing happens.
- Away for longer, and no other driver came: it renews the expired lease and goes on.
- Away for longer, and another driver took over: `Lease.check`, which comes before each write, refuses it.

Expiry is judged by the database's clock alone, so the clocks of the drivers' machines need not agree (SQLite has no
clock of its own and takes its machine's). On one machine nobody waits: the process table says whether the holder lives.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    delete,
    insert,
    inspect,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from study.design.places import secrets, sqlite_file
from study.errors import BadInput, FailedWork, TakenOver, reason
from study.execute.tables import LEASES, opened

LASTS = 60.0  # seconds from a renewal: how long a study waits for a driver that was killed on another machine
EVERY = 10.0  # seconds between two renewals: how long a second driver waits to see that one elsewhere is alive
LOOK = 0.5  # seconds between two looks at the lease of a driver on another machine

CLOCKS = {  # each database's clock, in seconds since 1970
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::float8",
    "mysql": "unix_timestamp(now(6)) + 0.0e0",
}

PROC = Path("/proc")


@dataclass(frozen=True)
class Driver:
    """A process that drives studies.

    Args:
        host: The name of its machine, for people.
        process: Its number on that machine.
        machine: Names the machine's current boot and its set of process numbers (a container has its own); "" where
            the system does not tell.
        began: When the process began, in clock ticks after the boot: tells it from a later one with its number.
    """

    host: str
    process: int
    machine: str
    began: str

    @classmethod
    def this(cls) -> Driver:
        """The process that asks."""
        return cls(socket.gethostname(), os.getpid(), _machine(), _began(os.getpid()) or "")

    @property
    def alive(self) -> bool | None:
        """Whether the process still runs; None if this machine cannot tell."""
        if not self.machine or self.machine != _machine():
            return None
        began = _began(self.process)
        return None if began is None else began == self.began


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, since when, and until when unless it is renewed."""

    driver: Driver
    token: str
    since: datetime
    expires: float


def _pause() -> None:
    time.sleep(LOOK)


class Lease:
    """The lease of one study; this process holds it from entering the `with` block to leaving it.

    Args:
        study: The study's name.
        engine: The storage's database.
        say: Called with a line if there is something to wait for.
        every: Seconds between renewals.
        pause: Called between two looks at a lease that a driver on another machine holds.

    Raises:
        BadInput: The database is of an unknown kind; on entering: another driver holds the lease and is alive.
        FailedWork: On entering: the database does not take the lease.
    """

    def __init__(
        self,
        study: str,
        engine: Engine,
        say: Callable[[str], None],
        every: float = EVERY,
        pause: Callable[[], None] = _pause,
    ) -> None:
        self._now = _clock(engine)
        self._study, self._engine, self._say, self._every, self._pause = study, engine, say, every, pause
        self._driver, self._token = Driver.this(), uuid.uuid4().hex
        self._left = threading.Event()
        self._renewing = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._acquire()
        except SQLAlchemyError as error:
            raise FailedWork(
                f"`storage.url` must take the lease of {self._study!r}, got {reason(error)}; mend it, "
                f"then `belay-study resume {self._study}`."
            ) from error
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._renewing.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:  # a lease that cannot be deleted expires
            connection.execute(delete(LEASES).where(LEASES.c.token == self._token))

    def check(self, connection: Connection | None = None) -> None:
        """Makes sure that this driver may write now, and for the next `LASTS` seconds.

        Args:
            connection: Of a transaction that is to be kept only if so; by default the check is one of its own.

        Raises:
            TakenOver: Another driver has taken the study over.
            SQLAlchemyError: The database does not answer.
        """
        if not (self._renew() if connection is None else self._renew_within(connection)):
            raise TakenOver(
                f"a driver must reach the storage every {LASTS:.0f} s, but this one did not and another driver took "
                f"{self._study!r} over; `belay-study status {self._study}` says how far that is."
            )

    def _acquire(self) -> None:
        """Takes the lease once it is free, expired or a dead driver's; gives up once its holder is known to live."""
        first: Holder | None = None  # as it was when the waiting began
        dead = ""
        while not self._take(dead):
            holder = self._holder()
            if holder is None:  # its driver has just given it back
                continue
            alive = holder.driver.alive
            if alive is False:
                dead = holder.token
                continue
            if alive or (first is not None and (holder.token, holder.expires) != (first.token, first.expires)):
                raise self._refusal(holder)
            if first is None:
                first = holder
                self._say(
                    f"{self._study}: process {holder.driver.process} on {holder.driver.host} holds this study; waiting "
                    f"until it renews its lease (every {EVERY:.0f} s) or the lease expires (after {LASTS:.0f} s)"
                )
            self._pause()

    def _take(self, dead: str) -> bool:
        """Takes the lease unless another driver holds it.

        Args:
            dead: The token of a holder that is known to be dead, whose lease counts as expired.
        """
        free = or_(LEASES.c.expires < self._now, LEASES.c.token == dead)
        row = {"study": self._study, "token": self._token, **asdict(self._driver)}
        times = {"since": self._now, "expires": self._now + LASTS}
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(LEASES).where(LEASES.c.study == self._study, free))
                connection.execute(insert(LEASES).values(row | times))
        except IntegrityError:  # a study has one row, and it is still there
            return False
        return True

    def _renew(self) -> bool:
        """Renews the lease, also when it has expired; False if another driver has taken it since."""
        with self._engine.begin() as connection:
            return self._renew_within(connection)

    def _renew_within(self, connection: Connection) -> bool:
        mine = update(LEASES).where(LEASES.c.token == self._token).values(expires=self._now + LASTS)
        return connection.execute(mine).rowcount > 0

    def _keep_renewing(self) -> None:
        while not self._left.wait(self._every):
            with suppress(SQLAlchemyError):  # the next renewal may succeed; if none does, `check` says so
                self._renew()

    def _holder(self) -> Holder | None:
        """Who holds the lease; None if nobody does."""
        with self._engine.connect() as connection:
            row = connection.execute(select(LEASES).where(LEASES.c.study == self._study)).first()
        if row is None:
            return None
        driver = Driver(row.host, row.process, row.machine, row.began)
        return Holder(driver, row.token, datetime.fromtimestamp(row.since, UTC), row.expires)

    def _refusal(self, holder: Holder) -> BadInput:
        return BadInput(
            f"a study must have one driver at a time, got {self._study!r}, which process {holder.driver.process} on "
            f"{holder.driver.host} has driven since {holder.since:%Y-%m-%d %H:%M:%S} UTC; wait for its end "
            f"(`belay-study status {self._study}`), or stop it and `belay-study resume {self._study}`."
        )


def driven(url: str) -> dict[str, bool]:
    """The studies of a ledger that have a lease, and whether its driver still drives: not after a SIGKILL.

    Raises:
        BadInput: The ledger cannot be read; one that is not there has no studies.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return {}
    try:
        with opened(url, making=False) as engine, engine.connect() as connection:
            if not inspect(connection).has_table(LEASES.name):
                return {}
            rows = connection.execute(select(LEASES, (LEASES.c.expires < _clock(engine)).label("expired"))).all()
    except SQLAlchemyError as error:
        raise BadInput(f"`storage.url` must be readable, got {reason(error, secrets(url))}; mend it.") from None
    found = {}
    for row in rows:
        alive = Driver(row.host, row.process, row.machine, row.began).alive
        found[row.study] = not row.expired if alive is None else alive
    return found


def _clock(engine: Engine) -> ColumnElement[float]:
    """A database's time.

    Raises:
        BadInput: It is of an unknown kind.
    """
    if engine.dialect.name not in CLOCKS:
        raise BadInput(
            f"`storage.url` must name a database of {', '.join(CLOCKS)}, got {engine.dialect.name}; use another."
        )
    return literal_column(CLOCKS[engine.dialect.name], Float)


def _machine() -> str:
    """This boot and the numbering of its processes; "" where there is no /proc, as on macOS."""
    try:
        boot, numbering = (PROC / "sys/kernel/random/boot_id").read_text(), (PROC / "self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{boot.strip()} {numbering}"


def _began(process: int) -> str | None:
    """When a process of this machine began; "" if it has ended, None if it runs but the system hides it from us."""
    try:
        state, *fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if _exists(process) else ""
    return "" if state in "ZX" else fields[18]  # a zombie has ended; its parent has not asked for its exit code


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
