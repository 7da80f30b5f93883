"""Printed output of the commands: tables, errors, paths of files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from esv_jax.extras import require

BAD_INPUT = 2  # exit code


def say(text: str) -> None:
    """One line for the user, on the standard output."""
    print(text, flush=True)


def complain(text: str) -> None:
    """An error as one line, on the standard error."""
    print(f"esv-jax: {' '.join(text.split())}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; numbers are set to the right."""
    rich_table = require("rich.table", "cli")
    rich_console = require("rich.console", "cli")
    rows = [list(row) for row in rows]
    shown = rich_table.Table(title=title, title_justify="left")
    for k, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[k]) for row in rows)
        first = {"no_wrap": True, "max_width": 60, "overflow": "ellipsis"} if k == 0 else {}
        shown.add_column(column, justify="right" if numeric else "left", **first)
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 120  # piped output needs no narrow default
    rich_console.Console(width=width, highlight=False, markup=False).print(shown)


def _is_number(cell: Any) -> bool:
    try:
        float(str(cell).replace("%", "").replace(",", ""))
    except ValueError:
        return False
    return True


def progress(total: int, description: str, unit: str) -> Any:
    """A progress bar on the standard error: a context manager with `update(steps)`."""
    tqdm = require("tqdm", "cli").tqdm
    return tqdm(total=total, desc=description, unit=unit, file=sys.stderr)


def signed(value: float) -> str:
    """An ESV with its sign, three decimals."""
    return f"{value:+.3f}"
