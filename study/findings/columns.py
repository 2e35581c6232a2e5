"""Reads a file as columns of plain data: null, booleans, numbers, texts and lists."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from study.design.document import from_text
from study.design.faults import shown
from study.design.schema import LARGEST_METRIC
from study.errors import BadInput, reason

SEPARATORS = {".csv": ",", ".tsv": "\t"}
COUNTED = ("", "Unnamed: 0", "__index_level_0__")  # what pandas calls the numbers of rows, which are no parameter
NO_METRIC = ("", "na", "n/a", "null", "none")


def read_columns(path: Path) -> dict[str, list[Any]]:
    """A file's columns by name; those without a name, or that only count rows, are left out."""
    kind = path.suffix.lower()
    if kind not in (*SEPARATORS, ".parquet"):
        raise BadInput(f"`table` must be a .csv, .tsv or .parquet file, got {path}; write it as one of these.")
    try:
        data = path.read_bytes()
        names, columns = _parquet(data) if kind == ".parquet" else _text(data, SEPARATORS[kind])
    except OSError as error:
        raise BadInput(f"`table` must be a readable file, got {path}: {error.strerror or reason(error)}.") from error
    except (csv.Error, ValueError, ArithmeticError, pyarrow.ArrowException) as error:
        raise BadInput(f"`table` must be a {kind} file, got {path}: {reason(error)}; write it anew.") from error
    if not columns or not columns[0]:
        raise BadInput(f"`table` must have a line of names and a row for each setting and seed, got none in {path}.")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1 and name not in COUNTED]:
        raise BadInput(f"`table` must name each column once, got {twice[0]!r} twice; rename one.")
    return {name: cells for name, cells in zip(names, columns, strict=True) if name not in COUNTED}


def metric_values(cells: Sequence[Any], metric: str) -> list[float]:
    """A metric's values; nan for one that is empty, not finite, or too large to be squared."""
    values = []
    for number, cell in enumerate(cells, 1):
        missing = cell is None or (isinstance(cell, str) and cell.lower() in NO_METRIC)
        try:
            value = math.nan if missing else float(cell)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                f"`metric` must be a column of numbers, got {shown(cell)} in row {number} of {shown(metric)}; mend it, "
                "or leave the cell empty where the run diverged."
            ) from error
        values.append(value if abs(value) <= LARGEST_METRIC else math.nan)
    return values


def _text(data: bytes, separator: str) -> tuple[list[str], list[list[Any]]]:
    """The names and columns of a text file.

    Raises:
        ValueError: It is no text, or a row has more or fewer cells than there are names.
    """
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    lines = [line for line in csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True) if line]
    for number, line in enumerate(lines):
        if len(line) != len(lines[0]):
            raise ValueError(f"row {number} has {len(line)} cells where there are {len(lines[0])} names")
    names = [name.strip() for name in lines[0]] if lines else []
    return names, [[from_text(line[place]) for line in lines[1:]] for place in range(len(names))]


def _parquet(data: bytes) -> tuple[list[str], list[list[Any]]]:
    """The names and columns of a Parquet file."""
    table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read()
    return list(table.column_names), [[_plain(value) for value in column.to_pylist()] for column in table.columns]


def _plain(value: Any) -> Any:
    """A value of a Parquet file as plain data."""
    if value is None or value != value:
        return None
    if isinstance(value, list | dict):
        return json.loads(json.dumps(value, default=str))
    return value if isinstance(value, bool | int | float | str) else str(value)
