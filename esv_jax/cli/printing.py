"""Printed output of the commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from esv_jax.extras import require

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes; 130 as by shells after Ctrl-C
ROWS = 20  # printed of a table that is in a file


def say(text: str) -> None:
    """Print a line on the standard output."""
    print(text, flush=True)


def complain(text: str) -> None:
    """Print an error as one line on the standard error."""
    print(f"esv-jax: {' '.join(text.split())}", file=sys.stderr)


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
    shown = rich_table.Table(title=title, title_justify="left")
    for k, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[k]) for row in rows)
        first = {"no_wrap": True, "max_width": 60, "overflow": "ellipsis"} if k == 0 else {}
        shown.add_column(column, justify="right" if numeric else "left", **first)
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
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
    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr)


def signed(value: float) -> str:
    """Format a value with its sign and three decimals."""
    return f"{value:+.3f}"
