"""Records on a disk that cannot be written, as a backup that is mounted: what reads them works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from studies import CommandLine, environment_with, write

MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && shift && exec "$@"'
READING = ("list", "status small", "best small", "regimes small", "logs small 0")
CALLS = f"""
import json, sys
from contextlib import redirect_stdout, redirect_stderr
from io import StringIO
from study.cli import main
answers = {{}}
for command in {(*READING, "resume small --inline")}:
    sys.argv = ["belay-study", *command.split()]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            answers[command] = [end.code, said.getvalue()]
json.dump(answers, sys.stdout)
"""


def on_read_only_disk(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder that no process of its can write, whoever it belongs to."""
    line = ["unshare", "--mount", "sh", "-c", MOUNTED, "sh", str(folder), *command]
    return subprocess.run(line, env=environment_with(), capture_output=True, text=True, timeout=600, check=False)


def test_what_reads_records_works_where_they_cannot_be_written_and_what_writes_them_says_so_in_a_line(
    belay_study: CommandLine, databases: Path
) -> None:
    home = databases.parent
    if shutil.which("unshare") is None or on_read_only_disk(home, "true").returncode:
        pytest.skip("mounting a folder must be permitted")
    few = {"sampler": "random", "settings": 1, "baseline": 1}
    assert belay_study("run", write(home / "small.yaml", search=few, steps=4, evaluations=1), "--inline").code == 0
    assert on_read_only_disk(home, "touch", "new").returncode == 1
    ended = on_read_only_disk(home, sys.executable, "-c", CALLS)
    answers = json.loads(ended.stdout)
    assert {command: answers[command][0] for command in READING} == dict.fromkeys(READING, 0), answers
    code, said = answers["resume small --inline"]
    assert (code, said.splitlines()[-1]) == (
        2,
        f"belay-study: `storage.url` must lie in a writable folder, got sqlite:///{databases}/ledger.db: not writable; "
        "choose another.",
    )
