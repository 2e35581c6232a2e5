"""What a Ray worker does with a pack. It imports what training takes and no more: each worker waits for that."""

from __future__ import annotations

import sys
from typing import Any

import torch
from ray import tune

from study.design.config import parse_config
from study.design.study import Study
from study.errors import StudyError
from study.execute.plan import Pack
from study.execute.train import train_pack

UNABLE = "unable"  # what a worker reports, with the reason, that cannot make the study's task


def train(tried: dict[str, Any], document: dict[str, Any], paths: list[str]) -> None:
    """Trains a pack.

    Args:
        tried: The pack, as Ray Tune has it.
        document: The study's config as plain data.
        paths: Where the driver finds modules, the user's own tasks among them.
    """
    sys.path += [path for path in paths if path not in sys.path]
    pack = Pack.from_json(tried["pack"])
    try:
        study = Study.of(parse_config(document))
    except StudyError as error:  # the worker lacks what the driver has: the task's module, most likely
        tune.report({UNABLE: str(error)})
        return
    torch.set_num_threads(study.config.resources.threads)
    outcomes = list(train_pack(study, pack))
    tune.report({"outcomes": [outcome.to_json() for outcome in outcomes]})
