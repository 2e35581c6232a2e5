"""``python -m study.remote.job ORDER``: what a job runs on the cluster, one command of ``belay-study``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from study import cli, options
from study.design.places import storage_url
from study.errors import BadInput, StudyError
from study.modules import packages_first
from study.remote.frame import BEGIN, Answer
from study.remote.order import STORED, STORED_CONFIG, Order, python_version


def main() -> None:
    """Carries out the order in the first argument, writes its answer to the log and ends with its exit code."""
    os.environ.pop("BELAY_ADDRESS", None)  # a job is there already
    packages_first()
    sys.stderr.write(f"{BEGIN}\n")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as out:
        os.dup2(out.fileno(), sys.stdout.fileno())  # for other libraries' and processes' output too
        code = carry_out(Order(**json.loads(sys.argv[1])))
        sys.stdout.flush()
        out.seek(0)
        Answer(code, out.read()).write(sys.stderr)
    sys.exit(code)


def carry_out(order: Order) -> int:
    """Runs the command in this process; its exit code."""
    before = options.asked_from.set(order.address)
    try:
        _check(order)
        if order.arguments[0] in OWN:
            OWN[order.arguments[0]](*order.arguments[1:])
            return 0
        sys.argv = ["belay-study", *order.arguments]
        cli.main()
    except StudyError as error:
        sys.stderr.write(f"belay-study: {error}\n")
        return error.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception:  # a fault of ours: the answer has to tell of it, too
        traceback.print_exc()
        return 1
    finally:
        options.asked_from.reset(before)


def _check(order: Order) -> None:
    """Raises BadInput if this is no place for the order."""
    if order.python != python_version():
        raise BadInput(
            f"the cluster must have the client's Python {order.python}, got {python_version()}; use the same version "
            "on both."
        )
    if missing := [name for name in order.needs if not os.environ.get(name)]:
        raise BadInput(
            f"the cluster must say where studies are kept, got no {' and no '.join(missing)} in its environment; set "
            "it where Ray is started, or name a server in the config."
        )


def _tell_config(name: str, storage: str | None = None) -> None:
    from study.execute.ledger import stored_config

    with options.connecting(storage):
        sys.stdout.write(stored_config(name, storage_url(storage)).model_dump_json())


def _tell_stored(name: str, storage: str, tracking: str) -> None:
    from study.execute.delete import stored

    with options.connecting(storage, tracking) as chosen:
        sys.stdout.write(stored(name, chosen.connections).text)


OWN: dict[str, Callable[..., None]] = {STORED_CONFIG: _tell_config, STORED: _tell_stored}  # orders that are no commands


if __name__ == "__main__":
    main()
