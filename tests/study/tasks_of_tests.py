"""Tasks that the tests' studies name by import path."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from belay import Belay

LOGGER = logging.getLogger("tasks of tests")
Report = Callable[[int, Mapping[str, float]], None]


def parabola(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """A whole training loop of one's own: one weight on a parabola of curvature 1, with noise."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting["lr"])
    average = Belay(model, setting.oscillator)  # type: ignore[attr-defined] # a Setting
    generator = torch.Generator().manual_seed(seed)
    for _ in range(setting["steps"]):
        optimizer.zero_grad()
        noise = torch.randn(1, generator=generator)
        (model.weight.square() / 2 + 0.1 * noise * model.weight).sum().backward()
        optimizer.step()
        average.update()
    with torch.no_grad(), average.average_parameters():
        report(setting["steps"], {"average/score": -float(model.weight.square().sum())})


def breaks_above_one(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Raises where lr is above 1."""
    if setting["lr"] > 1:
        raise RuntimeError("no batch fits\nhere")
    parabola(setting, seed, report)


def exits_above_one(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Prints a line, on stderr for odd seeds, and ends its program where lr is above 1."""
    print(f"hello from lr {setting['lr']} and seed {seed}", file=sys.stderr if seed % 2 else sys.stdout)
    if setting["lr"] > 1:
        sys.exit("no such data")
    parabola(setting, seed, report)


def prints(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Prints as many lines of 1000 bytes as lr says, then one each by a logger, in bytes and by a program."""
    if not LOGGER.handlers:
        LOGGER.addHandler(logging.StreamHandler())  # to stderr as it is now
    sys.stdout.write(int(setting["lr"]) * f"{'x' * 999}\n")
    LOGGER.warning("by a logger")
    sys.stdout.buffer.write(b"in bytes\n")
    sys.stdout.flush()
    subprocess.run(["echo", "by a program"], stdout=sys.stdout, check=True)
    report(1, {"average/score": 0.0})


def says_something_else(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Never reports the objective."""
    report(1, {"average/loss": 1.0})


def reports_a_bare_name(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Reports a metric that is neither of the average nor of the model's own weights."""
    report(1, {"score": 1.0})


def dies_above_one(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Takes its worker down where lr is above 1, and reads a file of the working directory."""
    assert Path("dying.yaml").is_file()
    if setting["lr"] > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    parabola(setting, seed, report)


def disturbs(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Reports what it draws from global generators and what it finds of torch's defaults, then changes all of them."""
    numbers = float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002
    report(1, {f"average/{place}": number for place, number in enumerate(numbers)})
    found = torch.finfo(torch.get_default_dtype()).bits + torch.get_num_threads() + 1000 * torch.is_grad_enabled()
    report(1, {"average/score": found, "live/path": len(str(Path.cwd()))})
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    os.chdir("/")


def leaves_a_deleted_folder(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Works in a folder of its own, which is gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        report(1, {"average/score": 1.0})


def hangs_above_one(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Prints a line, starts a program and waits for ever where lr is above 1; takes its process down above 2.

    In the folder that the hyperparameter `folder` names a file has the program's process id in its name.
    """
    if setting["lr"] > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if setting["lr"] > 1:
        print("hello from the task")  # noqa: T201
        program = subprocess.Popen(["sleep", "1000"])
        (Path(setting["folder"]) / f"started-{program.pid}").touch()
        threading.Event().wait()
    report(1, {"average/score": -setting["lr"]})  # at once, as nothing of torch is needed for it


def waits_at_a_gate(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Trains the first three settings; further ones say that they are there, and wait until the gate is open.

    The hyperparameter `gate` is a folder: a file `open` in it opens the gate.
    """
    gate, number = Path(setting["gate"]), setting.number  # type: ignore[attr-defined] # a Setting
    if number >= 3:
        (gate / f"waiting-{number}").touch()
        while not (gate / "open").exists():
            time.sleep(0.01)
    parabola(setting, seed, report)


def begins_two_by_two(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Says in which process it is; settings 0 and 1 wait until both have begun, as 2 and 3, and 0 for a file `told`.

    The hyperparameter `folder` is where `told` is, and the process id of setting 2 as `begun-2`.
    """
    folder, number = Path(setting["folder"]), setting.number  # type: ignore[attr-defined] # a Setting
    (folder / f"begun-{number}.new").write_text(str(os.getpid()))
    (folder / f"begun-{number}.new").rename(folder / f"begun-{number}")
    for awaited in (f"begun-{number ^ 1}", *(["told"] if number == 0 else [])):
        while not (folder / awaited).exists():
            time.sleep(0.01)
    report(1, {"average/score": 1.0})


def raises_escapes(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Raises with text that would act on a terminal, and that PostgreSQL does not keep."""
    raise RuntimeError("\x1b[31mred\x00\x9b\udcfc" + "long" * 10_000)


def reports_escapes(setting: Mapping[str, Any], seed: int, report: Report) -> None:
    """Reports a metric whose name would act on a terminal."""
    report(1, {"average/\x1b[31mred": 1.0, "average/score": 1.0})
