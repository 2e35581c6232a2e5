"""Studies drawn from surfaces whose best setting is known, and how often it is among the likely ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.findings.chances import chances
from study.findings.choose import CONFIDENCE

NONE = pd.DataFrame()
FRESH = 24  # seeds of each finalist
Truth = Callable[[np.random.Generator, int], NDArray[np.float64]]


def normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.normal(size=count)


def smooth(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Settings around the middle of a space, of which the quality falls with the square of the distance."""
    return -8 * np.square(rng.uniform(-0.5, 0.5, (count, 3))).sum(axis=1)


def crowded(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Half of them nearly as good as the best, some far worse: the best is hard to tell, and hardly better."""
    return -rng.exponential(size=count) * rng.choice([0.3, 10.0], count)


SURFACES = {  # the true means, and how many candidates, seeds and finalists
    "normal": (normal, 20, 4, 0),
    "smooth": (smooth, 100, 8, 0),
    "normal, with finalists": (normal, 40, 6, 4),
    "crowded": (crowded, 60, 6, 0),
    "crowded, with finalists": (crowded, 60, 6, 8),
}


def measured(truth: NDArray[np.float64], seeds: int, rng: np.random.Generator, noise: float = 1.0) -> pd.DataFrame:
    """Values by candidate and seed; what a seed adds to all is ten times the noise."""
    return pd.DataFrame(truth[:, None] + 10 * rng.normal(size=seeds) + noise * rng.normal(size=(len(truth), seeds)))


def likely(chance: pd.Series) -> list[int]:
    """The fewest candidates of which one is the best with 95 %."""
    return list(chance.index[: int((chance.cumsum() < CONFIDENCE - 1e-9).sum()) + 1])


def held(surface: str, studies: int) -> int:
    """In how many studies of a surface the truly best setting is one of the likely ones."""
    truth, count, seeds, finalists = SURFACES[surface]
    rng, hits = np.random.default_rng(7), 0
    for _ in range(studies):
        true = truth(rng, count)
        values = measured(true, seeds, rng)
        best = values.mean(axis=1).nlargest(finalists).index
        fresh = measured(true[best], FRESH, rng).set_axis(best) if finalists else NONE
        hits += int(true.argmax()) in likely(chances(values, fresh, "max"))
    return hits
