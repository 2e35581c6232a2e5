"""What keeps runs from disturbing each other: torch's defaults, the global random generators, the working directory."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.backends import cudnn

TRAINING, EVALUATION = 0, 1  # what is drawn for: the first numbers of a path
STREAM = 20_261_128  # sets the global streams apart from those of generators that a task seeds itself


def _folder() -> str:
    """The working directory; "" where it has been deleted."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def _enter(folder: str) -> None:
    if folder:
        os.chdir(folder)


DEFAULTS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (  # how each is read and set
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (lambda: cudnn.deterministic, partial(setattr, cudnn, "deterministic")),
    (lambda: cudnn.benchmark, partial(setattr, cudnn, "benchmark")),
    (_folder, _enter),
)


@contextmanager
def defaults_kept() -> Iterator[None]:
    """Puts torch's defaults and the working directory back at the end of the block."""
    before = [get() for get, _ in DEFAULTS]
    try:
        yield
    finally:
        for (get, put), value in zip(DEFAULTS, before, strict=True):
            if get() != value:
                put(value)


@contextmanager
def seeded(*path: int) -> Iterator[None]:
    """Seeds the global generators of torch, NumPy and Python by a path of numbers, and puts their states back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 # the global one is meant
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    seed = int(np.random.SeedSequence([STREAM, *path]).generate_state(1)[0])
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        torch.cuda.set_rng_state_all(devices)
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def drawn() -> list[bytes]:
    """The states of torch's and NumPy's global generators: others than before if numbers have been drawn.

    Python's is left out, as other threads of this process may draw from it.
    """
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's own
        states += torch.cuda.get_rng_state_all()
    return [repr(numpys["state"]["pos"]).encode(), numpys["state"]["key"].tobytes(), *map(_bytes, states)]


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()
