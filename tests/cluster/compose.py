"""Reads docker-compose.yml as Compose does, as far as the file goes: anchors, merged maps, variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


class MissingVariable(Exception):
    """A variable that the file requires is not set."""


def document(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables filled in."""
    found = _filled(yaml.safe_load(FILE.read_text(encoding="utf-8")), variables)
    assert isinstance(found, dict)
    return found


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, variables) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, variables) for entry in value]
    return VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, text = found.groups()
    if variables.get(name):
        return variables[name]
    if operator == ":?":
        raise MissingVariable(f"required variable {name} is missing a value: {text}")
    return text or ""


def mounts(compose: Mapping[str, Any], service: str) -> list[tuple[str, str, bool]]:
    """What Compose mounts for a service: a volume's name or a path, where it appears, whether it is read-only."""
    entry, found = compose["services"][service], []
    for volume in entry.get("volumes", ()):
        source, target, *options = volume.split(":")
        found.append((str(ROOT / source) if source.startswith(".") else source, target, options == ["ro"]))
    for secret in entry.get("secrets", ()):
        found.append((compose["secrets"][secret]["file"], f"/run/secrets/{secret}", True))
    return found


def in_order(compose: Mapping[str, Any], wanted: str) -> list[str]:
    """A service after all that it depends on, each after those that it depends on itself."""
    order: list[str] = []
    for before in compose["services"][wanted].get("depends_on", {}):
        order += [name for name in in_order(compose, before) if name not in order]
    return [*order, wanted]
