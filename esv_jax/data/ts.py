"""Reader of the `.ts` text format: labelled sequences of any length, several channels each.

    # a comment
    @problemName Vowels
    @dimensions 2
    @classLabel true ah eh
    @data
    1.6,1.7,1.6:0.1,0.2,0.1:ah
    1.3,?:-0.5,-0.6:eh

One case a line: channels separated by `:`, values by `,`, the class label last. Line numbers in
messages count from 1, as editors do; channels and values count from 0, as arrays do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from esv_jax.checks import expect, expect_choice, message, nearest

MISSING_POLICIES = ("interpolate", "keep", "error")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one file, in file order.

    Attributes:
      sequences: one (n_v, D) float32 array per sequence; lengths may differ.
      labels: index into `class_names`, (V,) int64, or None where the file has no labels.
      class_names: names in the order of the header; empty where the file has no labels.
      uids: file stem and row, "Vowels_TEST-17" for `sequences[17]` of `Vowels_TEST.ts`.
      problem: the name the header gives, or the file stem.
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
        """Elements of each sequence, (V,) int64."""
        return np.array([len(x) for x in self.sequences], dtype=np.int64)


def read_ts(path: str | PathLike[str], *, missing: str = "interpolate") -> Sequences:
    """Sequences and labels of a `.ts` file.

    Comments, blank lines, CRLF and spaces around values are accepted anywhere; header keys are
    read without regard to case, and keys this reader has no use for are passed over.

    Args:
      path: the file, UTF-8 (Latin-1 where it is not valid UTF-8).
      missing: what becomes of the values `?` and `NaN`:
        "interpolate": on the line between their neighbours in time, the first and last known
        value held towards the edges; a channel without any known value is an error.
        "keep": NaN in the result. "error": refused.
    Returns:
      `Sequences`. With `@classLabel false`, `labels` is None and `class_names` is empty.
    Raises:
      FileNotFoundError: no such file.
      ValueError: a malformed header or row, with file name and line number: a value that is no
        finite float32, channels of different number or length, an unknown class, a length other
        than `@equalLength true` promises, no `@data`, no rows; time stamps and numeric targets
        (`@timeStamps true`, `@targetLabel true`), which this reader does not support.
    Cost: one pass over the file, which is held in memory as text.
    """
    expect_choice("missing", missing, MISSING_POLICIES)
    path = Path(path)
    expect(path.is_file(), "path", "a .ts file", f"{str(path)!r}", kind=FileNotFoundError)
    lines = _text(path).split("\n")  # not splitlines, whose extra breaks would shift line numbers
    header = _read_header(path, lines)

    sequences: list[np.ndarray] = []
    labels: list[int] = []
    n_channels, length = header.n_channels, header.length
    for number, line in enumerate(lines[header.n_lines :], start=header.n_lines + 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = _place(path, number)
        channels = line.split(":")
        label = channels.pop() if header.class_names else None
        _expect_channels(where, channels, n_channels, labelled=label is not None)
        if label is not None:
            labels.append(_class_index(where, label.strip(), header.class_names))
        x = _parse_values(where, channels, missing)  # (n, D)
        if header.equal_length:
            length = length or len(x)
            way_out = "Set '@equalLength false' in the header where lengths differ."
            expect(len(x) == length, where, f"{length} values a channel", len(x), way_out)
        n_channels = len(channels)
        sequences.append(x)
    expect(bool(sequences), path.name, "at least one case after @data", "none")

    return Sequences(
        sequences=sequences,
        labels=np.array(labels, dtype=np.int64) if header.class_names else None,
        class_names=header.class_names,
        uids=tuple(f"{path.stem}-{row}" for row in range(len(sequences))),
        problem=header.problem,
    )


@dataclass(frozen=True)
class _Header:
    """Read the header up to `@data`; None for fields that are absent."""

    n_lines: int
    problem: str
    n_channels: int | None
    equal_length: bool
    length: int | None
    class_names: tuple[str, ...]  # empty: no labels


def _read_header(path: Path, lines: Sequence[str]) -> _Header:
    """The header, with every question about it asked."""
    fields: dict[str, tuple[str, list[str]]] = {}  # key -> (place, words)
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        where = _place(path, number)
        if not line or line.startswith("#"):
            continue
        expect(line.startswith("@"), where, "a header line, then '@data'", repr(line[:40]))
        key, *words = line[1:].split() or [""]
        if key.lower() == "data":
            break
        fields[key.lower()] = (where, words)
    else:
        raise ValueError(message(path.name, "an '@data' line", f"{_size(lines)} without one"))

    def flag(key: str, default: bool) -> bool:
        where, words = fields.get(key.lower(), ("", [str(default)]))
        word = words[0].lower() if words else ""
        expect(word in ("true", "false"), where, f"'@{key} true' or 'false'", repr(word))
        return word == "true"

    def size(key: str) -> int | None:
        if key.lower() not in fields:
            return None
        where, words = fields[key.lower()]
        word = words[0] if words else ""
        good = word.isdecimal() and int(word) > 0
        expect(good, where, f"'@{key}' and a positive integer", repr(word))
        return int(word)

    for key, way_out in (
        ("timeStamps", "Drop the time stamps and write plain values."),
        ("targetLabel", "Only class labels are read."),
    ):
        expect(not flag(key, False), path.name, f"'@{key} false'", f"'@{key} true'", way_out)

    way_out = "Write '@classLabel true' and the class names, or '@classLabel false'."
    expect("classlabel" in fields, path.name, "a '@classLabel' line", "a header without", way_out)
    class_names: tuple[str, ...] = ()
    if flag("classLabel", False):
        where, (_, *names) = fields["classlabel"]
        distinct = bool(names) and len(set(names)) == len(names)
        expect(distinct, where, "distinct class names after 'true'", names, way_out)
        class_names = tuple(names)

    one = 1 if flag("univariate", False) else None
    return _Header(
        n_lines=number,
        problem=" ".join(fields.get("problemname", ("", []))[1]) or path.stem,
        n_channels=size("dimensions") or size("dimension") or one,
        equal_length=flag("equalLength", False),
        length=size("seriesLength"),
        class_names=class_names,
    )


def _expect_channels(
    where: str, channels: Sequence[str], n_channels: int | None, *, labelled: bool
) -> None:
    """Refuse a row with another number of channels than the header or the rows above."""
    expected = "1 or more channels" if n_channels is None else f"{n_channels} channel(s)"
    expect(
        bool(channels) and n_channels in (None, len(channels)),
        where,
        f"{expected} and a class label, separated by ':'" if labelled else expected,
        f"{len(channels)} channel(s)",
        "The file may be cut short." if len(channels) < (n_channels or 1) else "",
    )


def _class_index(where: str, label: str, class_names: tuple[str, ...]) -> int:
    """Return the index of `label` among the names of the header."""
    if label not in class_names:
        expected = "one of the classes of the header at the end of the row"
        raise ValueError(message(where, expected, repr(label), nearest(label, class_names)))
    return class_names.index(label)


def _parse_values(where: str, channels: Sequence[str], missing: str) -> np.ndarray:
    """The values of one row, (n, D) float32."""
    columns = [_parse_channel(where, c, text) for c, text in enumerate(channels)]
    lengths = [len(column) for column in columns]
    usual = Counter(lengths).most_common(1)[0][0]
    if set(lengths) != {usual}:
        odd = ", ".join(f"{n} in channel {c}" for c, n in enumerate(lengths) if n != usual)
        got = f"{usual} values, but {odd}"
        way_out = "Write ? for a missing value."
        raise ValueError(message(where, "channels of one length", got, way_out))
    x = np.array(columns).T  # (n, D)
    unknown = np.isnan(x)
    if unknown.any() and missing != "keep":
        x = _fill(where, x, unknown, missing)
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    if np.isinf(x).any():
        step, c = np.argwhere(np.isinf(x))[0]
        got = f"{channels[c].split(',')[step].strip()} as value {step} of channel {c}"
        raise ValueError(message(where, "finite float32 values", got))
    return x


def _parse_channel(where: str, c: int, text: str) -> list[float]:
    """Values of one channel, NaN where missing."""
    expect(bool(text.strip()), where, "values", f"nothing in channel {c}")
    tokens = text.split(",")
    try:
        return [float(token) for token in tokens]
    except ValueError:
        pass  # a missing value, or a token worth naming
    values = []
    for i, token in enumerate(tokens):
        try:
            values.append(float("nan") if token.strip() == "?" else float(token))
        except ValueError:
            got = f"{token.strip()!r} as value {i} of channel {c}"
            raise ValueError(message(where, "a number", got)) from None
    return values


def _fill(where: str, x: np.ndarray, unknown: np.ndarray, missing: str) -> np.ndarray:
    """`x` (n, D) with the `unknown` values on the line between their neighbours in time."""
    step, c = np.argwhere(unknown)[0]
    way_out = "Read with missing='interpolate' or 'keep'."
    got = f"value {step} of channel {c} missing"
    expect(missing == "interpolate", where, "every value", got, way_out)
    x, steps = x.copy(), np.arange(len(x))
    for c in np.flatnonzero(unknown.any(axis=0)):
        known = ~unknown[:, c]
        got = f"channel {c} wholly missing"
        way_out = "Drop the case, or read with missing='keep'."
        expect(bool(known.any()), where, "a known value in every channel", got, way_out)
        x[:, c] = np.interp(steps, steps[known], x[known, c])
    return x


def _text(path: Path) -> str:
    """The file's text; older archives carry Latin-1 names in their comments."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _size(lines: Sequence[str]) -> str:
    return f"{len(lines)} line(s)" if any(line.strip() for line in lines) else "an empty file"


def _place(path: Path, number: int) -> str:
    return f"{path.name}, line {number}"
