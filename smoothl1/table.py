"""Columns of numbers from a CSV file, with errors for the person who wrote it."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from .arguments import Vector

MISSING = {"", "na", "n/a", "nan", "null", "none"}


class InputError(ValueError):
    """Something about the input that its author has to change, in one line."""


def read_header(path: Path, delimiter: str) -> list[str]:
    """Names of the columns."""
    with _open(path) as file:
        names = [name.strip() for name in next(Rows(file, path, delimiter), [])]
    if not any(names):
        raise InputError(f"{path}: the first line must name the columns, got an empty one")
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise InputError(f"{path}: column names must differ, got {', '.join(sorted(double))} twice")
    return names


def read_columns(
    path: Path, wanted: Sequence[str], delimiter: str, drop_missing: bool
) -> tuple[dict[str, Vector], int]:
    """Read the wanted columns, and how many rows with missing values were left out."""
    names = read_header(path, delimiter)
    for name in wanted:
        if name not in names:
            raise InputError(f"{path}: no column {name!r}; there are {', '.join(names)}")
    places = [names.index(name) for name in wanted]
    columns = [array("d") for _ in wanted]
    dropped = 0
    with _open(path) as file:
        rows = Rows(file, path, delimiter)
        next(rows)
        for row in rows:
            if not row:
                continue
            line = rows.line
            if len(row) != len(names):
                raise InputError(
                    f"{path}, line {line}: expected {len(names)} fields, got {len(row)}"
                )
            values = [_number(row[k], path, line, names[k]) for k in places]
            if any(math.isnan(value) for value in values):
                if not drop_missing:
                    name = wanted[[math.isnan(value) for value in values].index(True)]
                    raise InputError(
                        f"{path}, line {line}, column {name}: the value is missing; "
                        "--drop-missing leaves such rows out"
                    )
                dropped += 1
                continue
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    return {
        name: np.array(column, np.float64) for name, column in zip(wanted, columns, strict=True)
    }, dropped


def _number(text: str, path: Path, line: int, name: str) -> float:
    text = text.strip()
    if text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise InputError(
            f"{path}, line {line}, column {name}: expected a finite number, got {text!r}"
        )
    return value


def _open(path: Path) -> IO[str]:
    try:
        return path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


class Rows(Iterator[list[str]]):
    """Rows of a CSV file, and the line that the last one ended in."""

    def __init__(self, file: IO[str], path: Path, delimiter: str) -> None:
        self._path = path
        self._reader = csv.reader(file, delimiter=delimiter, strict=True)

    @property
    def line(self) -> int:
        """Number of the last line read."""
        return self._reader.line_num

    def __next__(self) -> list[str]:
        try:
            return next(self._reader)
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{self._path}, line {self.line + 1}: {error}") from None
