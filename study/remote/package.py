"""What a study takes along to a cluster: its config and its own task's code, and nothing that looks like a secret."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import BadInput, printable

if TYPE_CHECKING:
    from study.design.config import StudyConfig

CONFIG = ".belay-study.json"  # in the package; none of the user's files begin with a dot there
LARGEST = 50_000_000  # bytes of a package's files
MOST = 5_000  # files
MB = 1_000_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file in it, so that the same files make the same package
LEFT_OUT = [  # names of files and folders that stay at home, whatever their case; and see `_kept`
    ".*",  # .env, .git, .ssh, .aws, .netrc, .pgpass, .venv, .belay-study
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_ecdsa*", "id_ed25519*",
    "secret", "secrets", "secret.*", "secrets.*", "*-secrets*", "*_secrets*", "credentials*", "*password*", "pgpass*",
    "token", "*-token", "*_token", "*.token", "*token.txt",
    "*.db", "*.db-*", "*.sqlite", "*.sqlite3", "mlruns", "mlartifacts",
    "__pycache__", "*.pyc", "node_modules", "*.egg-info",
]  # fmt: skip


def code_folder(task: str, places: Sequence[Path]) -> Path | None:
    """The first of the places that holds the module of a task's import path.

    None for a built-in task and for a module in none of them, which must be installed on the cluster.
    """
    if ":" not in task:
        return None
    name = task.partition(":")[0].partition(".")[0]
    return next((place for place in places if (place / f"{name}.py").is_file() or (place / name).is_dir()), None)


def pack(target: Path, config: StudyConfig, folder: Path | None) -> str:
    """Writes the package as a zip file.

    Args:
        target: The file.
        config: Goes along as `CONFIG`.
        folder: Of the own code; None if there is none to take along.

    Returns:
        What was taken along and left out, in a few words; "" if there was no folder.

    Raises:
        BadInput: It is too much.
    """
    left: list[str] = []
    taken = _chosen(folder, left) if folder else []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(zipfile.ZipInfo(CONFIG, EPOCH), config.model_dump_json())
        for file in taken:
            entry = zipfile.ZipInfo(file.relative_to(folder or file).as_posix(), EPOCH)
            entry.external_attr = 0o644 << 16
            package.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    if folder is None:
        return ""
    size = sum(file.stat().st_size for file in taken)
    names = [printable(name) for name in sorted(left)[:8]]
    home = f"; {', '.join(names)}{', ...' if len(left) > 8 else ''} stay here" if left else ""
    return f"takes {len(taken)} files ({size / MB:.2g} MB) of {folder} along{home}"


def _chosen(folder: Path, left: list[str]) -> list[Path]:
    """The files that are taken along; names of what is not are added to `left`.

    Raises:
        BadInput: There are too many, or they are too large.
    """
    tracked = _not_ignored(folder)
    taken: list[Path] = []
    for file in _walk(folder, left):
        if tracked is None or file in tracked:
            taken.append(file)
        if len(taken) > MOST:
            raise BadInput(
                f"a task's own folder must hold at most {MOST} files, got more in {folder}; keep the config and its "
                "code in a folder of their own."
            )
    sizes = sorted(((file.stat().st_size, file) for file in taken), reverse=True)
    if (total := sum(size for size, _ in sizes)) > LARGEST:
        most = ", ".join(f"{file.relative_to(folder)} ({size / MB:.3g} MB)" for size, file in sizes[:3])
        raise BadInput(
            f"a task's own folder must hold at most {LARGEST / MB:.3g} MB, got {total / MB:.3g} MB in {folder}, most "
            f"of it {most}; move data to where the cluster reads it, or name it in .gitignore."
        )
    return sorted(taken)


def _walk(folder: Path, left: list[str]) -> Iterator[Path]:
    """Files of a folder that may be taken along; names of what may not are added to `left`, caches aside."""
    for here, folders, files in os.walk(folder):
        place = Path(here)
        kept = [name for name in folders if _kept(place / name, folder)]
        left += [f"{(place / name).relative_to(folder)}/" for name in folders if name not in kept]
        folders[:] = sorted(kept)
        for name in files:
            if _kept(place / name, folder):
                yield place / name
            elif not name.endswith(".pyc"):
                left.append(str((place / name).relative_to(folder)))


def _kept(path: Path, folder: Path) -> bool:
    """Whether it may be taken along: no secret or record by its name, no environment, no way out, and readable."""
    if any(fnmatch(path.name.lower(), pattern) for pattern in LEFT_OUT) or (path / "pyvenv.cfg").exists():
        return False
    if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(folder.resolve())):
        return False
    return path.name.isprintable() and os.access(path, os.R_OK) and (path.is_dir() or path.is_file())


def _not_ignored(folder: Path) -> set[Path] | None:
    """The files that git knows of or would add; None where it has no say."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {folder / os.fsdecode(name) for name in listed.split(b"\0") if name}
