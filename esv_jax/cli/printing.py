"""Printed output of the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from esv_jax.extras import require

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes; 130 as by shells after Ctrl-C
ROWS = 20  # printed of a table that is in a file

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Escape control characters other than line feeds, such as those of names in foreign files."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def say(text: str) -> None:
    """Print text on the standard output."""
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """Print an error as one line on the standard error."""
    print(f"esv-jax: {printable(' '.join(text.split()))}", file=sys.stderr)


def exit_code(errors: Iterable[str]) -> int:
    """Print errors, one line each; return the exit code of the command."""
    errors = list(errors)
    for text in errors:
        complain(text)
    return BAD_INPUT if errors else 0


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    n: int = 0,
    file: str = "",
) -> None:
    """Print a table, numbers aligned to the right.

    If `file` holds all `n` rows, only the first `ROWS` are printed.
    """
    rich_table = require("rich.table", "cli")
    rich_console = require("rich.console", "cli")
    rows = [list(row) for row in rows]
    if file and n > ROWS:
        title += f" (first {ROWS} of {n}; all in {file})"
        rows = rows[:ROWS]
    shown = rich_table.Table(title=printable(title), title_justify="left")
    for k, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[k]) for row in rows)
        first = {"no_wrap": True, "max_width": 60, "overflow": "ellipsis"} if k == 0 else {}
        shown.add_column(printable(column), justify="right" if numeric else "left", **first)
    for row in rows:
        shown.add_row(*(printable(str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 120  # piped output needs no narrow default
    rich_console.Console(width=width, highlight=False, markup=False).print(shown)


def _is_number(cell: object) -> bool:
    try:
        float(str(cell).replace("%", "").replace(",", ""))
    except ValueError:
        return False
    return True


def progress(total: int, description: str, unit: str) -> Any:
    """Return a progress bar on the standard error: a context manager with `update(steps)`."""
    tqdm = require("tqdm", "cli").tqdm
    return tqdm(total=total, desc=printable(description), unit=unit, file=sys.stderr)


def signed(value: float) -> str:
    """Format a value with its sign and three decimals."""
    return f"{value:+.3f}"
