"""The services of docker-compose.yml, run natively: each a host of its own, with everything a container would give it.

A host has its own network (an address on one bridge, and everybody's names), processes, shared memory and root file
system, with the volumes and secrets where the file mounts them; its command runs as the file's user without any
further right. Commands, environments, users, mounts and health checks are read from the file; what stands in for the
images is this machine's Python and PostgreSQL.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose import ROOT, document, in_order, mounts

HERE = Path(__file__).parent
CHECKOUT = "/opt/belay"  # where a host sees this checkout, wherever that is here
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SPACES = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
WORKERS = ["ray-worker-1", "ray-worker-2"]
NAMES = ["postgres", "mlflow", "mlflow-user", "ray-head", *WORKERS]
VOLUME_MODE = 0o1777  # of the folders that the images give their volumes
PATIENCE = 600  # seconds, ten times what is usual
Ended = subprocess.CompletedProcess[str]


def obstacle() -> str | None:
    """Why the services cannot be run on this machine; None if they can."""
    if missing := [tool for tool in ("ip", "unshare", "nsenter", "setpriv", "mount") if shutil.which(tool) is None]:
        return f"no {', '.join(missing)}"
    if not BINARIES:
        return "no PostgreSQL server in /usr/lib/postgresql"
    tried = subprocess.run([*SPACES, "ip", "link", "add", "bridge", "type", "bridge"], capture_output=True, text=True)
    return f"no right to make namespaces ({tried.stderr.strip()})" if tried.returncode else None


def wait_until(true: Callable[[], object], say: Callable[[], object]) -> None:
    """Waits for a condition."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, say()
        time.sleep(0.2)


@dataclass
class Host:
    """What runs, or ran, in namespaces of its own."""

    service: str
    process: subprocess.Popen[str]
    pid: int  # of its first process

    def end(self) -> None:
        """Kills all of its processes at once, as a machine that loses its power."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()


class Stack:
    """Starts and asks the services; `down` ends them, and so does the end of this process, whatever ends it.

    Args:
        folder: Where volumes, secrets and logs go.
        variables: Of the file, as a user would set them in ``.env``.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self._hosts = folder, dict[str, Host]()
        script = folder / "top/configs/docker/make-secrets"  # names the secrets in a file beside docker-compose.yml
        script.parent.mkdir(parents=True)
        shutil.copy(ROOT / "configs/docker/make-secrets", script)
        subprocess.run([script], check=True, capture_output=True)
        settings = dict(line.split("=", 1) for line in (folder / "top/.env").read_text().split())
        self.compose = document(settings | variables)
        self._network, self._cable = _free_network()
        for name in ("logs", "roots", "volumes"):
            (folder / name).mkdir()
        hosts = [f"{self.address(name)} {name}" for name in NAMES]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
        (folder / "resolv.conf").touch()
        (folder / "passwd").write_text("postgres:x:{}:{}::/:/bin/false\n".format(*settings["BELAY_USER"].split(":")))
        self._lay_cables()

    def address(self, name: str) -> str:
        """The address of a service; this process reaches it too."""
        return str(self._network[NAMES.index(name) + 10])

    def secret(self, name: str) -> str:
        """What the file of a secret holds; of a password file, the password."""
        return Path(self.compose["secrets"][name]["file"]).read_text().strip().rpartition(":")[2]

    def log(self, name: str) -> str:
        """What a service has written to its stdout and stderr."""
        return (self.folder / "logs" / name).read_text(errors="replace")

    def up(self) -> None:
        """Starts every service, each after those that it depends on are healthy, or done."""
        for service in in_order(self.compose, "ray-worker"):
            names = WORKERS if service == "ray-worker" else [service]
            for name in names:
                self.start(name)
            for name in names:
                self.wait(name)

    def start(self, name: str, *command: str) -> Host:
        """Starts a service, whose volumes are as it left them; a command in place of its own for a one-off run."""
        service = "ray-worker" if name in WORKERS else name.partition(":")[0]
        entry, number = self._entry(service), len(self._hosts) + 100
        address = self.address(name) if name in NAMES else str(self._network[number])
        root = self.folder / "roots" / name
        root.mkdir(exist_ok=True)
        image = f"{CHECKOUT}/tests/cluster/postgres-image" if service == "postgres" else "belay-entrypoint"
        before = entry.get("entrypoint", [image])
        described = {
            "name": name.replace(":", "-"),
            "root": str(root),
            "directory": "/work",
            "environment": self._environment(service),
            "command": [*self._as_user(service), *before, *(command or entry["command"])],
            "shared_memory": str(entry.get("shm_size", "64m")).removesuffix("b"),
            "tmpfs": entry["tmpfs"],
            "read_only": entry["read_only"],
            "mounts": self._mounts(service),
        }
        with (self.folder / "logs" / name).open("a") as out, (self.folder / "logs" / f"{name}.err").open("a") as err:
            process = _first_process(out, err if service == "study" else out)
        host = self._hosts[name] = Host(service, process, _child(process))
        self._plug(host, address)
        assert process.stdin is not None
        process.stdin.write(json.dumps(described) + "\n")
        process.stdin.flush()  # and left open: the host ends when this process does
        return host

    def wait(self, name: str) -> None:
        """Waits until a service is healthy, or done if others wait for its end."""
        host, needs = self._hosts[name], [entry.get("depends_on", {}) for entry in self.compose["services"].values()]

        def said() -> str:
            return f"{name} must become healthy; its log ends:\n{self.log(name)[-4000:]}"

        if {"condition": "service_completed_successfully"} in [each.get(host.service) for each in needs]:
            assert host.process.wait(PATIENCE) == 0, said()
            return
        wait_until(lambda: self.healthy(name) or host.process.poll() is not None, said)
        assert host.process.poll() is None, said()

    def healthy(self, name: str) -> bool:
        """Whether a service's health check succeeds, run where the service runs."""
        kind, *check = self._entry(self._hosts[name].service)["healthcheck"]["test"]
        assert kind == "CMD"
        return self.execute(name, *check).returncode == 0

    def inside(self, name: str) -> list[str]:
        """What a command line begins with that runs beside a running service's, as ``docker compose exec`` does."""
        host = self._hosts[name]
        enter = [
            "nsenter",
            f"--target={host.pid}",
            "--net",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--root",
            "--wd",
            "--",
        ]
        environment = [f"{key}={value}" for key, value in self._environment(host.service).items()]
        return [*enter, "env", "-i", *environment, *self._as_user(host.service)]

    def execute(self, name: str, *command: str) -> Ended:
        """Runs a command beside a running service's."""
        line = [*self.inside(name), *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)

    def begin(self, *command: str) -> tuple[str, Host]:
        """Starts a client, as ``docker compose run study COMMAND`` does; its name and host."""
        name = f"study:{len(self._hosts)}"
        return name, self.start(name, *command)

    def finish(self, name: str) -> Ended:
        """Waits for a client's end; what it printed."""
        process = self._hosts[name].process
        process.wait(PATIENCE)
        return Ended(name, process.returncode, self.log(name), self.log(f"{name}.err"))

    def study(self, *command: str) -> Ended:
        """Runs a client to its end."""
        return self.finish(self.begin(*command)[0])

    def kill(self, name: str) -> None:
        """Kills a service and all of its processes at once."""
        self._hosts[name].end()

    def view(self, name: str, path: str) -> Path:
        """A path of a running service's host, as this process reaches it."""
        return Path(f"/proc/{self._hosts[name].pid}/root{path}")

    def down(self) -> None:
        """Kills every host, and with the last its network."""
        for host in reversed(self._hosts.values()):
            host.end()

    def _entry(self, service: str) -> dict[str, Any]:
        entry = self.compose["services"][service]
        assert isinstance(entry, dict)
        return entry

    def _as_user(self, service: str) -> list[str]:
        uid, gid = self._entry(service)["user"].split(":")
        rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", *rights]

    def _environment(self, service: str) -> dict[str, str]:
        path = [f"{CHECKOUT}/configs/docker/bin", Path(sys.prefix) / "bin", BINARIES[-1], "/usr/bin", "/bin"]
        lines = re.findall(r"^ENV (.*)$", (ROOT / "configs/docker/Dockerfile").read_text(), re.MULTILINE)
        image = dict(pair.split("=") for line in lines for pair in line.split())
        machine = {"PATH": ":".join(map(str, path)), "PYTHONPATH": CHECKOUT, "LANG": "C.UTF-8"}
        return image | machine | {key: str(value) for key, value in self._entry(service).get("environment", {}).items()}

    def _mounts(self, service: str) -> list[tuple[str, str, bool]]:
        places = sorted({sys.prefix, sys.base_prefix}) if not sys.prefix.startswith("/usr") else []
        found = [(place, place, True) for place in places] + [(str(ROOT), CHECKOUT, True)]
        found += [(str(self.folder / name), f"/etc/{name}", True) for name in ("hosts", "resolv.conf")]
        if service == "postgres":  # whose image names the user that it is run as
            found.append((str(self.folder / "passwd"), "/etc/passwd", True))
        for source, target, read_only in mounts(self.compose, service):
            if source in self.compose["volumes"]:
                volume = self.folder / "volumes" / source
                if not volume.exists():
                    volume.mkdir()
                    volume.chmod(VOLUME_MODE)
                found.append((str(volume), target, read_only))
            else:
                found.append((source, target, read_only))
        return found

    def _lay_cables(self) -> None:
        """Makes a host that is only the network: a bridge with a cable to this process's network; both end with it."""
        with (self.folder / "logs/network").open("a") as log:
            process = _first_process(log, log)
        self._switch = Host("network", process, _child(process))
        self._hosts["network"] = self._switch
        self._in_network("ip", "link", "add", "bridge", "type", "bridge")
        self._in_network("ip", "link", "set", "bridge", "up")
        ends = ["type", "veth", "peer", "name", self._cable, "netns", str(os.getpid())]
        self._in_network("ip", "link", "add", "out", *ends)
        self._in_network("ip", "link", "set", "out", "master", "bridge", "up")
        _ip("address", "add", f"{self._network[1]}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")

    def _plug(self, host: Host, address: str) -> None:
        inside = ["nsenter", f"--target={host.pid}", "--net", "ip"]
        ends = ["type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
        self._in_network("ip", "link", "add", f"to{host.pid}", *ends)
        self._in_network("ip", "link", "set", f"to{host.pid}", "master", "bridge", "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", str(self._network[1])],
        ):
            subprocess.run([*inside, *command], check=True, capture_output=True)

    def _in_network(self, *command: str) -> None:
        subprocess.run(["nsenter", f"--target={self._switch.pid}", "--net", *command], check=True, capture_output=True)


def _first_process(out: Any, err: Any) -> subprocess.Popen[str]:
    line = [*SPACES, sys.executable, "-I", str(HERE / "host.py")]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True, start_new_session=True)


def _child(process: subprocess.Popen[str]) -> int:
    """The process that `unshare` made, by the number that it has here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(children.read_text, lambda: "unshare made no process")
    return int(children.read_text().split()[0])


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


def _free_network() -> tuple[ipaddress.IPv4Network, str]:
    """A network that nothing here uses, and the name of a cable to it."""
    used = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    numbers = (number % 250 for number in range(os.getpid() % 250, os.getpid() % 250 + 250))
    number = next(number for number in numbers if f"10.213.{number}." not in used)
    return ipaddress.IPv4Network(f"10.213.{number}.0/24"), f"belay{number}"
