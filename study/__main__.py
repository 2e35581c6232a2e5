"""``python -m study`` is ``belay-study``."""

from study.modules import packages_first

packages_first()

from study.cli import main  # noqa: E402 # a typer.py of the user's must not be imported in place of typer

main()
