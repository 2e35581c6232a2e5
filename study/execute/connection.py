"""Connects to Ray: to the one that the process has, to the cluster of RAY_ADDRESS, or to a local one that it starts."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._raylet import Config  # type: ignore[attr-defined] # it has no public name

from study.errors import FailedWork, reason

KNOCK = 10  # seconds that a cluster may take to answer at all; Ray itself would try for many minutes
VERSIONS = re.compile(r"Version mismatch:.*?Ray: (\S+)\s+Python: (\S+)\s.*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)
IMPORTING = 60  # seconds that a process may take to import Ray and to find a cluster
KNOCKING = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
address = canonicalize_bootstrap_address_or_die(sys.argv[1])
GcsClient(address=address)
print(address)
"""
HURRY = {  # Ray's own seconds for that, in all no more than KNOCK; Ray reads them as it is imported
    "RAY_gcs_rpc_server_connect_timeout_s": "2",  # it tries to connect twice
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_py_gcs_connect_timeout_s": "5",
}


@contextlib.contextmanager
def connected() -> Iterator[str]:
    """Ray as the process has it, or the cluster of RAY_ADDRESS, or a local one for as long as this lasts; its address.

    Raises:
        FailedWork: It does not start or answer.
    """
    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    address = cluster_address()
    if address:
        _show_token()
        address = _knock(address)
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        with _same_signals():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except Exception as error:  # of many kinds: ValueError, RayError, a bare Exception after half a minute
        raise FailedWork(_why_not(address, error)) from error
    try:
        yield address or ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def cluster_address() -> str:
    """The address of the cluster that RAY_ADDRESS names; "" where a local Ray is to be started."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def read_environment() -> None:
    """Has Ray read its part of the environment anew, as it did when it was imported; not while it is connected."""
    if not ray.is_initialized():
        Config.initialize("")


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive; Ray must be connected."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _show_token() -> None:
    """Has Ray show the token of this machine, if there is one, without which `ray start` lets nobody in then.

    Ray does so by itself only where it is given no address. Any local Ray leaves a token behind.
    """
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_MODE" not in os.environ and ("RAY_AUTH_TOKEN" in os.environ or file.is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"
        read_environment()


def _knock(address: str) -> str:
    """Makes sure that a cluster answers at an address and lets this process in.

    In a process of its own, which tries for no longer than `KNOCK` seconds and keeps Ray's many lines to itself.

    Returns:
        The address, as HOST:PORT where it was ``auto``.

    Raises:
        FailedWork: It does not.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), KNOCK).close()
        if place.scheme == "ray":  # a proxy, which the process below does not know how to ask
            return address
        command = [sys.executable, "-c", KNOCKING, address]
        environment = HURRY | os.environ
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=IMPORTING, check=False)
    except subprocess.TimeoutExpired as error:
        raise FailedWork(_why_not(address, TimeoutError(f"no answer in {IMPORTING} s"))) from error
    except (OSError, ValueError) as error:
        raise FailedWork(_why_not(address, error)) from error
    if asked.returncode:
        said = (asked.stderr.splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise FailedWork(
            _why_not(address, RuntimeError(said.partition(": ")[2] or said))
        )  # without the exception's name
    return asked.stdout.split()[-1]


def _why_not(address: str, error: Exception) -> str:
    """What to say of a Ray that was not to be reached."""
    if not address:
        return _why_no_local_one(error)
    if found := VERSIONS.search(str(error)):
        return (
            f"RAY_ADDRESS must have this machine's Ray {found[3]} and Python {found[4]}, got Ray {found[1]} and Python "
            f"{found[2]} at {address}; install the same on both."
        )
    if "InvalidAuthToken" in str(error):
        return (
            f"the cluster must accept Ray's token, got another or none at {address}; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to the file that holds the cluster's."
        )
    return f"RAY_ADDRESS must answer, got {address}: {reason(error)}; start it or unset it."


def _why_no_local_one(error: Exception) -> str:
    """What to say of a local Ray that did not start."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if "AF_UNIX path length" in str(error):
        return (
            f"RAY_TMPDIR must be a short path, as Ray's sockets in it must have at most 107 bytes, got {folder}; set "
            "it to a shorter one."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"Ray must be able to write in HOME, for its token, and in RAY_TMPDIR, got {reason(error)}; set them to "
            "folders that can be written."
        )
    return f"Ray must start, got {reason(error)}; see its logs in {folder}/ray/session_latest/logs."


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Puts SIGTERM's handler back, for which Ray sets one of its own as it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:  # None: not set by Python
            signal.signal(signal.SIGTERM, before)
