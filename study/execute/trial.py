"""What a trial of Ray Tune is. A worker imports this first, and the rest of the project when it has a trial."""

from __future__ import annotations

from typing import Any

from study.modules import collect_rarely

PACK, REST = "pack", "rest"  # a pack to train, or seconds in which a worker waits for the next one
UNABLE = "unable"  # what a worker reports, with the reason, that cannot make the study's task


def run(tried: dict[str, Any], document: dict[str, Any], folder: str, paths: list[str]) -> None:
    """Carries a trial out, in a worker.

    Args:
        tried: The pack or the rest, as Ray Tune has it.
        document: The study's config as plain data.
        folder: The driver's working directory, which becomes the worker's where it has it, too: tasks read files there.
        paths: Where the driver finds modules, the user's own tasks among them.
    """
    collect_rarely()
    from study.execute.worker import train

    train(tried, document, folder, paths)
