"""What goes along to a cluster, and what must not."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from studies import small

from study.design.config import load_config, parse_config
from study.errors import BadInput
from study.remote import package
from study.remote.package import CONFIG, code_folder, pack

SECRETS = [
    *(".env", ".env.local", ".netrc", ".pgpass", ".git/config", ".ssh/id_rsa", ".aws/credentials"),
    *("tls.pem", "server.key", "TLS.PEM", "id_ed25519", "secrets/postgres", "secrets.yaml", "db-secrets.json"),
    *("credentials.json", "password.txt", "pgpass.conf", "ray-token", "token", "hub_token.txt", "store.p12"),
]
RECORDS = [".belay-study/mlflow.db", "ledger.db", "ledger.db-wal", "notes.sqlite3", "mlruns/0/meta.yaml"]
CACHES = ["__pycache__/own.pyc", "own.pyc", "node_modules/left-pad/index.js"]
CODE = [
    *("own.py", "parts/__init__.py", "parts/tokenizer.py", "vocabulary.json", "study.yaml", "keyboard.py"),
    "monkey.txt",
]


def put(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def packed(folder: Path | None, target: Path) -> list[str]:
    """The names in a package of the folder."""
    pack(target, parse_config(small()), folder)
    with zipfile.ZipFile(target) as file:
        return sorted(file.namelist())


def test_code_and_config_go_along_and_secrets_records_and_caches_stay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(home, *SECRETS, *RECORDS, *CACHES, *CODE)
    put(home / "environment", "pyvenv.cfg", "lib/python3.11/site-packages/torch.py")
    assert packed(home, tmp_path / "study.zip") == sorted([CONFIG, *CODE])


def test_a_built_in_task_takes_its_config_alone_which_is_read_there_as_it_was(tmp_path: Path) -> None:
    config = parse_config(
        small(space={"decay": {"log_gap": [0.8, 1 - 1e-9]}, "lr": 1e-05}, storage={"url": "postgresql://${HOST}/db"})
    )
    assert pack(tmp_path / "study.zip", config, None) == ""
    with zipfile.ZipFile(tmp_path / "study.zip") as file:
        assert file.namelist() == [CONFIG]
        file.extractall(tmp_path)
    assert load_config(tmp_path / CONFIG) == config


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    put(outside, "key")
    put(home, "own.py", "data.txt")
    (home / "stolen.txt").symlink_to(outside / "key")
    (home / "all").symlink_to(outside)
    (home / "loop").symlink_to(home)
    (home / "again.txt").symlink_to(home / "data.txt")
    (home / "nowhere").symlink_to(home / "gone")
    assert packed(home, tmp_path / "study.zip") == [CONFIG, "again.txt", "data.txt", "own.py"]


def test_names_that_a_terminal_could_take_for_orders_stay_and_are_shown_harmlessly(tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(home, "own.py", "a\nb.py", "c\x1b[2J.py", os.fsdecode(b"d\xff.py"))
    said = pack(tmp_path / "study.zip", parse_config(small()), home)
    assert r"; a\nb.py, c\x1b[2J.py, d\udcff.py stay here" in said
    subprocess.run(["git", "init", "--quiet"], cwd=home, check=True)
    assert packed(home, tmp_path / "study.zip") == [CONFIG, "own.py"]


def test_what_git_ignores_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(home, "own.py", "data/images.bin", "new.py")
    put(home, ".gitignore", text="data/\n")
    subprocess.run(["git", "init", "--quiet"], cwd=home, check=True)
    assert packed(home, tmp_path / "study.zip") == [CONFIG, "new.py", "own.py"]


def test_the_same_files_make_the_same_package(tmp_path: Path) -> None:
    for home in (tmp_path / "one", tmp_path / "two"):
        put(home, "own.py", "parts/b.py", "parts/a.py")
        packed(home, home.with_suffix(".zip"))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_what_is_left_at_home_is_said(tmp_path: Path) -> None:
    put(tmp_path / "home", "own.py", ".env", "tls.pem")
    said = pack(tmp_path / "study.zip", parse_config(small()), tmp_path / "home")
    assert said == f"takes 1 files (1e-06 MB) of {tmp_path / 'home'} along; .env, tls.pem stay here"


def test_too_large_a_folder_is_refused_with_the_files_that_make_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "home", "own.py", "small.bin")
    put(tmp_path / "home", "large.bin", text="x" * 2_000_000)
    monkeypatch.setattr(package, "LARGEST", 1_000_000)
    with pytest.raises(BadInput, match=r"at most 1 MB, got 2 MB in .*, most of it large.bin \(2 MB\)"):
        packed(tmp_path / "home", tmp_path / "study.zip")
    monkeypatch.setattr(package, "MOST", 2)
    with pytest.raises(BadInput, match="at most 2 files"):
        packed(tmp_path / "home", tmp_path / "study.zip")


def test_the_folder_of_an_own_task_is_the_first_that_has_its_module(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    put(one, "own.py")
    put(two, "own.py", "parts/tasks.py")
    assert code_folder("own:Mine", [one, two]) == one
    assert code_folder("parts.tasks:Mine", [one, two]) == two
    assert code_folder("installed.tasks:Mine", [one, two]) is None
    assert code_folder("digits", [one, two]) is None
