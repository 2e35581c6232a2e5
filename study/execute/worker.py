"""What a Ray worker does with a pack. It imports what training takes and no more: each worker waits for that."""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

import torch
from ray import tune

from study.design.config import parse_config
from study.design.study import Study
from study.errors import StudyError
from study.execute.plan import Pack
from study.execute.train.apart import Train, trainer
from study.execute.trial import PACK, REST, UNABLE

HELD = ExitStack()  # until this worker ends
atexit.register(HELD.close)


def train(tried: dict[str, Any], document: dict[str, Any], folder: str, paths: list[str]) -> None:
    """Trains a pack, or rests; takes what `study.execute.trial.run` takes."""
    if REST in tried:
        time.sleep(tried[REST])
        tune.report({})
        return
    with suppress(OSError):  # a machine that shares no files with the driver's
        os.chdir(folder)
    sys.path += [path for path in paths if path not in sys.path]
    pack = Pack.from_json(tried[PACK])
    try:
        study, train_one = _trainer(json.dumps(document))
    except StudyError as error:  # the worker lacks what the driver has: the task's module, most likely
        tune.report({UNABLE: str(error)})
        return
    torch.set_num_threads(study.config.resources.threads)
    tune.report({"outcomes": [outcome.to_json() for outcome in train_one(pack)]})


@functools.cache
def _trainer(document: str) -> tuple[Study, Train]:
    """A study and what trains its packs, for as long as this worker lasts."""
    study = Study.of(parse_config(json.loads(document)))
    return study, HELD.enter_context(trainer(study))
