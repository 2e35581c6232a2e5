"""``python -m study`` is ``belay-study``."""

from study.cli import main

main()
