"""A failed validation as one line: the rule, the value and what to do."""

from __future__ import annotations

import difflib
import re
import reprlib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from study.design.places import without_passwords

Location = tuple[int | str, ...]

CONNECTIONS = {"tracking", "storage"}  # entries of a config that say where the records are; may hold passwords
SECRET = re.compile(r".*(?:password|passwd|pwd|secret|token)", re.IGNORECASE | re.DOTALL)  # names of such values

STEPPED = "whole numbers with a step"  # what pydantic's locations call them, for whom a user has no word
DIMENSION = (
    "must be one value or one of {{uniform: [a, b]}}, {{log: [a, b]}}, {{log_gap: [a, b]}}, {{integers: [a, b]}}, "
    "{{integers: [a, b], step: n}}, {{log_integers: [a, b]}}, {{choice: [...]}}, which may have `when: {{NAME: VALUE}}`"
)
RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be finite",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "too_long": "must have at most {max_length} entries",
    "model_type": "must be a mapping",
    "invalid_key": "must have text as its name",
    "union_tag_invalid": DIMENSION,
    "union_tag_not_found": DIMENSION,
}

BREAKS = str.maketrans("", "", "\n\t")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxtuple = _short.maxdict = 8
_short.maxlevel = 3


def shown(value: Any) -> str:
    """A value as text for a message: on one line, cut if long, with stars in place of passwords."""
    return " ".join(_short.repr(_without_passwords(value, _short.maxlevel)).split())


def _without_passwords(value: Any, levels: int) -> Any:
    """The value with stars in place of passwords, in URLs or named so, down to the level that messages show."""
    if isinstance(value, str):
        return without_passwords(value)
    if levels and isinstance(value, list | tuple):
        return type(value)([_without_passwords(entry, levels - 1) for entry in value])
    if levels and isinstance(value, dict):
        return {
            _without_passwords(key, 0): "***" if SECRET.fullmatch(str(key)) else _without_passwords(entry, levels - 1)
            for key, entry in value.items()
        }
    return value


def check_storable(value: Any) -> None:
    """Refuses text that PostgreSQL cannot keep, or that would act on a terminal, anywhere in plain data.

    Raises:
        ValueError: There is such a text; line breaks and tabs are none.
    """
    if isinstance(value, str) and not value.translate(BREAKS).isprintable():
        raise ValueError(f"must be text without control characters, got {shown(value)}; change it.")
    if isinstance(value, list | tuple):
        for entry in value:
            check_storable(entry)
    if isinstance(value, dict):
        for entry in [*value.keys(), *value.values()]:
            check_storable(entry)


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """One fault of a validation as one line: the rule, the value and what to do.

    It is the first unknown key, if there is one, as a misspelt key is missing too; else the first fault.

    Args:
        error: The failed validation.
        model: What was validated against.
        where: What precedes the model's own keys, as in ``task.``.
    """
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    more = f" ({len(faults) - 1} more to mend.)" if len(faults) > 1 else ""
    location = _plain(faults[0]["loc"])
    named = [str(part) if not _private(location) or str(part).isidentifier() else "***" for part in location]
    key = without_passwords((where + ".".join(named)).rstrip("."))
    return f"`{key}`{_sentence(faults[0], location, model)}{more}"


def _sentence(fault: ErrorDetails, location: Location, model: type[BaseModel]) -> str:
    """What follows the key: the rule, the value and what to do."""
    kind, given = fault["type"], "***" if _private(location) else shown(fault["input"])
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in fault.get("ctx", {}).items()
    }
    if kind == "value_error":
        text = str(context["error"])
        return f" {text}" if text.startswith("must") else f": {text.rstrip('.')}; change it."
    if kind == "extra_forbidden":
        return f" is not a key here{_closest(location, model)}, got {given}; remove or rename it."
    field = _field(location, model)
    help_text = f" ({field.description})" if field and field.description and kind != "literal_error" else ""
    if kind == "missing":
        return f" must be given, got nothing; add it{help_text}."
    rule = f" {RULES[kind].format(**context)}" if kind in RULES else f": {fault['msg'][0].lower()}{fault['msg'][1:]}"
    return f"{rule}, got {given}; change it{help_text}."


def _private(location: Location) -> bool:
    """Whether what stands at a location may be a password."""
    return bool(location) and (location[0] in CONNECTIONS or bool(SECRET.fullmatch(str(location[-1]))))


def _plain(location: Location) -> Location:
    """A location as the user wrote it, without what pydantic adds: "[key]" and a dimension's kind."""
    if location[:1] == ("space",) and location[3:4] == ("when",):
        location = location[:2] + location[3:]
    pairs = zip(location, (None, *location), strict=False)
    return tuple(
        part for part, before in pairs if part not in ("[key]", STEPPED) and (isinstance(part, int) or part != before)
    )


def _field(location: Location, model: type[BaseModel]) -> FieldInfo | None:
    """The field at a location; None if there is none, as inside a mapping or a list."""
    field: FieldInfo | None = None
    fields: type[BaseModel] | None = model
    for part in location:
        field = fields.model_fields.get(str(part)) if fields else None
        fields = _model(field) if field else None
    return field


def _closest(location: Location, model: type[BaseModel]) -> str:
    """A hint at the key that was probably meant."""
    parent = _field(location[:-1], model)
    fields = model if len(location) == 1 else _model(parent) if parent else None
    if fields is None:
        return ""
    near = difflib.get_close_matches(str(location[-1]), fields.model_fields, n=1)
    return f" (did you mean `{near[0]}`?)" if near else f" (there are {', '.join(fields.model_fields)})"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
