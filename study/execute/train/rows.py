"""Optimizers and averages of many runs side by side: a row of weights a trajectory, with values of its own.

The equations are those of ``torch.optim`` and of `belay.reference`. Tensors of weights have shape (rows, weights), the
rows' values are columns of shape (rows, 1).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from belay import Oscillator
from study.design.tasks.optimizers import OptimizerSpec

EPS = 1e-8  # of Adam and AdamW, torch's own
BLOCK = 64  # steps that watchers take at once
CROWD = 4  # averages of a row, at least, that do so


class Averages:
    """Averages of rows: where `CROWD` or more watch one row, a block of steps at a time, else at every step.

    Args:
        oscillators: One an average.
        row_of: The row of each; one that is coupled has its row for itself.
        x: The rows' weights, from which the averages start.
    """

    def __init__(self, oscillators: Sequence[Oscillator], row_of: Sequence[int], x: Tensor) -> None:
        crowded = [row for row, count in Counter(row_of).items() if count >= CROWD]
        self._singles = [place for place, row in enumerate(row_of) if row not in crowded]  # places in their order
        self._crowds = [[place for place, watched in enumerate(row_of) if watched == row] for row in crowded]
        each, rows = [oscillators[place] for place in self._singles], [row_of[place] for place in self._singles]
        self._stepped = Stepped(each, rows, x)
        self._watchers = Watchers([[oscillators[place] for place in places] for places in self._crowds], crowded, x)

    def update(self, x: Tensor) -> None:
        """One step of every average, and its pull on the row where it is coupled."""
        if self._singles:
            self._stepped.update(x)
        if self._crowds:
            self._watchers.watch(x)

    def values(self) -> Tensor:
        """The averages as they are now, shape (averages, weights)."""
        if not self._crowds:
            return self._stepped.y
        places = [*self._singles, *(place for places in self._crowds for place in places)]
        order = torch.tensor(places, device=self._stepped.y.device).argsort()
        return torch.cat([self._stepped.y, *self._watchers.averages()])[order]

    def keep(self, averages: Sequence[int], row_of: Sequence[int], x: Tensor) -> None:
        """Goes on with these averages alone, all or none of a row's, on rows that lie elsewhere now."""
        now = {before: place for place, before in enumerate(averages)}
        singles = [place for place, before in enumerate(self._singles) if before in now]
        crowds = [place for place, places in enumerate(self._crowds) if places[0] in now]
        self._singles = [now[self._singles[place]] for place in singles]
        self._crowds = [[now[before] for before in self._crowds[place]] for place in crowds]
        self._stepped.keep(singles, [row_of[place] for place in self._singles], x)
        self._watchers.keep(crowds, [row_of[places[0]] for places in self._crowds])


class Stepped:
    """Averages step by step.

    Args:
        oscillators: One an average.
        row_of: The row of each; one that is coupled has its row for itself.
        x: The rows' weights, from which the averages start.

    Attributes:
        y: The averages, shape (averages, weights).
    """

    def __init__(self, oscillators: Sequence[Oscillator], row_of: Sequence[int], x: Tensor) -> None:
        self._k = _column([average.stiffness for average in oscillators], x)
        self._inertia = _column([1 - average.damping for average in oscillators], x)
        self._coupling = _column([average.coupling for average in oscillators], x)
        self._be_on(row_of, x)
        self.y = x[self._row_of]
        self._v, self._d = torch.zeros_like(self.y), torch.empty_like(self.y)

    def update(self, x: Tensor) -> None:
        """One step of every average, and its pull on the row where it is coupled.

        An EMA keeps a velocity too, so that its digits do not depend on what the other averages are.
        """
        watched = x if self._one_each else x[self._row_of]
        d = torch.sub(watched, self.y, out=self._d)
        self.y.add_(self._v.mul_(self._inertia).addcmul_(d, self._k))
        if self._one_each and len(self._pulling):
            x.addcmul_(d, self._coupling, value=-1)
        elif len(self._pulling):
            mine = self._pulling
            x[self._row_of[mine]] = torch.addcmul(watched[mine], d[mine], self._coupling[mine], value=-1)

    def keep(self, averages: Sequence[int], row_of: Sequence[int], x: Tensor) -> None:
        """Goes on with these averages alone, on rows that lie elsewhere now."""
        kept = torch.tensor(averages, dtype=torch.long, device=x.device)
        self._k, self._inertia, self._coupling = (c[kept] for c in (self._k, self._inertia, self._coupling))
        self.y, self._v, self._d = self.y[kept], self._v[kept], self._d[kept]
        self._be_on(row_of, x)

    def _be_on(self, row_of: Sequence[int], x: Tensor) -> None:
        """Takes these rows for those of the averages."""
        self._row_of = torch.tensor(row_of, dtype=torch.long, device=x.device)
        self._one_each = list(row_of) == list(range(len(x)))
        self._pulling = self._coupling.squeeze(1).nonzero().squeeze(1)


class Watchers:
    """Averages without coupling that watch rows, many steps at a time.

    What they are after a block of steps is a linear map of what they were before it and of the block's weights: a
    product of matrices, for a tenth of the time of as many updates.

    Args:
        oscillators: The averages of each row that is watched.
        rows: These rows.
        x: All rows' weights, from which the averages start.
    """

    def __init__(self, oscillators: Sequence[Sequence[Oscillator]], rows: Sequence[int], x: Tensor) -> None:
        self._averages = [tuple(averages) for averages in oscillators]
        most = max(map(len, self._averages), default=0)
        self._all = x.new_zeros(len(rows), 2 * most + BLOCK, x.shape[1])  # by row: averages, velocities, then a block
        for held, averages, row in zip(self._all, self._averages, rows, strict=True):
            held[: len(averages)] = x[row]
        self._filled = 0
        self._be_on(rows)

    def watch(self, x: Tensor) -> None:
        """Notes what the rows are after a step."""
        self._all[self._places, self._begin + self._filled] = x[self._rows]
        self._filled += 1
        if self._filled == BLOCK:
            self._advance()

    def averages(self) -> list[Tensor]:
        """The averages of each watched row as they are now, shape (averages, weights)."""
        self._advance()
        return [held[: len(averages)] for held, averages in zip(self._all, self._averages, strict=True)]

    def keep(self, watched: Sequence[int], rows: Sequence[int]) -> None:
        """Goes on with these of the watched rows alone, which lie elsewhere now."""
        self._all = self._all[torch.tensor(watched, dtype=torch.long, device=self._all.device)]
        self._averages = [self._averages[place] for place in watched]
        self._be_on(rows)

    def _be_on(self, rows: Sequence[int]) -> None:
        """Takes these rows for those that are watched."""
        begin = [2 * len(averages) for averages in self._averages]
        self._places = torch.arange(len(rows), device=self._all.device)
        self._rows, self._begin = torch.tensor([rows, begin], dtype=torch.long, device=self._all.device)

    def _advance(self) -> None:
        """Takes the averages through what has been noted, row by row: a row's digits depend on no other."""
        if self._filled:
            for held, averages in zip(self._all, self._averages, strict=True):
                kept = 2 * len(averages)
                held[:kept] = linear_map(averages, self._filled).to(held) @ held[: kept + self._filled]
            self._filled = 0


@functools.lru_cache(maxsize=128)
def linear_map(oscillators: tuple[Oscillator, ...], steps: int) -> Tensor:
    """From averages, velocities and the weights of so many steps to averages and velocities after these."""
    k = torch.tensor([average.stiffness for average in oscillators], dtype=torch.float64)
    inertia = torch.tensor([1 - average.damping for average in oscillators], dtype=torch.float64)
    step = torch.stack([torch.stack([1 - k, inertia], dim=1), torch.stack([-k, inertia], dim=1)], dim=1)
    gain = torch.stack([k, k], dim=1).unsqueeze(2)
    columns, power = [], torch.eye(2, dtype=torch.float64).expand(len(oscillators), 2, 2)
    for _ in range(steps):  # from the last step's weights to the first's
        columns.append((power @ gain).squeeze(2))
        power = power @ step
    before = [torch.cat([torch.diag(power[:, i, j]) for j in (0, 1)], dim=1) for i in (0, 1)]
    weights = torch.stack(columns[::-1], dim=2)  # (averages, 2, steps)
    return torch.cat([torch.cat(before), torch.cat([weights[:, 0], weights[:, 1]])], dim=1)


def optimizer(specs: Sequence[OptimizerSpec], x: Tensor) -> RowOptimizer:
    """The optimizer of rows whose runs have these, all of one kind."""
    return (_SGD if specs[0].kind == "sgd" else _Adam)(specs, x)


class RowOptimizer(ABC):
    """An optimizer of all rows.

    Args:
        specs: One a row, all of one kind.
        x: The rows' weights, of which it takes dtype and device.
    """

    def __init__(self, specs: Sequence[OptimizerSpec], x: Tensor) -> None:
        self.specs, self.factors, self._like = list(specs), [1.0] * len(specs), x.new_empty(())
        self.state: list[Tensor] = []
        self.refresh()

    def schedule(self, factors: Sequence[float]) -> None:
        """Sets what the rows' learning rates are multiplied by from now on."""
        if list(factors) != self.factors:
            self.factors = list(factors)
            self.lr = _column(self.rates(), self._like)

    def rates(self) -> list[float]:
        """The rows' learning rates."""
        return [spec.lr * factor for spec, factor in zip(self.specs, self.factors, strict=True)]

    def column(self, value: Callable[[OptimizerSpec], float]) -> Tensor:
        """A value of each row."""
        return _column([value(spec) for spec in self.specs], self._like)

    def refresh(self) -> None:
        """Makes the columns that the rows as they are now need."""
        self.lr = _column(self.rates(), self._like)
        self.weight_decay = self.column(lambda spec: spec.weight_decay)
        self.decays = bool(self.weight_decay.any())

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone."""
        self.specs = [self.specs[row] for row in rows.tolist()]
        self.factors = [self.factors[row] for row in rows.tolist()]
        self.state = [part[rows] for part in self.state]
        self.refresh()

    @abstractmethod
    def step(self, x: Tensor, gradient: Tensor) -> None:
        """Moves `x` by one step; may change the gradient."""


class _SGD(RowOptimizer):
    def refresh(self) -> None:
        super().refresh()
        self.momentum = self.column(lambda spec: spec.momentum)
        self.moves_on = bool(self.momentum.any())
        self.nesterov = self.column(lambda spec: spec.nesterov).bool()

    def step(self, x: Tensor, gradient: Tensor) -> None:
        g = gradient.addcmul_(x, self.weight_decay) if self.decays else gradient
        if self.moves_on:
            if self.state:
                self.state[0].mul_(self.momentum).add_(g)
            else:
                self.state = [g.clone()]
            (velocity,) = self.state
            g = torch.where(self.nesterov, torch.addcmul(g, velocity, self.momentum), velocity)
        x.addcmul_(g, self.lr, value=-1)


class _Adam(RowOptimizer):
    steps = 0

    def refresh(self) -> None:
        super().refresh()
        self.beta1 = self.column(lambda spec: spec.betas[0])
        self.beta2 = self.column(lambda spec: spec.betas[1])

    def step(self, x: Tensor, gradient: Tensor) -> None:
        g = gradient
        if self.decays and self.specs[0].kind == "adamw":
            x.mul_(1 - self.lr * self.weight_decay)
        elif self.decays:
            g = g.addcmul_(x, self.weight_decay)
        if not self.state:
            self.state = [torch.zeros_like(x), torch.zeros_like(x)]
        mean, square = self.state
        self.steps += 1
        mean.lerp_(g, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(g * g, 1 - self.beta2)
        shrunk = self.column(lambda spec: (1 - spec.betas[1] ** self.steps) ** 0.5)
        betas = (spec.betas[0] for spec in self.specs)
        rates = zip(self.rates(), betas, strict=True)
        size = _column([lr / (1 - beta**self.steps) for lr, beta in rates], self._like)
        x.addcmul_(mean / square.sqrt().div_(shrunk).add_(EPS), size, value=-1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1).to(like)
