"""YAML text as plain data: a study's config file, what overrides change in it, and YAML that is printed."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from study.design.faults import shown
from study.errors import BadInput

LARGEST = 100_000  # values in a document, with its aliases expanded
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")  # 007 and 1_000 are texts
WORDS = {"": None, "null": None, "true": True, "false": False}
REFUSED = (yaml.YAMLError, ValueError, RecursionError)  # in turn: no YAML, an impossible date, nested too deeply


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which builds plain data only; it also reads 1e-3 as a number, as YAML 1.2 and JSON do."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes the texts that the loader would take for something else."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def dump_document(data: Any) -> str:
    """Plain data as YAML text, in its own order, from which the same data is read."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        BadInput: No such file, no YAML, a key given twice, or no mapping.
    """
    try:
        document = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"the config must be a readable file, got {path}: {error.strerror}; `belay-study init` writes one."
        ) from error
    except REFUSED as error:
        raise BadInput(f"the config must be YAML, got {path}: {_reason(error)}; mend it.") from error
    if not isinstance(document, dict):
        held = "nothing" if document is None else shown(document)
        raise BadInput(f"the config must be a YAML mapping, got {path} holding {held}; `belay-study init` writes one.")
    return document


def apply_override(document: dict[str, Any], override: str) -> None:
    """Sets one value of a document.

    Args:
        document: Changed in place; mappings on the way to the key are made where there are none.
        override: ``dotted.key=value``, with a YAML value.

    Raises:
        BadInput: It is not of this form, or leads through something that is no mapping.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise BadInput(
            f"`override` must be KEY=VALUE with a dotted key, as in seeds=16 or search.sampler=tpe, got "
            f"{shown(override)}; change it."
        )
    try:
        value = _parse(text)
    except REFUSED as error:
        raise BadInput(
            f"`override` must give a YAML value, got {shown(override)}: {_reason(error)}; mend it."
        ) from error
    *parents, last = key.split(".")
    place: Any = document
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise BadInput(
            f"`override` must name a key inside a mapping, got {shown(override)}; set `{'.'.join(parents)}` as a whole."
        )
    place[last] = value


def plain(value: Any) -> Any:
    """A value as JSON and YAML both can hold it: Python's own type, inf as a word, nan as null."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def as_text(value: Any) -> str:
    """Plain data as a text from which `from_text` has it again: texts as they are where these can be, else JSON."""
    if isinstance(value, str):
        return value if from_text(value) == value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def from_text(text: str) -> Any:
    """What a text stands for: null, a boolean, a number, a list, mapping or quoted text in JSON, or the text itself."""
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text) if set(".eE") & set(text) else int(text)
    if text[0] in '"[{':
        with suppress(ValueError, RecursionError):  # a text that only begins like JSON, or holds numbers beyond floats
            value = json.loads(text)
            json.dumps(value, allow_nan=False)
            return value
    return text


def _parse(text: str) -> Any:
    _check(yaml.compose(text, Loader=_Loader), itertools.count(1))
    return yaml.load(text, Loader=_Loader)


def _check(node: yaml.Node | None, count: Iterator[int]) -> None:
    """Refuses keys given twice, of which PyYAML silently keeps the last, and aliases that expand without bound.

    Raises:
        ValueError: There is such a key, or there are more than `LARGEST` values.
        RecursionError: An alias contains itself.
    """
    if next(count) > LARGEST:
        raise ValueError(f"it holds more than {LARGEST} values")
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _check(entry, count)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise ValueError(f"`{key.value}` is given twice, the second time in line {key.start_mark.line + 1}")
            keys.add(str(key.value))
            _check(value, count)


def _reason(error: Exception) -> str:
    """Why, on one line: of a YAML error the problem and the line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{getattr(error, 'problem', None) or 'it ends too early'} in line {mark.line + 1}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
