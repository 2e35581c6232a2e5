"""The process that trains what must not take too long; `study.execute.train.apart` starts it."""

from __future__ import annotations

import faulthandler
import json
import os
from dataclasses import astuple
from functools import partial
from typing import Any

import torch

from study.design.config import parse_config
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import train_pack
from study.execute.train.probe import PROBED, tried

LONGEST = 1e9  # seconds that a timer takes


def main(orders: int, results: int) -> None:
    """Trains the packs that it is given, one after the other, until there are no more, and probes where one is null.

    What takes too long ends this process, whatever it waits for: where it is, thread by thread, the main one
    last, is then the result.

    Args:
        orders: Descriptor of a pipe with the study's config, then packs or null, each a line of JSON.
        results: Descriptor of a pipe for the outcomes of each pack, or the room that packs have, a line of JSON.
    """
    for pipe in (orders, results):  # what the task starts must not hold them open
        os.set_inheritable(pipe, False)
        os.register_at_fork(after_in_child=partial(os.close, pipe))
    with os.fdopen(orders, encoding="utf-8") as lines, os.fdopen(results, "w", encoding="utf-8") as answers:
        study = Study.of(parse_config(json.loads(lines.readline())))
        limit = study.config.limits.setting_seconds
        assert limit is not None
        torch.set_num_threads(study.config.resources.threads)
        for line in lines:
            order = json.loads(line)
            settings = len(order["settings"]) if order else PROBED
            faulthandler.dump_traceback_later(min(limit * settings, LONGEST), exit=True, file=answers)
            answer = _outcomes(study, Pack.from_json(order)) if order else astuple(tried(study))
            faulthandler.cancel_dump_traceback_later()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _outcomes(study: Study, pack: Pack) -> list[dict[str, Any]]:
    return [outcome.to_json() for outcome in train_pack(study, pack)]
