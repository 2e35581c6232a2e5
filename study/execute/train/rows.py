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
CROWD = 4  # averages that watch a row from which they do so


class Averages:
    """Averages that watch rows, or pull one: where several watch a row many steps at a time, else step by step.

    Args:
        oscillators: One an average.
        row_of: The row of each; one that is coupled has its row for itself.
        x: The rows' weights, from which the averages start.
    """

    def __init__(self, oscillators: Sequence[Oscillator], row_of: Sequence[int], x: Tensor) -> None:
        crowded = [row for row, count in Counter(row_of).items() if count >= CROWD]
        self._stepped = [place for place, row in enumerate(row_of) if row not in crowded]
        self._watching = [[place for place, watched in enumerate(row_of) if watched == row] for row in crowded]
        each, rows = [oscillators[place] for place in self._stepped], [row_of[place] for place in self._stepped]
        self._steps = Stepped(each, rows, x)
        self._watchers = Watchers([[oscillators[place] for place in places] for places in self._watching], crowded, x)

    def update(self, x: Tensor) -> None:
        """One step of every average, and its pull on the row where it is coupled."""
        if self._stepped:
            self._steps.update(x)
        if self._watching:
            self._watchers.watch(x)

    def values(self) -> Tensor:
        """The averages as they are now, shape (averages, weights)."""
        if not self._watching:
            return self._steps.y
        places = [*self._stepped, *(place for places in self._watching for place in places)]
        order = torch.tensor(places, device=self._steps.y.device).argsort()
        return torch.cat([self._steps.y, *self._watchers.averages()])[order]

    def keep(self, averages: Sequence[int], row_of: Sequence[int], x: Tensor) -> None:
        """Goes on with these averages alone, all or none of a row's, on rows that lie elsewhere now."""
        now = {before: place for place, before in enumerate(averages)}
        stepped = [place for place, before in enumerate(self._stepped) if before in now]
        watched = [place for place, places in enumerate(self._watching) if places[0] in now]
        self._stepped = [now[self._stepped[place]] for place in stepped]
        self._watching = [[now[before] for before in self._watching[place]] for place in watched]
        self._steps.keep(torch.tensor(stepped, dtype=torch.long), [row_of[place] for place in self._stepped], x)
        self._watchers.keep(watched, [row_of[places[0]] for places in self._watching])


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
        self._watch(row_of, x)
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

    def keep(self, averages: Tensor, row_of: Sequence[int], x: Tensor) -> None:
        """Goes on with these averages alone, on rows that lie elsewhere now."""
        averages = averages.to(x.device)
        self._k, self._inertia, self._coupling = (c[averages] for c in (self._k, self._inertia, self._coupling))
        self.y, self._v, self._d = self.y[averages], self._v[averages], self._d[averages]
        self._watch(row_of, x)

    def _watch(self, row_of: Sequence[int], x: Tensor) -> None:
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
        self._maps = [maps_of(tuple(averages)) for averages in oscillators]
        counts = [len(averages) for averages in oscillators]
        # By row: averages, velocities, then the block's weights.
        self._all = x.new_zeros(len(rows), 2 * max(counts, default=0) + BLOCK, x.shape[1])
        for held, count, row in zip(self._all, counts, rows, strict=True):
            held[:count] = x[row]
        self._begin = torch.tensor([2 * count for count in counts], dtype=torch.long, device=x.device)
        self._watch(rows)
        self._filled = 0

    def watch(self, x: Tensor) -> None:
        """Notes what the rows are after a step."""
        self._all[self._places, self._begin + self._filled] = x[self._rows]
        self._filled += 1
        if self._filled == BLOCK:
            self._advance()

    def averages(self) -> list[Tensor]:
        """The averages of each watched row as they are now, shape (averages, weights)."""
        self._advance()
        return [held[: maps.count] for held, maps in zip(self._all, self._maps, strict=True)]

    def keep(self, watched: Sequence[int], rows: Sequence[int]) -> None:
        """Goes on with these of the watched rows alone, which lie elsewhere now."""
        kept = torch.tensor(watched, dtype=torch.long, device=self._all.device)
        self._all, self._begin = self._all[kept], self._begin[kept]
        self._maps = [self._maps[place] for place in watched]
        self._watch(rows)

    def _watch(self, rows: Sequence[int]) -> None:
        self._rows = torch.tensor(rows, dtype=torch.long, device=self._all.device)
        self._places = torch.arange(len(rows), device=self._all.device)

    def _advance(self) -> None:
        """Takes the averages through what has been noted, row by row: a row's digits depend on no other."""
        if self._filled:
            for held, maps in zip(self._all, self._maps, strict=True):
                linear, kept = maps.of(self._filled).to(held), 2 * maps.count
                held[:kept] = linear @ held[: kept + self._filled]
            self._filled = 0


class Maps:
    """What some averages without coupling become over so many steps, as matrices."""

    def __init__(self, oscillators: Sequence[Oscillator]) -> None:
        self.count = len(oscillators)
        k = torch.tensor([average.stiffness for average in oscillators], dtype=torch.float64)
        inertia = torch.tensor([1 - average.damping for average in oscillators], dtype=torch.float64)
        self._step = torch.stack([torch.stack([1 - k, inertia], dim=1), torch.stack([-k, inertia], dim=1)], dim=1)
        self._gain = torch.stack([k, k], dim=1)
        self._known: dict[int, Tensor] = {}

    def of(self, steps: int) -> Tensor:
        """From averages, velocities and the weights of so many steps to averages and velocities after these."""
        if steps not in self._known:
            self._known[steps] = self._map(steps)
        return self._known[steps]

    def _map(self, steps: int) -> Tensor:
        columns, power = [], torch.eye(2, dtype=torch.float64).expand(self.count, 2, 2)
        for _ in range(steps):  # from the last step's weights to the first's
            columns.append((power @ self._gain.unsqueeze(2)).squeeze(2))
            power = power @ self._step
        before = [torch.cat([torch.diag(power[:, i, j]) for j in (0, 1)], dim=1) for i in (0, 1)]
        weights = torch.stack(columns[::-1], dim=2)  # (averages, 2, steps)
        return torch.cat([torch.cat(before), torch.cat([weights[:, 0], weights[:, 1]])], dim=1)


@functools.lru_cache(maxsize=64)
def maps_of(oscillators: tuple[Oscillator, ...]) -> Maps:
    """The maps of these averages: the same ones of all rows, and of packs that follow."""
    return Maps(oscillators)


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
