"""`Snapshots`: writes a few averages of a run to a folder, from which `belay.reconstruct` makes any other after it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from belay.bank import Bank
from belay.checks import whole
from belay.finite import Nonfinite
from belay.model import Buffers, Model
from belay.names import few
from belay.oscillator import Oscillator
from belay.shards import clones, is_sharded
from belay.state import checked_bank

VERSION = 2
LAGS = (0.06, 0.35, 2.0)  # of the EMAs that are kept, in intervals: of sets of three, about the least error
PARTS = {"version", "run", "bank"}
STEM = "step-"  # what a snapshot's name begins with, before its step
NAME = re.compile(rf"{STEM}(\d+)\.pt")


class Snapshots:
    """Keeps a few EMAs of a model while it trains, and writes them to a folder every so many steps.

    After the run `belay.reconstruct` makes any average without coupling from them: decay and damping are chosen then,
    without training again. An update costs what a `Bank` of the EMAs does; a snapshot takes as many times the averaged
    weights on disk. With the EMAs that are kept by default the kernel error is at most 0.05 for every lag of two
    intervals or more and damping ratio of 0.3 or more, however long the run. Files but the first may be deleted, for
    less exact averages.

    With several processes all keep the averages, and rank 0 alone writes.

    Args:
        model: The model in training, as for `Belay`; its weights must be whole, not shards (FSDP2).
        folder: Where to write; it is made at the first update, and must hold no other run's snapshots.
        every: Steps between two snapshots (>= 1): half of the shortest lag that will be asked for, or less.
        emas: The EMAs to keep (damping 1, coupling 0, decay above 0); by default three, of lags of 0.06, 0.35 and 2
            intervals.
        buffers: What averaged models get as buffers, as for `Belay`; "copy" gives those of the last step.
        dtype: ``torch.float32`` or ``torch.float64`` for the averages, as for `Belay`.
        parameters: Which parameters to average, as ``f(name, parameter) -> bool``.
        nonfinite: What `update` does when a weight is nan or infinite, as for `Belay`.

    Raises:
        ValueError: An option is out of range, or weights are shards or of a kind that cannot be averaged.
        TypeError: `model` or an EMA is something else.

    >>> import tempfile
    >>> model, folder = nn.Linear(2, 1), tempfile.mkdtemp()
    >>> snapshots = Snapshots(model, folder, every=2)
    >>> for _ in range(4):
    ...     snapshots.update()  # after each optimizer.step() that was not skipped
    >>> sorted(path.name for path in Path(folder).iterdir())
    ['step-000000000.pt', 'step-000000002.pt', 'step-000000004.pt']
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        *,
        every: int,
        emas: Sequence[Oscillator] | None = None,
        buffers: Buffers = "copy",
        dtype: torch.dtype | None = None,
        parameters: Callable[[str, nn.Parameter], bool] | None = None,
        nonfinite: Nonfinite = "raise",
    ) -> None:
        self._folder, self._every = Path(folder), whole("every", every, least=1)
        kept = [Oscillator.ema(lag * every / (lag * every + 1)) for lag in LAGS] if emas is None else list(emas)
        self._bank = Bank(model, kept, buffers=buffers, dtype=dtype, parameters=parameters, nonfinite=nonfinite)
        if wrong := [each for each in kept if each.damping != 1 or each.decay == 0]:
            raise ValueError(f"`emas` must have damping 1 and a decay above 0, got {wrong[0]}.")
        self._model = Model(model, buffers, parameters)
        if any(map(is_sharded, self._model.weights.values())):
            raise ValueError("`model` must have whole weights to be written, got shards (DTensor); use DDP.")
        self._run, self._begun = uuid.uuid4().hex, False

    @property
    def steps(self) -> int:
        """Optimizer steps that were averaged."""
        return self._bank.steps

    def update(self) -> None:
        """Advances the EMAs by one optimizer step, and writes them if it is time; call it after each step not skipped.

        Raises:
            ValueError: The folder holds snapshots of another run. Nothing has been changed.
            RuntimeError, FloatingPointError: As for `Belay.update`.
            OSError: A file cannot be written; the folder is as before.
        """
        before = self.steps
        beginning = not self._begun
        if beginning:
            self._begin()
        try:
            self._bank.update()
        except BaseException:
            if beginning:
                self._remove()
            raise
        if self.steps > before and self.steps % self._every == 0:
            self.save()

    def save(self) -> None:
        """Writes a snapshot of this step, where `update` does not: after the last step of a run, say.

        Raises:
            RuntimeError: There has been no update.
            OSError: It cannot be written; the folder is as before.
        """
        if not self.steps:
            raise RuntimeError("`save` must come after an `update`, got none yet.")
        self._write(self._bank.state_dict()["averages"])

    def reset(self) -> None:
        """Starts again from the model as it is now, as `Bank.reset`; this run's snapshots are removed from the folder.

        Raises:
            RuntimeError: The model holds averages.
            ValueError: Nothing is left to average. Nothing has been changed.
        """
        self._bank.reset()
        self._model.refresh()
        self._remove()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors (not copies) and plain values, safe for ``weights_only``."""
        return {"version": VERSION, "run": self._run, "bank": self._bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state, in the folder that its snapshots were written to.

        Snapshots of later steps are removed, as those steps are trained again.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: It is not such a state, its EMAs, names or shapes differ, or the folder is not its run's;
                nothing has been changed.
        """
        if not isinstance(state, Mapping) or set(state) != PARTS or state["version"] != VERSION:
            found = few(state) if isinstance(state, Mapping) and state else "nothing"
            raise ValueError(
                f"`state` must come from Snapshots.state_dict (version {VERSION}), got {type(state).__name__} with "
                f"{found}."
            )
        loaded = checked_bank(state["bank"], len(self._bank))
        if (theirs := tuple(one.clock.oscillator for one in loaded)) != self._bank.oscillators:
            raise ValueError(f"`state` must be of the EMAs {self._bank.oscillators}, got {theirs}.")
        steps, present = loaded[0].steps, files_in(self._folder)
        if steps and _writes() and (0 not in present or read(present[0])["run"] != state["run"]):
            raise ValueError(
                f"`folder` must hold the snapshots of the run that `state` is of, got {self._folder}; give the folder "
                "that they were written to."
            )
        self._bank.load_state_dict(state["bank"])
        self._run, self._begun = state["run"], steps > 0
        if self._begun and _writes():
            for step, path in present.items():
                if step > steps:
                    path.unlink()

    def __repr__(self) -> str:
        return f"Snapshots({str(self._folder)!r}, every={self._every}, steps={self.steps})"

    def _begin(self) -> None:
        """Writes the start weights, which all averages still are."""
        if _writes() and (present := files_in(self._folder)):
            raise ValueError(
                f"`folder` must hold no snapshots before the first update, got {present[max(present)]}; give another "
                "folder, delete them, or go on by `load_state_dict`."
            )
        start = self._bank.state_dict()["averages"][0]
        self._write([{**start, "average": clones(start["average"])}])  # alone: torch writes what shares its memory too
        self._begun = True

    def _remove(self) -> None:
        """Removes what was written, and begins a run of its own."""
        if self._begun and _writes():
            for path in files_in(self._folder).values():
                path.unlink()
        self._run, self._begun = uuid.uuid4().hex, False

    def _write(self, averages: Sequence[Mapping[str, Any]]) -> None:
        """Writes averages, as `Bank.state_dict` gives them, as a snapshot of this step."""
        if not _writes():
            return
        averaged = averages[0]["buffers"]
        content = {
            "version": VERSION,
            "run": self._run,
            "step": self.steps,
            "decays": [each.decay for each in self._bank.oscillators],
            "weights": [one["average"] for one in averages],
            "averaged_buffers": [one["buffers"] for one in averages],
            "buffers": {name: buffer for name, buffer in self._model.buffers().items() if name not in averaged},
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _name(self.steps)
        part = path.with_suffix(".part")
        torch.save(content, part)
        part.replace(path)


def _name(step: int) -> str:
    return f"{STEM}{step:09}.pt"


def files_in(folder: Path) -> dict[int, Path]:
    """The snapshots in a folder by step, ascending."""
    found = {int(name[1]): path for path in folder.glob(f"{STEM}*.pt") if (name := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def read(path: Path) -> dict[str, Any]:
    """A snapshot, with tensors that are read from the file when they are used.

    Raises:
        ValueError: It is not whole, or something else.
        OSError: The system does not give it.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch has no one kind for a damaged file
        raise ValueError(f"`folder` must hold whole snapshots, got {path}, which is damaged; delete it.") from error
    if not isinstance(content, dict) or content.get("version") != VERSION or "decays" not in content:
        raise ValueError(f"`folder` must hold what belay.Snapshots wrote (version {VERSION}), got {path}; delete it.")
    if content["step"] != int(path.stem.removeprefix(STEM)):
        raise ValueError(
            f"`folder` must hold snapshots under the names that they were written with, got {path} of step "
            f"{content['step']}; name it {_name(content['step'])}."
        )
    return content


def _writes() -> bool:
    """Whether this process is the one that writes."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
