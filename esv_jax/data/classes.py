"""Class names and class priors from CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from esv_jax.checks import expect, message, nearest

T = TypeVar("T")


def read_classes(path: str | PathLike[str]) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
      path: CSV file, UTF-8, with the header `name,id`; names with commas are quoted. Rows may
        come in any order; blank lines are skipped.
    Returns:
      C names; the name of class c stands at c.
    Raises:
      FileNotFoundError: no such file.
      ValueError: another header, a malformed row (with its line number), ids that are not
        0..C - 1, each once.
    Cost: reads the file once.
    """
    path = Path(path)
    _, rows = _read_rows(path, ("name,id",))
    names: dict[int, str] = {}
    for where, row in rows:
        expect(bool(row["name"].strip()), where, "a class name", repr(row["name"]))
        _place(where, names, row["id"], row["name"])
    return tuple(_in_order(path, names))


def read_class_priors(path: str | PathLike[str]) -> np.ndarray:
    """Class priors, the scores of the empty subsequence: relative frequencies of the classes.

    Args:
      path: CSV file with the header `class,prior` (probabilities, which sum to one) or
        `class,count` (numbers of training examples, which are normalised). `class` is the id.
        Rows may come in any order; blank lines are skipped.
    Returns:
      (C,) float64, non-negative, sum one; priors as stored, counts over their sum.
    Raises:
      FileNotFoundError: no such file.
      ValueError: another header, a malformed row (with its line number), ids that are not
        0..C - 1, each once, priors that do not sum to one within 1e-6, counts that are all 0.
    Cost: reads the file once.
    """
    path = Path(path)
    header, rows = _read_rows(path, ("class,prior", "class,count"))
    column = "prior" if "prior" in header else "count"
    values: dict[int, float] = {}
    for where, row in rows:
        _place(where, values, row["class"], _share(where, column, row[column]))
    way_out = "A class without examples still needs its row, with 0."
    table = np.array(_in_order(path, values, way_out))  # (C,)
    total = math.fsum(table)
    if column == "count":
        expect(total > 0, path.name, "a count above 0", "only zeros")
        return table / total
    way_out = "Head the column 'count' to have it normalised."
    expect(abs(total - 1) <= 1e-6, path.name, "priors that sum to 1", f"a sum of {total}", way_out)
    return table


def class_index(name: str, class_names: tuple[str, ...]) -> int:
    """A class by name or number; names come first, so that classes named "3" can be meant."""
    if name in class_names:
        return class_names.index(name)
    if name.isdigit() and int(name) < len(class_names):
        return int(name)
    way_out = nearest(name, class_names)
    raise ValueError(
        message("class", f"a name or an id in 0..{len(class_names) - 1}", repr(name), way_out)
    )


def _read_rows(
    path: Path, headers: tuple[str, ...]
) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """The header, and each row with its place in the file."""
    expect(path.is_file(), "path", "a CSV file", f"{str(path)!r}", kind=FileNotFoundError)
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        reader = csv.reader(text, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise ValueError(message(path.name, "UTF-8 text", f"other bytes ({error})")) from error
    except csv.Error as error:
        where = f"{path.name}, line {reader.line_num}"
        raise ValueError(message(where, "comma-separated values", f"an error: {error}")) from error
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    fits = sorted(header) in [sorted(names.split(",")) for names in headers]
    expected = "the header " + " or ".join(map(repr, headers))
    expect(fits, path.name, expected, repr(",".join(header)) if lines else "an empty file")

    def rows() -> Iterator[tuple[str, dict[str, str]]]:
        for number, cells in lines[1:]:
            where = f"{path.name}, line {number}"
            way_out = "Put quotes around a name with commas." if len(cells) > 2 else ""
            expect(len(cells) == 2, where, "2 cells", len(cells), way_out)
            yield where, dict(zip(header, cells, strict=True))

    return header, rows()


def _place(where: str, table: dict[int, T], cell: str, value: T) -> None:
    """Enter `value` under the id in `cell`, once."""
    cell = cell.strip()
    expect(cell.isdecimal(), where, "a class id of 0 or more", repr(cell))
    expect(int(cell) not in table, where, "each class id once", f"{cell} again")
    table[int(cell)] = value


def _in_order(path: Path, table: dict[int, T], way_out: str = "") -> list[T]:
    """Values by id, once it is known that the ids are 0..C - 1."""
    expect(bool(table), path.name, "at least one class", "none")
    absent = [c for c in range(len(table)) if c not in table]
    expected = f"ids 0 to {len(table) - 1} for {len(table)} classes"
    expect(not absent, path.name, expected, f"no {(absent or [0])[0]}", way_out)
    return [table[c] for c in range(len(table))]


def _share(where: str, column: str, cell: str) -> float:
    """A finite number, not below 0."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    good = math.isfinite(value) and value >= 0
    expect(good, where, f"a {column} of 0 or more", repr(cell.strip()))
    return value
