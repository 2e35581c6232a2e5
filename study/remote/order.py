"""What a client asks of a cluster, as it stands on the command line of the job there."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass

STORED_CONFIG = "stored-config"  # an order of its own, which is no command: prints a study's config as JSON
STORED = "stored"  # another: prints what there is of a study, in words
PLACES = {"storage": "BELAY_STORAGE_URL", "tracking": "MLFLOW_TRACKING_URI"}  # option, and what stands for it there


def python_version() -> str:
    """This process's Python, as major.minor."""
    return ".".join(platform.python_version_tuple()[:2])


@dataclass(frozen=True)
class Order:
    """A command for a cluster.

    Attributes:
        arguments: Of ``belay-study``, or `STORED_CONFIG` with a study's name and perhaps the storage's URL, or
            `STORED` with a study's name and the URLs of the storage and of the tracking store, each "" if not given.
        needs: Environment variables that the cluster must have set, as the command names no place instead.
        address: By which the client knows the cluster; commands that are advised there repeat it.
        python: The client's version.
    """

    arguments: Sequence[str]
    needs: Sequence[str]
    address: str
    python: str

    def entrypoint(self) -> str:
        """The shell command of the job; `exec`, for the job's process to be this one."""
        return f"exec python -m study.remote.job {shlex.quote(json.dumps(asdict(self)))}"
