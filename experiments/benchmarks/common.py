"""Timing, printing and stored numbers of the benchmarks."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments.harness import as_json, surroundings, write_json

Calls = Mapping[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Common:
    """Settings of every benchmark."""

    out: Path | None = None
    """JSON file for the numbers; default none."""


@dataclasses.dataclass(frozen=True)
class Repeated(Common):
    """Settings of a benchmark that repeats its calls."""

    repeats: int = 5
    """Timed calls of a case, after one that is not (it compiles); medians are reported."""


S = TypeVar("S", bound=Common)


def command(
    kind: type[S],
    about: str | None,
    cases: Callable[[S], Iterable[dict[str, Any]]],
    *packages: str,
) -> None:
    """Runs a benchmark from the command line.

    Args:
      kind: class of the settings. about: the module's docstring.
      cases: settings -> numbers of each case. They are printed as a Markdown table while they are
        measured; `out` stores them, with nested ones, settings and machine.
      packages: further ones whose versions are stored.
    """
    settings, rows = tyro.cli(kind, description=about), []
    for row in cases(settings):
        shown = {name: v for name, v in row.items() if not isinstance(v, list | dict)}
        if not rows:
            print(f"| {' | '.join(shown)} |\n{'| --- ' * len(shown)}|")
        cells = (f"{v:.4g}" if isinstance(v, float) else v for v in shown.values())
        print(f"| {' | '.join('-' if v is None else str(v) for v in cells)} |", flush=True)
        rows.append(row)
    if settings.out is not None:
        machine = surroundings(*packages) | {"load": os.getloadavg()[0]}
        write_json(settings.out, {"settings": as_json(settings), **machine, "cases": rows})


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, with all JAX arrays of its result computed."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median and least of several times."""
    return {"median_s": statistics.median(times), "min_s": min(times)}


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
