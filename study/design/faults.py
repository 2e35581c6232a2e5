"""A failed validation as one line: the rule, the value and what to do."""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """The first fault of a validation as one line: the rule, the value and what to do."""
    faults = error.errors()
    fault = faults[0]
    path = ".".join(str(part) for part in fault["loc"])
    key = f"{where}{path}" or where.rstrip(".")
    more = f" ({len(faults) - 1} more faults follow.)" if len(faults) > 1 else ""
    given = fault["input"]
    if fault["type"] == "value_error":
        return f"`{key}`: {fault['ctx']['error']}{more}"
    if fault["type"] == "extra_forbidden":
        return f"`{key}` is not a key here{_closest(fault['loc'], model)}, got {given!r}; remove or rename it.{more}"
    if fault["type"] == "missing":
        return f"`{key}` must be given, got nothing; add it.{more}"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return (
            f"`{key}` must be one value or one of {{uniform: [a, b]}}, {{log: [a, b]}}, {{log_gap: [a, b]}}, "
            f"{{integers: [a, b]}}, {{choice: [...]}}, got {given!r}.{more}"
        )
    return f"`{key}`: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {given!r}.{more}"


def _closest(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """A hint at the key that was probably meant."""
    fields: type[BaseModel] | None = model
    for part in location[:-1]:
        annotation = fields.model_fields[str(part)].annotation if fields and str(part) in fields.model_fields else None
        fields = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    if fields is None:
        return ""
    near = difflib.get_close_matches(str(location[-1]), fields.model_fields, n=1)
    return f" (did you mean `{near[0]}`?)" if near else f" (there are {', '.join(fields.model_fields)})"
