"""Checks whether this machine has what a study needs; nothing is changed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from study.design.places import Connections, sqlite_file, without_password
from study.design.schema import DISTRIBUTION, PACKAGES
from study.errors import StudyError


@dataclass(frozen=True)
class Check:
    """What was checked, whether it is as a study needs it, and what was found."""

    name: str
    good: bool
    text: str


def examine(tracking: str | None, storage: str | None) -> list[Check]:
    """Checks Python, the packages, the processors, Ray, the working directory and the two databases."""
    connections = Connections.of(storage, tracking)
    checks = [Check("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    checks += [_package(name) for name in PACKAGES]
    checks += [_processors(), _ray(), _folder()]
    checks.append(_database("tracking", connections.tracking, _ask_mlflow))
    checks.append(_database("storage", connections.storage, _ask_ledger))
    return checks


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        command = "pip install -e . in its clone" if name == DISTRIBUTION else f"pip install {name}"
        return Check(name, False, f"must be installed, found none; {command}")


def _processors() -> Check:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("processors", True, f"{os.cpu_count()} CPU cores, {', '.join(gpus) or 'no GPU'}")


def _ray() -> Check:
    from study.execute.connection import cluster_address, connected, nodes

    if not cluster_address():
        return Check("ray cluster", True, "a local one for each run (RAY_ADDRESS names another)")
    try:
        with connected() as address:
            count = len(nodes())
    except StudyError as error:
        return Check("ray cluster", False, str(error))
    return Check("ray cluster", True, f"{count} {'node' if count == 1 else 'nodes'} at {address}")


def _folder() -> Check:
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            return Check("folder", True, f"{here} is writable")
    except OSError as error:
        return Check("folder", False, f"the working directory must be writable, got {here}: {error.strerror}")


def _database(name: str, url: str, ask: Callable[[str], None]) -> Check:
    shown, file = without_password(url), sqlite_file(url)
    if file is not None and not file.exists():
        folder = next(parent for parent in file.absolute().parents if parent.exists())
        if os.access(folder, os.W_OK) and folder.is_dir():
            return Check(name, True, f"{shown} (made by the first run)")
        return Check(name, False, f"{shown} must lie in a writable folder, got {folder}; name another")
    try:
        ask(url)
    except StudyError as error:
        return Check(name, False, str(error))
    return Check(name, True, f"{shown} answers")


def _ask_mlflow(uri: str) -> None:
    from study.findings.collect import check_tracking

    check_tracking(uri)


def _ask_ledger(url: str) -> None:
    from study.execute.tables import opened

    with opened(url, making=False):
        pass
