"""Classes in CSV files: names, priors, labels of videos."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from esv_jax.checks import message, nearest

T = TypeVar("T")


def read_classes(path: str | PathLike[str]) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
      path: CSV file, UTF-8, with the header `name,id`; names with commas are quoted. Rows may be
        in any order; blank lines are skipped.
    Raises:
      FileNotFoundError: no such file.
      ValueError: another header, a malformed row (with its line number), ids that are not
        0..C - 1, each once.
    """
    path = Path(path)
    names: dict[int, str] = {}
    for location, row in read_csv(path, ("name", "id"), exact=True):
        if not row["name"].strip():
            raise ValueError(message(location, "a class name", repr(row["name"])))
        _insert(location, names, row["id"], row["name"])
    return tuple(_by_id(path, names))


def read_class_priors(path: str | PathLike[str]) -> np.ndarray:
    """Class priors, the scores of the empty subsequence: relative frequencies of the classes.

    Args:
      path: CSV file with the header `class,prior` (probabilities, which sum to one) or
        `class,count` (numbers of training examples, which are normalised). `class` is the id.
        Rows may be in any order; blank lines are skipped.
    Returns:
      (C,) float64, non-negative, sum one.
    Raises:
      FileNotFoundError: no such file.
      ValueError: another header, a malformed row (with its line number), ids that are not
        0..C - 1, each once, priors that do not sum to one within 1e-6, counts that are all 0.
    """
    path = Path(path)
    values: dict[int, float] = {}
    column = "prior"
    for location, row in read_csv(path, ("class", "prior"), ("class", "count"), exact=True):
        column = "prior" if "prior" in row else "count"
        _insert(location, values, row["class"], _non_negative(location, column, row[column]))
    way_out = "A class without examples still needs its row, with 0."
    table = np.array(_by_id(path, values, way_out))  # (C,)
    total = math.fsum(table)
    if column == "count":
        if total == 0:
            raise ValueError(message(path.name, "a count above 0", "only zeros"))
        return table / total
    if abs(total - 1) > 1e-6:
        way_out = "Name the column 'count' to have it normalised."
        raise ValueError(message(path.name, "priors that sum to 1", f"a sum of {total}", way_out))
    return table


def read_labels(path: Path, classes: Path | None = None) -> dict[str, int]:
    """Class ids of videos by uid.

    Args:
      path: CSV file with the columns `uid` and `class`; the class is an id or a name.
      classes: CSV file of class names (`name,id`), needed for names.
    Raises:
      FileNotFoundError: no such file.
      ValueError: missing columns, a duplicate uid, a name without `classes` or not among them.
    """
    names = () if classes is None else read_classes(classes)
    ids = {name: i for i, name in enumerate(names)}
    labels: dict[str, int] = {}
    for location, row in read_csv(path, ("uid", "class")):
        cell, uid = row["class"].strip(), row["uid"].strip()
        if uid in labels:
            raise ValueError(message(location, "each uid once", f"{uid!r} again"))
        if cell not in ids and not cell.isdecimal():
            way_out = nearest(cell, names) if names else "Names need --classes."
            raise ValueError(message(location, "a class id or a known name", repr(cell), way_out))
        label = ids[cell] if cell in ids else int(cell)
        if names and label >= len(names):
            raise ValueError(message(location, f"a class id below {len(names)}", cell))
        labels[uid] = label
    return labels


def class_index(name: str, class_names: tuple[str, ...]) -> int:
    """Index of a class given by name or id; a class named "3" takes precedence over id 3."""
    if name in class_names:
        return class_names.index(name)
    if name.isdigit() and int(name) < len(class_names):
        return int(name)
    expected = f"a name or an id in 0..{len(class_names) - 1}"
    raise ValueError(message("class", expected, repr(name), nearest(name, class_names)))


def read_csv(
    path: Path, *columns: Sequence[str], exact: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location of each row, for messages, and its cells by column.

    Args:
      path: CSV file, UTF-8, with a header.
      columns: alternative sets of required columns.
      exact: whether other columns are refused.
    Raises:
      FileNotFoundError: no such file.
      ValueError: another header, a row of another length, malformed CSV, text that is not UTF-8.
    """
    reader = csv.reader(io.StringIO(read_text(path, "a CSV file"), newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        location = f"{path.name}, line {reader.line_num}"
        got = f"an error: {error}"
        raise ValueError(message(location, "comma-separated values", got)) from error
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    if not any(
        sorted(header) == sorted(names) if exact else {*names} <= {*header} for names in columns
    ):
        expected = "the header " if exact else "a header with the columns "
        expected += " or ".join(repr(",".join(names)) for names in columns)
        got = repr(",".join(header)) if lines else "an empty file"
        raise ValueError(message(path.name, expected, got))
    for number, cells in lines[1:]:
        location = f"{path.name}, line {number}"
        if len(cells) != len(header):
            way_out = "Put quotes around a name with commas." if len(cells) > len(header) else ""
            raise ValueError(message(location, f"{len(header)} cells", len(cells), way_out))
        yield location, dict(zip(header, cells, strict=True))


def read_text(path: Path, expected: str) -> str:
    """The content of a UTF-8 text file."""
    if not path.is_file():
        raise FileNotFoundError(message("path", expected, repr(str(path))))
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(message(path.name, "UTF-8 text", f"other bytes ({error})")) from error


def _insert(location: str, table: dict[int, T], cell: str, value: T) -> None:
    """Insert `value` under the class id in `cell`; each id may occur once."""
    cell = cell.strip()
    if not cell.isdecimal():
        raise ValueError(message(location, "a class id of 0 or more", repr(cell)))
    if int(cell) in table:
        raise ValueError(message(location, "each class id once", f"{cell} again"))
    table[int(cell)] = value


def _by_id(path: Path, table: dict[int, T], way_out: str = "") -> list[T]:
    """Values in the order of their ids, which must be 0..C - 1."""
    if not table:
        raise ValueError(message(path.name, "at least one class", "none"))
    for c in range(len(table)):
        if c not in table:
            expected = f"ids 0 to {len(table) - 1} for {len(table)} classes"
            raise ValueError(message(path.name, expected, f"no {c}", way_out))
    return [table[c] for c in range(len(table))]


def _non_negative(location: str, column: str, cell: str) -> float:
    """A finite number >= 0."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(message(location, f"a {column} of 0 or more", repr(cell.strip())))
    return value
