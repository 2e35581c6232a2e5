"""The quickstart's question with many seeds a setting, of which benchmarks draw studies whose truth is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from study.design.config import load_config
from study.design.schema import Setting
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.ledger import Ledger
from study.execute.tables import opened
from study.execute.train import train_pack

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETTINGS = int(os.environ.get("BELAY_SETTINGS", "8"))
SEEDS = int(os.environ.get("BELAY_SEEDS", "15"))  # of which a race takes 14; the others tell the truth
DRAWS = 1000 if SETTINGS > 8 else 50  # studies

Measured = dict[int, tuple[Setting, dict[int, float]]]  # by number: a setting, and what each seed came to


def measured(url: str) -> Measured:
    """Sobol points of the quickstart's space, with all seeds, of those that did not diverge."""
    changes = [f"search={{sampler: qmc, settings: {SETTINGS}, baseline: 0, riders: none}}", f"seeds={SEEDS}"]
    return trained(url, [*changes, "confirm=null"])


def trained(url: str, changes: Sequence[str]) -> Measured:
    """The quickstart with these changes: settings that did not diverge, with all seeds of search and confirmation."""
    study = Study.of(load_config(QUICKSTART, [*changes, "evaluations=1"]))
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        asker = Asker(study, ledger, room=64)
        while (pack := asker.next()) is not None:
            asker.tell(list(train_pack(study, pack)))
        return {
            setting.number: (setting, {each.seed: each.last("average/val_accuracy") for each in outcome.seeds})
            for setting, outcome in asker.outcomes()
            if outcome.state == "complete"
        }
