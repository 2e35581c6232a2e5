"""The first process of a host: gives it a root file system of its own, runs one command as its user, ends with it.

It is started as root in new network, mount, process, IPC and host name namespaces and reads what to do from stdin. It
ends when stdin does, so that nothing is left of tests that were killed: with its first process the kernel ends a host,
its mounts and its network's cable.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn, TextIO

SETTINGS = ["passwd", "group", "nsswitch.conf", "ld.so.cache", "ssl", "alternatives", "localtime"]
SHARED = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", *(f"/etc/{name}" for name in SETTINGS)]
OWN = ["dev", "etc", "proc", "run", "srv", "sys", "tmp", "var", "work"]


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(source: str | Path, target: Path, read_only: bool) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)
    if read_only:
        mount("-o", "remount,bind,ro", target)


def build(root: Path, host: dict[str, Any]) -> None:
    """Puts the root file system together: the machine's programs to read, and what the service is given."""
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for name in OWN:
        (root / name).mkdir()
    for path in map(Path, SHARED):
        if path.is_symlink():
            (root / path.relative_to("/")).symlink_to(path.readlink())
        elif path.exists():
            bind(path, root / path.relative_to("/"), read_only=True)
    (root / "var/run").symlink_to("/run")
    mount("--rbind", "/dev", root / "dev")
    mount("--rbind", "/sys", root / "sys")
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "tmpfs", "-o", f"mode=1777,size={host['shared_memory']}", "tmpfs", root / "dev/shm")
    for place in host["tmpfs"]:
        path, _, options = place.partition(":")
        folder = root / path.lstrip("/").replace("var/run", "run")
        folder.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
    for source, target, read_only in host["mounts"]:
        bind(source, root / target.lstrip("/"), read_only)
    if host["read_only"]:
        mount("-o", "remount,ro", root)


def run(host: dict[str, Any]) -> NoReturn:
    """Becomes the host's command, as its user without any further right."""
    os.setsid()
    os.chdir(host["directory"])
    os.execvpe(host["command"][0], host["command"], host["environment"])


def end_with(stdin: TextIO) -> None:
    stdin.read()
    os._exit(1)


def main() -> None:
    host = json.loads(sys.stdin.readline())
    socket.sethostname(host["name"])
    build(Path(host["root"]), host)
    os.chroot(host["root"])
    os.chdir("/")
    child = os.fork()
    if not child:
        with Path("/dev/null").open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        run(host)
    threading.Thread(target=end_with, args=[sys.stdin], daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    while True:  # reaps children that others left, too
        ended, status = os.wait()
        if ended == child:
            sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
