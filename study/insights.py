"""What is known of the truly best setting, the stability limit, which parameters matter, in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from study.answer import taken_as_normal
from study.design.schema import CRITICAL, FIGURES
from study.errors import counted
from study.findings.explained import Explained, Share
from study.findings.importance import FEWEST_OF_A_TENTH, Importances
from study.findings.regimes import IMPOSSIBLE, Range, Region
from study.findings.stability import Side, Stability
from study.show import number


def region_text(region: Region | None, explained: Explained) -> str:
    """The region of the truly best setting, and how much of the objective its coordinates explain."""
    if region is None:
        lines = [
            ("region", "nothing is known with one seed of which setting is truly the best; give `seeds` at least 2")
        ]
    else:
        lines = [
            ("region", _candidates(region)),
            *((name, _range(name, ends)) for name, ends in region.ranges.items()),
            ("regime", f"{shares_text(region.regimes)} (critical: damping ratio within {100 * CRITICAL:.0f} % of 1)"),
            ("family", shares_text(region.families)),
        ]
    return aligned([*lines, ("explained", _explained(explained))])


def stability_text(found: Stability | None, unknown: str) -> str:
    """The stability limit of training, and what was measured on both sides of it; or why it is unknown."""
    if found is None:
        return aligned([("limit", f"of stable learning rates not known: {unknown}")])
    spread = f"{number(found.low)} to {number(found.high)} over {found.seeds} seeds"
    lines = [
        ("limit", "plain SGD is unstable, by theory, where lr x curvature passes max_stable_step; riders are left out"),
        ("curvature", f"{number(found.curvature)} at the initial weights ({spread}), the largest of the loss"),
        ("recommended", f"{number(found.chosen)} times the limit"),
        ("within it", _side(found.within)),
        ("beyond it", _side(found.beyond)),
    ]
    return aligned(lines)


def importance_text(found: Importances) -> str:
    """What importances are of, and how far to trust them."""
    what = f"{of_what(found.logarithm)} over {found.settings} settings, riders left out; {found.system} coordinates"
    if found.predicted is None:
        return aligned([("of", what), ("unknown", found.unknown)])
    trust = f"{interval(found.predicted)} of it in settings held out"
    if found.predicted.low <= 0:
        trust += ", which cannot be told from nothing: these may be importances of noise"
    lines = [("of", what), ("predicted", trust)]
    if found.settings < FEWEST_OF_A_TENTH:
        lines.append(("left out", f"PED-ANOVA, whose best tenth is too few settings: it needs {FEWEST_OF_A_TENTH}"))
    return aligned(lines)


def importance_tables(found: Importances) -> list[pd.DataFrame]:
    """A table of parameters and one of pairs; none where nothing can be told."""
    return [pd.DataFrame(rows) for rows in (found.single, found.pairs) if rows]


def aligned(lines: Sequence[tuple[str, str]]) -> str:
    """Lines of a head and a text, the texts below each other."""
    width = 2 + max(len(head) for head, _ in lines)
    return "\n".join(f"{head:<{width}}{text}" for head, text in lines)


def interval(share: Share) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * share.share:.0f} % (95 % {100 * share.low:.0f} to {100 * share.high:.0f} %)"


def shares_text(probabilities: Mapping[Any, float]) -> str:
    """Kinds and their probabilities, the most probable first."""
    ordered = sorted(probabilities.items(), key=lambda one: -one[1])
    return ", ".join(f"{kind} {_percent(probability)}" for kind, probability in ordered)


def of_what(logarithm: bool) -> str:
    """What has the variance that is explained."""
    return f"the {'logarithm of the ' if logarithm else ''}objective's variance"


def _side(side: Side) -> str:
    ended = f"{counted(side.settings, 'setting')}, {side.diverged} of them diverged"
    if math.isnan(side.best):
        return ended
    return f"{ended}; objective {number(side.best)} at best, {number(side.median)} in the median"


def _candidates(region: Region) -> str:
    judged = f"judged by {region.seeds} seeds"
    if region.fresh:
        judged = f"finalists judged by {region.fresh} fresh seeds, others by {region.seeds}"
    judged += taken_as_normal(region.fresh or region.seeds)
    few = f"one of {region.likely} ({judged}), which span:" if region.likely > 1 else f"a single one ({judged}):"
    return f"with 95 % the truly best of {counted(region.candidates, 'candidate')} is {few}"


def _percent(probability: float) -> str:
    """A probability in per cent, which is 0 or 100 only where it is nearly so."""
    if IMPOSSIBLE <= probability < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 < probability <= 1 - IMPOSSIBLE else f"{100 * probability:.0f} %"


def _range(name: str, ends: Range) -> str:
    if math.isnan(ends.median):
        return "none: they alternate" if name in FIGURES else "null"
    if number(ends.low) == number(ends.high):
        return number(ends.low)
    return f"{number(ends.low)} to {number(ends.high)}, median {number(ends.median)}"


def _explained(found: Explained) -> str:
    if found.natural is None or found.raw is None:
        return found.unknown
    shares = f"{interval(found.natural)} by natural coordinates, {interval(found.raw)} by raw ones"
    return (
        f"of {of_what(found.logarithm)} over {found.settings} settings and riders, held out: {shares}, each with the "
        "other hyperparameters"
    )
