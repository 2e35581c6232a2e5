"""The files that ``belay-study init`` writes: a config and, where asked, a task of one's own."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from study.errors import BadInput

CONFIG = Template("""\
# A study: one question asked of one task. Check it with `belay-study run FILE --dry-run`.
name: $name
$task
steps: $steps                               # optimizer steps of each run
seeds: 4                                 # of each setting, the same for all: settings are compared seed by seed
objective: {metric: $metric}
space:                                   # one value, {choice: [...]}, {uniform: ...}, {log: ...}, {integers: [a, b]}
  memory: {log: [0.02, 0.5]}             # of the run; or decay, damping, coupling in place of these three
  damping_ratio: {log: [0.5, 30]}        # 1 is critical, inf EMA
  mass_ratio: {uniform: [-0.9, 6]}       # below 0 the average pushes the model, above 0 it pulls; 0 leaves it alone
  $rates
$search
confirm: {finalists: 4, seeds: 16}       # the best once more, on fresh seeds, which decide
""")
DIGITS = {
    "name": "my-study",
    "task": "task: {name: digits, label_noise: 0.2}   # `belay-study tasks`, or one of your own: `init --task NAME.py`",
    "steps": "600",
    "metric": "average/val_accuracy",
    "rates": "lr: {log: [0.05, 4.0]}                 # any hyperparameter of the task",
    "search": "search: {sampler: tpe, settings: 64}     # grid, random, qmc, tpe or gp; a quarter as many EMAs too",
}
TEMPLATE = Path(__file__).with_name("tasks") / "template.py"


def config_of(module: str | None = None) -> str:
    """The config of a study of the digits or, where a module is named, of a task written into it."""
    if module is None:
        return CONFIG.substitute(DIGITS)
    return CONFIG.substitute(
        name=module,
        task=f'task: {{name: "{module}:MyTask"}}'.ljust(40) + f" # in {module}.py; further keys fix hyperparameters",
        steps="400",
        metric="average/val_loss",
        rates="lr: {log: [0.002, 0.2]}                # any hyperparameter of the task",
        search="search:\n"
        "  sampler: tpe                           # or grid, random, qmc, gp\n"
        "  settings: 48\n"
        "  baseline: 16                           # plain EMAs that are tried too",
    )


def write_starter(path: Path, task: Path | None = None) -> None:
    """Writes a config into a new file and, where asked, the task that it names into another; both or neither.

    Args:
        path: The config.
        task: The task: a module of the working directory, where a study looks for it.

    Raises:
        BadInput: A file exists or cannot be written, or no study would find the module.
    """
    if task is None:
        return _write_new({path: config_of()})
    _check_module(task)
    if path.resolve() == task.resolve():
        raise BadInput(f"the study must be another file than its task, got {path} twice; name another.")
    return _write_new({task: TEMPLATE.read_text(encoding="utf-8"), path: config_of(task.stem)})


def _check_module(task: Path) -> None:
    """Raises BadInput unless a new file of this name is what Python will import from the working directory."""
    name = task.stem
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}\.py", str(task)) or keyword.iskeyword(name):
        raise BadInput(
            "`module` must be NAME.py in the working directory, of letters, digits and `_`, a letter first, and no "
            f"keyword of Python, got {task}; write e.g. my_task.py."
        )
    if task.exists():
        raise _taken(task)
    if name in sys.modules or Path(name).is_dir() or importlib.util.find_spec(name):
        raise BadInput(
            f"`module` must not have the name of a module or folder that Python may find instead, got {task}; name "
            f"another, e.g. my_{name}.py."
        )


def _write_new(texts: Mapping[Path, str]) -> None:
    """Writes all of these files, or none."""
    made = []
    for path, text in texts.items():
        try:
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
        except OSError as error:
            for one in made:
                one.unlink()
            if isinstance(error, FileExistsError):
                raise _taken(path) from error
            raise BadInput(f"the file must be writable, got {path}: {error.strerror}; name another.") from error


def _taken(path: Path) -> BadInput:
    return BadInput(f"the file must be new, got {path}, which exists; name another.")
