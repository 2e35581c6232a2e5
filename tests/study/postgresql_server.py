"""A PostgreSQL server of the tests' own that asks for passwords."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # where Debian puts them


def missing() -> str:
    """What a server needs and this machine lacks; "" where nothing does."""
    return "" if BINARIES else "PostgreSQL's initdb must be in /usr/lib/postgresql"


@contextmanager
def server(password: str) -> Iterator[str]:
    """Starts a server on a free port of 127.0.0.1, whose superuser `postgres` has the password; gives HOST:PORT."""
    binaries = BINARIES[-1].parent
    as_user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}  # not as root
    home = Path(tempfile.mkdtemp(prefix="belay-postgresql-"))  # where another user may look, as pytest's folders forbid
    try:
        (home / "password").write_text(password)
        if as_user:
            for path in (home, home / "password"):
                shutil.chown(path, **as_user)
        run = {"cwd": home, "check": True, "stdout": subprocess.DEVNULL, **as_user}
        line = ["--auth=scram-sha-256", "--username=postgres", f"--pwfile={home}/password", "--no-sync"]
        subprocess.run([binaries / "initdb", f"--pgdata={home}/data", *line], **run)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={home} -c fsync=off"
        control = [binaries / "pg_ctl", f"--pgdata={home}/data", "--wait", "--timeout=300"]
        subprocess.run([*control, f"--options={options}", f"--log={home}/log", "start"], **run)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "--mode=immediate", "stop"], **run)
    finally:
        shutil.rmtree(home)
