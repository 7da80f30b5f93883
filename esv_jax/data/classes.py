"""Classes in CSV files: names, priors, labels of videos."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from esv_jax.checks import expect, message, nearest

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
    for where, row in read_csv(path, ("name", "id"), exact=True):
        expect(bool(row["name"].strip()), where, "a class name", repr(row["name"]))
        names[_new_id(where, names, row["id"])] = row["name"]
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
    for where, row in read_csv(path, ("class", "prior"), ("class", "count"), exact=True):
        column = "prior" if "prior" in row else "count"
        c = _new_id(where, values, row["class"])
        try:
            values[c] = float(row[column])
        except ValueError:
            values[c] = math.nan
        fits = 0 <= values[c] < math.inf
        expect(fits, where, f"a {column} of 0 or more", repr(row[column].strip()))
    table = np.array(_by_id(path, values, "A class without examples still needs its row, with 0."))
    total = math.fsum(table)
    if column == "count":
        expect(total > 0, path.name, "a count above 0", "only zeros")
        return table / total
    way_out = "Name the column 'count' to have it normalised."
    expect(abs(total - 1) <= 1e-6, path.name, "priors that sum to 1", f"a sum of {total}", way_out)
    return table


def read_labels(path: Path, classes: Path | None = None) -> dict[str, int]:
    """Class ids of videos by uid.

    Args:
      path: CSV file with the columns `uid` and `class`; the class is an id or a name.
      classes: CSV file of class names (`name,id`), needed for names.
    Raises:
      FileNotFoundError, ValueError: as `read_csv`; a duplicate uid, an unknown name.
    """
    names = () if classes is None else read_classes(classes)
    ids = {name: i for i, name in enumerate(names)}
    labels: dict[str, int] = {}
    for where, row in read_csv(path, ("uid", "class")):
        cell, uid = row["class"].strip(), row["uid"].strip()
        expect(uid not in labels, where, "each uid once", f"{uid!r} again")
        if cell not in ids and not cell.isdecimal():
            way_out = nearest(cell, names) if names else "Names need --classes."
            raise ValueError(message(where, "a class id or a known name", repr(cell), way_out))
        labels[uid] = ids[cell] if cell in ids else int(cell)
        fits = not names or labels[uid] < len(names)
        expect(fits, where, f"a class id below {len(names)}", cell)
    return labels


def class_index(name: str, class_names: tuple[str, ...]) -> int:
    """Index of a class given by name or id; a class named "3" takes precedence over id 3."""
    if name in class_names:
        return class_names.index(name)
    if name.isdecimal() and int(name) < len(class_names):
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
        lines = [(f"{path.name}, line {reader.line_num}", cells) for cells in reader if cells]
    except csv.Error as error:
        where, got = f"{path.name}, line {reader.line_num}", f"an error: {error}"
        raise ValueError(message(where, "comma-separated values", got)) from error
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    found = [
        {*names} <= {*header} and (not exact or len(names) == len(header)) for names in columns
    ]
    expected = "the header " if exact else "a header with the columns "
    expected += " or ".join(repr(",".join(names)) for names in columns)
    got = repr(",".join(header)) if lines else "an empty file"
    expect(any(found), path.name, expected, got)
    for where, cells in lines[1:]:
        way_out = "Put quotes around a name with commas." if len(cells) > len(header) else ""
        fits = len(cells) == len(header)
        expect(fits, where, f"{len(header)} cells", len(cells), way_out)
        yield where, dict(zip(header, cells, strict=True))


def read_text(path: Path, expected: str) -> str:
    """The content of a UTF-8 text file."""
    if not path.is_file():
        raise FileNotFoundError(message("path", expected, repr(str(path))))
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(message(path.name, "UTF-8 text", f"other bytes ({error})")) from error


def _new_id(where: str, table: Mapping[int, object], cell: str) -> int:
    """The class id in a cell, which may not be in the table yet."""
    cell = cell.strip()
    expect(cell.isdecimal(), where, "a class id of 0 or more", repr(cell))
    expect(int(cell) not in table, where, "each class id once", f"{cell} again")
    return int(cell)


def _by_id(path: Path, table: Mapping[int, T], way_out: str = "") -> list[T]:
    """Values in the order of their ids, which must be 0..C - 1."""
    expect(len(table) > 0, path.name, "at least one class", "none")
    missing = next((c for c in range(len(table)) if c not in table), None)
    expected = f"ids 0 to {len(table) - 1} for {len(table)} classes"
    expect(missing is None, path.name, expected, f"no {missing}", way_out)
    return [table[c] for c in range(len(table))]
