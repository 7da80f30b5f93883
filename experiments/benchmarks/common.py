"""Timing, printing and stored numbers of the benchmarks."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.harness import write_json

Calls = Mapping[str, Callable[[], Any]]


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, with all JAX arrays of its result computed."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_turns(calls: Calls, repeats: int) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Times of calls that take turns, so that other load slows all of them alike.

    Returns:
      Times of the first calls, which compile, and of `repeats` rounds.
    """
    first = {name: seconds(call) for name, call in calls.items()}
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return first, rounds


def median(rounds: list[dict[str, float]], name: str, base: str | None = None) -> float:
    """Median over rounds of a time, or of its ratio to another."""
    return statistics.median(turn[name] / (turn[base] if base else 1) for turn in rounds)


class Table:
    """Cases of a benchmark, printed as a Markdown table while they are added.

    Args:
      columns: heading -> format of a case's values, e.g. "{median_s:.2f} s"; "-" where a value is
        absent or None.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns, self.rows = columns, list[dict[str, Any]]()

    def add(self, row: dict[str, Any]) -> None:
        """Prints a case, below the head of the table where it is the first."""
        if not self.rows:
            self._print(self.columns)
            self._print(["---"] * len(self.columns))
        self.rows.append(row)
        known = {name: value for name, value in row.items() if value is not None}
        self._print([_formatted(text, known) for text in self.columns.values()])

    def store(self, path: Path | None, **about: Any) -> None:
        """Writes all cases with the machine and `about`; nothing without a path."""
        if path is not None:
            machine = {
                "device": str(jax.devices()[0].device_kind),
                "cores": len(os.sched_getaffinity(0)),
                "jax": jax.__version__,
                "python": platform.python_version(),
            }
            write_json(path, {"about": machine | about, "cases": self.rows})

    @staticmethod
    def _print(cells: Any) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)


def _formatted(text: str, values: Mapping[str, Any]) -> str:
    try:
        return text.format(**values)
    except KeyError:
        return "-"
