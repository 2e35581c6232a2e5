"""The study of the third command of the cluster's README, made smaller, on the services and without them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from documents import CLUSTER, blocks
from stack import PATIENCE, Ended

# Few settings whose packs take seconds, so that a worker can be killed while it trains one.
SMALLER = ["search.settings=9", "search.baseline=3", "search.race=false", "seeds=2", "steps=1500"]
SMALLER += ["confirm.finalists=4", "confirm.seeds=16"]
SETTINGS = 12
WRONG = "0" * 64  # a token, or a password

# What is on record of the study, but for what says when and where.
READ = """
import json
from study.design.places import storage_url, tracking_uri
from study.execute.ledger import Ledger
from study.execute.tables import opened
from study.findings.collect import load
storage, table = storage_url(None), load("quickstart", tracking_uri(None)).table
with opened(storage, making=False) as engine:
    ledger = Ledger(engine, "quickstart", storage)
    asked = ledger.asked()
    results = {
        each.setting.number: [
            [seed.seed, seed.state, seed.history, seed.riders] for seed in ledger.outcome(each.setting.number).seeds
        ]
        for each in asked
    }
print(json.dumps({
    "table": table.astype(str).to_dict("list"),
    "ledger": [[each.search, each.drawn, results[each.setting.number]] for each in asked],
}))
"""


def readme(language: str) -> list[str]:
    """The lines of the one code block of a language in the cluster's README."""
    (block,) = blocks(language, CLUSTER)
    return block.splitlines()


@dataclass
class Inline:
    """The study as it comes out without a cluster, in a process of its own."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def call(self, *command: str) -> Ended:
        """Runs Python where its records are."""
        line = [sys.executable, *command]
        return subprocess.run(
            line, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )


@dataclass
class Studied:
    """What the client printed, and how many settings were done when a worker was killed."""

    client: Ended
    done_before: int


def findings(answer: str) -> list[str]:
    """The lines of a printed answer, but for the advice at its end."""
    return [line for line in answer.splitlines() if line.strip() and not line.startswith("next")]
