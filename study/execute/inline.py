"""Trains packs in this process, one after the other: for debuggers, tests and studies of seconds. Knows no Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch

from study.design.config import StudyConfig
from study.design.schema import SeedResult, Setting
from study.design.study import Study
from study.execute.ask import first_setting
from study.execute.packs import Packs, Trainer
from study.execute.train.alone import train_alone
from study.execute.train.apart import trainer


@contextmanager
def back_end(config: StudyConfig) -> Iterator[Trainer]:
    """This process as a back end, with as many threads as a Ray worker of this study has."""
    with _threads(config):
        yield Trainer(1, _train_all)


def debug(study: Study) -> tuple[Setting, SeedResult]:
    """Trains the study's first setting with its first seed and keeps nothing.

    Returns:
        The setting and what it measured.

    Raises:
        Exception: Whatever the task raises, from where it raises it.
    """
    setting = first_setting(study)
    with _threads(study.config), redirect_stdout(sys.stderr):  # what a task prints; stdout is for answers
        (result,) = train_alone(study, [setting], seed=0, kept=())
    return setting, result


def _train_all(packs: Packs) -> None:
    with trainer(packs.study) as train:
        while (pack := packs.next()) is not None:
            packs.finish(train(pack))


@contextmanager
def _threads(config: StudyConfig) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(config.resources.threads)  # sums over tensors depend on it in their last bits
    try:
        yield
    finally:
        torch.set_num_threads(before)
