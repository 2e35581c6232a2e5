"""`reconstruct`: makes an average of a run that is over, from the snapshots that `belay.Snapshots` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from belay.advance import share_of
from belay.checks import positive, whole
from belay.kernels import Fit, Target, fit
from belay.names import buffers_at, check_alike, check_model, owners_of, parameters_of, unwrap
from belay.oscillator import Oscillator
from belay.shards import copy_
from belay.snapshots import files_in, read

TOLERANCE = 0.05
ROUNDINGS = 8.0  # of the averages' dtype that have gathered in a stored weight, about
NEGLIGIBLE = 1e-14  # coefficients below this, of a sum of 1, are not worth reading a file for
MOTION = 0.01  # how far a weight goes in a step, about, as a share of its size


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """An average made after the run.

    Attributes:
        target: Which average it is.
        step: The step at which it is that average.
        kernel_error: How far its weights on the run's iterates are from the average's own, ``|w - h| / |h|``: where the
            model moves as noise, the error over the noise that the average itself has. See `belay.kernels`.
        weights: The averaged weights by name, a tied one under its first name.
        buffers: The buffers that go with them.
    """

    target: Target
    step: int
    kernel_error: float
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers, for ``model.load_state_dict(..., strict=False)``: what was not averaged is left out."""
        return {**self.weights, **self.buffers}

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Copies weights and buffers into a model; what was not averaged stays as it is.

        Args:
            model: The model of the run, or one with the same names and shapes, wrapped or sharded in any way.

        Raises:
            ValueError: Names or shapes differ; nothing has been changed.
            TypeError: It is no model.
        """
        check_model(model)
        target = unwrap(model)
        weights, buffers = parameters_of(target), buffers_at(owners_of(target))
        for what, ours, theirs in (("weights", self.weights, weights), ("buffers", self.buffers, buffers)):
            named = {name: tensor for name, tensor in theirs.items() if name in ours}
            check_alike("model", f"the snapshots' {what}", ours, named)
        copy_(weights, self.weights)
        copy_(buffers, self.buffers)


@torch.no_grad()
def reconstruct(
    folder: str | Path, target: Target, *, step: int | None = None, tolerance: float = TOLERANCE
) -> Reconstruction:
    """Makes an average of a run that is over from its snapshots: any decay and damping, without training again.

    In memory are its weights, in float64; snapshots are read a tensor at a time. Buffers that were averaged become EMAs
    of the same lag, as `Belay` keeps them.

    Args:
        folder: What `belay.Snapshots` wrote to; some of the files but the first may have been deleted.
        target: Which average: an `Oscillator` with decay and damping in optimizer steps, coupling 0; or a
            `PowerProfile`.
        step: The step at which it is asked for, one of the snapshots'; by default the last.
        tolerance: The largest kernel error (> 0) of an answer.

    Raises:
        FileNotFoundError: There are no snapshots in the folder.
        ValueError: A file is not whole or of another run, the target is coupled, an option is out of range, or the
            kernel error, which the message says, is above `tolerance`.
        TypeError: `target` is something else.

    >>> import tempfile
    >>> from belay import Snapshots
    >>> model, folder = nn.Linear(2, 1), tempfile.mkdtemp()
    >>> snapshots = Snapshots(model, folder, every=10)
    >>> for _ in range(100):
    ...     snapshots.update()  # after each optimizer.step() that was not skipped
    >>> average = reconstruct(folder, Oscillator.critical(lag=20))
    >>> average.copy_to(model)
    >>> print(f"{average.kernel_error:.3f}")
    0.012
    """
    _check(target)
    positive("tolerance", tolerance)
    files = files_in(Path(folder))
    if 0 not in files or len(files) == 1:
        raise FileNotFoundError(
            f"`folder` must hold the start weights and a snapshot or more, as belay.Snapshots writes, got {folder}."
        )
    at = max(files) if step is None else whole("step", step, least=1)
    if at not in files:
        raise ValueError(f"`step` must be that of a snapshot in {folder}, got {step}; the last is {max(files)}.")
    snapshots = {step: read(path) for step, path in files.items() if step <= at}
    _check_one_run(folder, snapshots)
    first, *stored = snapshots.values()
    steps, decays = [*snapshots][1:], first["decays"]
    precision = max(torch.finfo(tensor.dtype).eps for tensor in first["weights"][0].values())
    noise = ROUNDINGS * precision / MOTION
    found = fit(target, decays, steps, noise)
    if not found.error <= tolerance:
        raise ValueError(
            f"`target` must be within {tolerance:g} of what the snapshots make, got a kernel error of "
            f"{found.error:.3g} for {target} at step {at}; ask for a longer lag, store more often, or raise "
            "`tolerance`."
        )
    even = Oscillator.ema(1 - share_of(target)) if isinstance(target, Oscillator) else target
    weights = _combined("weights", first, stored, found)
    averaged = _combined("averaged_buffers", first, stored, fit(even, decays, steps, noise))
    return Reconstruction(target, at, found.error, weights, {**averaged, **stored[-1]["buffers"]})


def _combined(
    kind: str, first: Mapping[str, Any], stored: Sequence[Mapping[str, Any]], found: Fit
) -> dict[str, Tensor]:
    """The sum of the start and of the stored averages by their coefficients, in the dtypes that they have."""
    start = first[kind][0]
    sums = {name: tensor.to(_wide(tensor.dtype)) * found.start for name, tensor in start.items()}
    for snapshot, coefficients in zip(stored, found.coefficients.tolist(), strict=True):
        for averages, coefficient in zip(snapshot[kind], coefficients, strict=True):
            if abs(coefficient) > NEGLIGIBLE:
                for name, total in sums.items():
                    total.add_(averages[name].to(total.dtype), alpha=coefficient)
    held = {name: tensor.isinf() for name, tensor in start.items()}  # as a mask is, all along the run
    return {name: torch.where(held[name], start[name], total.to(start[name].dtype)) for name, total in sums.items()}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float64)


def _check(target: Target) -> None:
    if not isinstance(target, Target):
        raise TypeError(f"`target` must be a belay.Oscillator or belay.PowerProfile, got {type(target).__name__}.")
    if isinstance(target, Oscillator) and target.coupling:
        raise ValueError(
            f"`target` must have coupling 0, as a coupled average pulls the model, which went its way without, got "
            f"{target}; train it with Belay."
        )


def _check_one_run(folder: str | Path, snapshots: Mapping[int, Mapping[str, Any]]) -> None:
    runs = {step: snapshot["run"] for step, snapshot in snapshots.items()}
    if other := [step for step, run in runs.items() if run != runs[0]]:
        raise ValueError(f"`folder` must hold the snapshots of one run, got {folder} with step {other[0]} of another.")
