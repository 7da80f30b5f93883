"""Reader of the `.ts` text format for labelled multivariate sequences.

    # a comment
    @problemName Vowels
    @dimensions 2
    @classLabel true ah eh
    @data
    1.6,1.7,1.6:0.1,0.2,0.1:ah
    1.3,?:-0.5,-0.6:eh

One sequence per line: channels separated by `:`, values by `,`, the class label last. In messages,
lines count from 1, channels and values from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esv_jax.checks import expect, message, nearest


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one file, in file order.

    Attributes:
      sequences: V arrays (n_v, D) float32; lengths may differ.
      labels: index into `class_names`, (V,) int64, or None for a file without labels.
      class_names: names in the order of the header; empty for a file without labels.
      uids: file stem and row, "Vowels_TEST-17" for `sequences[17]` of `Vowels_TEST.ts`.
      problem: the name in the header, or the file stem.
    """

    sequences: list[np.ndarray]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    uids: tuple[str, ...]
    problem: str

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> np.ndarray:
        """Number of elements of each sequence, (V,) int64."""
        return np.array([len(x) for x in self.sequences], dtype=np.int64)


def read_ts(path: str | PathLike[str]) -> Sequences:
    """Read sequences and labels from a `.ts` file.

    Comments, blank lines, CRLF and spaces around values are allowed anywhere. Header keys are
    case-insensitive; unknown keys are ignored. Missing values, `?` or `NaN`, are interpolated
    linearly in time between known values, and constant beyond the first and last.

    Args:
      path: the file, UTF-8 (Latin-1 if it is not valid UTF-8).
    Returns:
      `Sequences`. With `@classLabel false`, `labels` is None and `class_names` is empty.
    Raises:
      FileNotFoundError: no such file.
      ValueError: a malformed header or row, with file name and line number: a value that is not a
        finite float32, a channel without any known value, channels of different number or length,
        an unknown class, a length that contradicts `@equalLength true`, no `@data`, no rows;
        timestamps and numeric targets (`@timeStamps true`, `@targetLabel true`), which are not
        supported.
    Cost: one pass over the file, which is held in memory as text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("path", "a .ts file", repr(str(path))))
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # comments of older archives
    lines = [line.strip() for line in text.split("\n")]  # splitlines would split at more characters
    header = _read_header(path, lines)

    sequences: list[np.ndarray] = []
    labels: list[int] = []
    n_channels, length, names = header.n_channels, header.length, header.class_names
    for number, line in enumerate(lines[header.n_lines :], start=header.n_lines + 1):
        if not line or line.startswith("#"):
            continue
        where = f"{path.name}, line {number}"
        channels = line.split(":")
        label = channels.pop().strip() if names else ""
        if not channels or n_channels not in (None, len(channels)):
            expected = f"{n_channels or '1 or more'} channel(s)"
            expected += " and a class label, separated by ':'" if names else ""
            way_out = "The file may be cut short." if len(channels) < (n_channels or 1) else ""
            raise ValueError(message(where, expected, f"{len(channels)} channel(s)", way_out))
        n_channels = len(channels)
        if names and label not in names:
            expected = "one of the classes of the header at the end of the row"
            raise ValueError(message(where, expected, repr(label), nearest(label, names)))
        x = _parse_row(where, channels)  # (n, D)
        if header.equal_length:
            length, way_out = length or len(x), "Set '@equalLength false' if lengths differ."
            expect(len(x) == length, where, f"{length} values a channel", len(x), way_out)
        sequences.append(x)
        labels += [names.index(label)] if names else []
    expect(len(sequences) > 0, path.name, "at least one sequence after @data", "none")

    return Sequences(
        sequences=sequences,
        labels=np.array(labels, dtype=np.int64) if names else None,
        class_names=names,
        uids=tuple(f"{path.stem}-{row}" for row in range(len(sequences))),
        problem=header.problem,
    )


class _Header(NamedTuple):
    """The header up to `@data`; None for absent fields."""

    n_lines: int
    problem: str
    n_channels: int | None
    equal_length: bool
    length: int | None
    class_names: tuple[str, ...]  # empty without labels


def _read_header(path: Path, lines: Sequence[str]) -> _Header:
    fields: dict[str, tuple[str, list[str]]] = {}  # key -> (location, words)
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        where = f"{path.name}, line {number}"
        expect(line.startswith("@"), where, "a header line, then '@data'", repr(line[:40]))
        key, *words = line[1:].split() or [""]
        if key.lower() == "data":
            break
        fields[key.lower()] = (where, words)
    else:
        got = f"{len(lines)} line(s) without one" if any(lines) else "an empty file without one"
        raise ValueError(message(path.name, "an '@data' line", got))

    def first_word(key: str, default: str) -> tuple[str, str]:
        where, words = fields.get(key.lower(), ("", [default]))
        return where, words[0] if words else ""

    def flag(key: str) -> bool:
        where, word = first_word(key, "false")
        known = word.lower() in ("true", "false")
        expect(known, where, f"'@{key} true' or 'false'", repr(word.lower()))
        return word.lower() == "true"

    def size(key: str) -> int | None:
        if key.lower() not in fields:
            return None
        where, word = first_word(key, "")
        fits = word.isdecimal() and int(word) > 0
        expect(fits, where, f"'@{key}' and a positive integer", repr(word))
        return int(word)

    for key, way_out in (
        ("timeStamps", "Remove the timestamps and write plain values."),
        ("targetLabel", "Only class labels are supported."),
    ):
        expect(not flag(key), path.name, f"'@{key} false'", f"'@{key} true'", way_out)

    way_out = "Write '@classLabel true' and the class names, or '@classLabel false'."
    labelled = "classlabel" in fields
    expect(labelled, path.name, "a '@classLabel' line", "a header without", way_out)
    names: list[str] = []
    if flag("classLabel"):
        where, (_, *names) = fields["classlabel"]
        distinct = 0 < len(names) == len(set(names))
        expect(distinct, where, "distinct class names after 'true'", names, way_out)

    univariate = 1 if flag("univariate") else None
    return _Header(
        n_lines=number,
        problem=" ".join(fields.get("problemname", ("", []))[1]) or path.stem,
        n_channels=size("dimensions") or size("dimension") or univariate,
        equal_length=flag("equalLength"),
        length=size("seriesLength"),
        class_names=tuple(names),
    )


def _parse_row(where: str, channels: Sequence[str]) -> np.ndarray:
    """The values of one row, (n, D) float32, with interpolated missing values."""
    columns = [_parse_channel(where, c, text) for c, text in enumerate(channels)]
    lengths = [len(column) for column in columns]
    usual = max(lengths, key=lengths.count)
    odd = ", ".join(f"{n} in channel {c}" for c, n in enumerate(lengths) if n != usual)
    got, way_out = f"{usual} values, but {odd}", "Write ? for a missing value."
    expect(not odd, where, "channels of one length", got, way_out)
    x, steps = np.array(columns).T, np.arange(usual)  # (n, D)
    for c in np.flatnonzero(np.isnan(x).any(axis=0)):
        known, got = ~np.isnan(x[:, c]), f"channel {c} wholly missing"
        is_known = bool(known.any())
        expect(is_known, where, "a known value in every channel", got, "Drop the sequence.")
        x[:, c] = np.interp(steps, steps[known], x[known, c])
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    if np.isinf(x).any():
        step, c = np.argwhere(np.isinf(x))[0]
        got = f"{channels[c].split(',')[step].strip()} as value {step} of channel {c}"
        raise ValueError(message(where, "finite float32 values", got))
    return x


def _parse_channel(where: str, c: int, text: str) -> list[float]:
    """Values of one channel, NaN if missing."""
    expect(bool(text.strip()), where, "values", f"nothing in channel {c}")
    tokens = text.split(",")
    try:
        return [float(token) for token in tokens]
    except ValueError:
        pass  # a missing value, or a token for the message
    values = []
    for i, token in enumerate(map(str.strip, tokens)):
        try:
            values.append(float("nan" if token == "?" else token))
        except ValueError:
            got = f"{token!r} as value {i} of channel {c}"
            raise ValueError(message(where, "a number", got)) from None
    return values
