"""Settings, findings and stored results: what every study shares.

A study has a frozen dataclass of settings and a function from them to a summary: a dict of plain
values with numbers, intervals, findings, settings, versions and digests. `command` parses the
settings, runs the study and prints its table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import tyro

from esv_jax.checks import expect_int
from esv_jax.files import atomic_path

VERSIONS = ("esv-jax", "jax", "jaxlib", "flax", "optax", "numpy")
NOTHING: dict[str, Any] = {"mean": None, "low": None, "high": None}  # not measured
Settings = TypeVar("Settings")


class MissingDataError(FileNotFoundError):
    """Files that a study needs are absent; the message names them and the option."""


class Finding(NamedTuple):
    """One measured number beside its expected value.

    Attributes:
      quantity: name of the number, with its unit.
      expected: the paper's value, or the bound that is claimed.
      value: the number; None where it is not measured.
      low, high: ends of its 95 % interval; None where there is none.
      agrees: result of the comparison; None where nothing is measured or expected.
      note: what the number refers to, or why it is not measured.
    """

    quantity: str
    expected: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    agrees: bool | None = None
    note: str = ""


def finding(
    quantity: str,
    found: Mapping[str, Any],
    agrees: bool | None,
    expected: str = "",
    *,
    scale: float = 100,
    note: str = "",
) -> Finding:
    """Builds a finding from "mean", "low" and "high", in per cent by default."""
    value, low, high = (found.get(name) for name in ("mean", "low", "high"))
    if value is None:
        return Finding(quantity, expected, note=note or "no values")
    ends = (None if end is None else scale * end for end in (low, high))
    return Finding(quantity, expected, scale * value, *ends, agrees, note)


def above(found: Mapping[str, Any], bound: float = 0.0) -> bool | None:
    """True where the whole interval lies above a bound; None without an interval."""
    return None if found["low"] is None else bool(found["low"] > bound)


def below(found: Mapping[str, Any], bound: float = 0.0) -> bool | None:
    """True where the whole interval lies below a bound; None without an interval."""
    return None if found["high"] is None else bool(found["high"] < bound)


def within(found: Mapping[str, Any], low: float, high: float) -> bool | None:
    """True where the whole interval lies between two bounds; None without an interval."""
    return None if found["low"] is None else bool(low <= found["low"] and found["high"] <= high)


def findings_table(findings: Iterable[Mapping[str, Any]]) -> str:
    """Markdown table of findings as the summary stores them."""
    rows = [
        (row["quantity"], row["expected"] or "-", measured(row), agreement(row), row["note"])
        for row in findings
    ]
    return markdown(("quantity", "expected", "measured", "agrees", "note"), rows)


def measured(row: Mapping[str, Any]) -> str:
    """Number and interval of a stored finding, with three to four significant digits."""
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    if low is None:
        return f"{value:.4g}"
    width = high - low
    digits = 2 if width <= 0 else int(np.clip(1 - np.floor(np.log10(width)), 1, 5))
    return plus_minus(value, low, high, digits)


def agreement(row: Mapping[str, Any]) -> str:
    """Outcome of a stored finding: yes, no, or - where nothing is compared."""
    return {True: "yes", False: "**no**", None: "-"}[row["agrees"]]


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def as_number(value: float | None, form: str = ".3f") -> str:
    """A number as text; "-" for None."""
    return "-" if value is None else format(value, form)


def plus_minus(mean: float, low: float, high: float, digits: int = 1) -> str:
    """A number with its interval, e.g. "61.2 [58.0, 64.1]"."""
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def command(
    kind: type[Settings],
    run: Callable[[Settings], str],
    *,
    module: str,
    about: str | None,
    args: Sequence[str] | None = None,
    default: Settings | None = None,
) -> int:
    """Runs a study from the command line.

    Args:
      kind: class of the settings; `default` overrides its defaults.
      run: settings -> the text that is printed.
      module: name after "python -m experiments.". about: the module's docstring.
    Returns:
      Exit code: 0 when done, 2 where data is missing or does not fit.
    """
    more = {} if default is None else {"default": default}
    prog = f"python -m experiments.{module}"
    settings = tyro.cli(kind, prog=prog, description=about, args=args, **more)
    try:
        print(run(settings))
    except (MissingDataError, ValueError, TypeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def check_counts(settings: Any, *names: str) -> None:
    """Raises ValueError or TypeError where a setting is neither None nor an integer >= 1."""
    for name in names:
        if getattr(settings, name) is not None:
            expect_int(name, getattr(settings, name), minimum=1)


def require(folder: Path, names: Sequence[str], option: str, where: str = "") -> None:
    """Raises MissingDataError where some of the files are not in the folder."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        text = f"No {' and '.join(missing)} in {folder}; see {option}. {where}"
        raise MissingDataError(text.strip())


def as_json(settings: Any) -> dict[str, Any]:
    """The settings as plain values."""
    fields = dataclasses.asdict(settings)
    return {name: str(v) if isinstance(v, Path) else v for name, v in fields.items()}


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as the summary stores them."""
    return [row._asdict() for row in findings]


def surroundings(*also: str) -> dict[str, Any]:
    """Versions, also of further packages (None where absent), device and cores."""
    versions = {}
    for name in (*VERSIONS, *also):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    device = jax.devices()[0]
    return {
        "versions": versions | {"python": platform.python_version()},
        "device": f"{device.platform}: {device.device_kind}",
        "cpu_cores": len(os.sched_getaffinity(0)),
    }


def sha256(path: Path) -> str:
    """Digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, summary: dict[str, Any]) -> None:
    """Writes a file completely or not at all."""
    write_text(path, json.dumps(summary, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Writes a file completely or not at all; a last line break is added."""
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")
