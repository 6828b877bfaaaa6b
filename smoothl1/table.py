"""Columns of numbers from a CSV file, with errors for the person who wrote it."""

from __future__ import annotations

import csv
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from .arguments import Vector

MISSING = {"", "na", "n/a", "nan", "null", "none"}


class InputError(ValueError):
    """Something about the input that its author has to change, in one line."""


class Table:
    """A CSV file, read once from its first line to its last."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        try:
            self._file = path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        self._reader = csv.reader(self._file, delimiter=delimiter, strict=True)

    def __enter__(self) -> Table:
        try:
            self.names = self._header()
        except BaseException:
            self._file.close()
            raise
        return self

    def _header(self) -> list[str]:
        names = [name.strip() for name in next(self._rows(), [])]
        if not any(names):
            raise InputError(f"{self._path}: the first line must name the columns, it is empty")
        double = [name for name, times in Counter(names).items() if name and times > 1]
        if double:
            raise InputError(f"{self._path}: two columns have the same name: {_listed(double)}")
        return names

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def features(self, *others: str | None) -> list[str]:
        """All columns but some."""
        if not all(self.names):
            number = self.names.index("") + 1
            raise InputError(
                f"{self._path}: column {number} has no name; choose columns with --features"
            )
        return [name for name in self.names if name not in others]

    def columns(self, wanted: Sequence[str], drop_missing: bool) -> tuple[dict[str, Vector], int]:
        """Read columns, and how many rows with missing values were left out."""
        for name in wanted:
            if name not in self.names:
                raise InputError(f"{self._path}: no column {name!r}; there are {self._known()}")
        places = [self.names.index(name) for name in wanted]
        columns = [array("d") for _ in wanted]
        dropped = 0
        for row in self._rows():
            if not row:
                continue
            if len(row) != len(self.names):
                raise InputError(
                    f"{self._here()}: expected {len(self.names)} fields, got {len(row)}"
                )
            values = [self._number(row[k], self.names[k]) for k in places]
            missing = [name for name, v in zip(wanted, values, strict=True) if math.isnan(v)]
            if missing and not drop_missing:
                raise InputError(
                    f"{self._here()}, column {missing[0]}: the value is missing; "
                    "--drop-missing leaves such rows out"
                )
            if missing:
                dropped += 1
                continue
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        arrays = [np.array(column, np.float64) for column in columns]
        return dict(zip(wanted, arrays, strict=True)), dropped

    def _known(self) -> str:
        known = _listed([name for name in self.names if name][:20])
        if len(self.names) == 1:
            likely = next((mark for mark in ";\t|" if mark in self.names[0]), None)
            return known + (f" (is the --delimiter {likely!r}?)" if likely else "")
        return known

    def _here(self) -> str:
        return f"{self._path}, line {self._reader.line_num}"

    def _number(self, text: str, name: str) -> float:
        text = text.strip()
        if text.lower() in MISSING:
            return math.nan
        try:
            value = math.inf if "_" in text else float(text)
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise InputError(
                f"{self._here()}, column {name}: expected a finite number, got {text!r}"
            )
        return value

    def _rows(self) -> Iterator[list[str]]:
        while True:
            try:
                row = next(self._reader)
                "".join(row).encode()
            except StopIteration:
                return
            except UnicodeEncodeError:
                raise InputError(f"{self._here()}: the text is not UTF-8") from None
            except (csv.Error, OSError) as error:
                hint = "; is a quotation mark left open?" if "end of data" in str(error) else ""
                raise InputError(f"{self._here()}: {error}{hint}") from None
            yield row


def _listed(names: Sequence[str]) -> str:
    return ", ".join(" ".join(name.split()) for name in names)
