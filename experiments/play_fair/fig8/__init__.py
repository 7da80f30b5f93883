"""Figure 8: how many samples it takes.

Claim of the paper: the error of Algorithm 1 falls with the subsequences per scale, m, and with the
iterations, k; m = 256 and k = 4 give values nearly proportional to the exact ones (r = 0.99).

Measured on 16 elements at segment centres of sequences that have as many, 12 spread evenly over
them (100 with --full), m = 32 to 1024, k = 1, 2, 4, 10 (1 to 10). Per sequence, over the elements'
ESVs of the true class, the paper's measures: relative error mean |approx - exact| / mean |exact|,
slope of the line through the origin of least absolute deviations, Pearson's r; then the mean over
sequences. The same over the ESVs of all classes, and over the elements of all sequences together.
Share of subsequences: distinct ones that Algorithm 1 draws in all its iterations, of the 2^16 - 1
there are. Heads score those of up to n_max elements alone: head evaluations count these.
Where the slope at 256 x 4 is off it is measured on ESVs of logits too: the softmax may bend it.
Beside each row stands `Surrogate(pool=m)`, which evaluates as many heads as m x 1.

Expected: error falls at every doubling of m and from k = 1 to the largest; r >= 0.99 and a slope
within 0.02 of 1 at 256 x 4.

Settings that matter: --full, --seed (a key for each m, from it one for each sequence; the first
iterations of a larger k are those of a smaller one).

    python -m experiments.play_fair.fig8
    python -m experiments.play_fair.fig8 --subject japanese-vowels
    python -m experiments.play_fair.fig8 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig8.cells import (
    METRICS,
    Cells,
    agreement,
    measured_cells,
    of_all_classes,
    of_all_sequences,
    of_true_class,
    slopes_of_logits,
)
from experiments.play_fair.fig8.picture import draw_tables
from experiments.play_fair.fig8.words import AT, findings, slope_is_off, table
from experiments.play_fair.figure import Outcome, Settings
from experiments.play_fair.subjects import Subject


class Grid(NamedTuple):
    """How much is measured: sequences, elements of each, subsequences per scale, iterations."""

    n_sequences: int
    n: int
    ms: tuple[int, ...]
    ks: tuple[int, ...]


_MS = (32, 64, 128, 256, 512, 1024)
REDUCED = Grid(12, 16, _MS, (1, 2, 4, 10))
FULL = Grid(100, 16, _MS, tuple(range(1, 11)))


def measure(subject: Subject, settings: Settings) -> Outcome:
    """The tables of one subject."""
    return measure_grid(subject, settings, FULL if settings.full else REDUCED)


def measure_grid(subject: Subject, settings: Settings, grid: Grid) -> Outcome:
    """As `measure`, of a given size. Shorter sequences are measured as long as the longest is."""
    n = min(grid.n, int(subject.lengths.max()))
    every = subject.at_centres(n)
    count = min(grid.n_sequences, len(every.rows))
    chosen = ej.data.segment_centres(len(every.rows), count)
    elements = subject.take(every.rows[chosen], every.index[chosen])
    key = jax.random.key(settings.seed)
    cells = measured_cells(subject, elements, grid.ms, grid.ks, key)
    by_sequence = _measures(cells, elements.labels)
    numbers = {
        "n": n,
        "wanted_n": grid.n,
        "n_sequences": count,
        "n_sequences_long_enough": len(every.rows),
        "max_subsequences": list(grid.ms),
        "iterations": list(grid.ks),
        "share_of_subsequences": cells.share.tolist(),
        "heads": _plain(cells.heads),
        "all_heads": cells.all_heads,
        **_means(by_sequence),
        "intervals": _intervals(by_sequence["true"], settings),
        "steps": _steps(by_sequence["true"]["relative_error"][..., :-1, :], grid, settings),
    }
    numbers["logits"] = None
    if slope_is_off(numbers):
        slopes = slopes_of_logits(subject, elements, *AT, jax.random.fold_in(key, AT[0]))
        ends = _interval(slopes, settings)
        numbers["logits"] = [_plain(_mean(slopes)), ends["low"], ends["high"]]
    return Outcome(
        numbers,
        table(numbers),
        findings(numbers),
        {"approximation": draw_tables(numbers, subject.title)},
        _store(subject, elements, cells, by_sequence["true"], grid),
    )


def _measures(cells: Cells, labels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Each measure by what it is taken over: (M, K + 1, V), the surrogate last; V = 1 pooled."""
    exact, values = cells.exact, cells.values
    true, exact_true = of_true_class(values, labels), of_true_class(exact, labels)
    return {
        "true": agreement(true, exact_true),
        "all_classes": agreement(of_all_classes(values), of_all_classes(exact)),
        "pooled": agreement(of_all_sequences(true), of_all_sequences(exact_true)),
    }


def _means(by_sequence: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over the sequences that have a value, rows m, columns k and then the surrogate."""
    return {
        over: {name: _plain(_mean(rows)) for name, rows in found.items()}
        for over, found in by_sequence.items()
    }


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean over the last axis, NaN left out; NaN where there is nothing else."""
    there = ~np.isnan(rows)
    total, count = np.where(there, rows, 0).sum(-1), there.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _intervals(found: dict[str, np.ndarray], settings: Settings) -> dict[str, Any]:
    """95 % intervals of the means, {measure: {low, high}}; None where nothing was measured."""
    return {name: _interval(rows, settings) for name, rows in found.items()}


def _interval(rows: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Ends of 95 % bootstrap intervals of (..., V) over V."""
    flat = rows.reshape(-1, rows.shape[-1])
    low, high = np.full((2, len(flat)), np.nan)
    there = ~np.isnan(flat).all(-1)
    if there.any():
        low[there], high[there] = ej.metrics.bootstrap_interval(
            flat[there].T, key=jax.random.key(settings.seed), resamples=settings.n_resamples
        )
    shape = rows.shape[:-1]
    return {"low": _plain(low.reshape(shape)), "high": _plain(high.reshape(shape))}


def _steps(errors: np.ndarray, grid: Grid, settings: Settings) -> list[dict[str, Any]]:
    """What each step along an axis adds to the relative error (M, K, V), paired by sequence.

    Steps: every doubling of m at every k; from the fewest to the most iterations at every m.
    """
    names, change = [], []
    for i in range(len(grid.ms) - 1):
        for j, k in enumerate(grid.ks):
            names.append(f"m {grid.ms[i]} to {grid.ms[i + 1]}, k = {k}")
            change.append(errors[i + 1, j] - errors[i, j])
    if len(grid.ks) > 1:
        for i, m in enumerate(grid.ms):
            names.append(f"k {grid.ks[0]} to {grid.ks[-1]}, m = {m}")
            change.append(errors[i, -1] - errors[i, 0])
    if not change:
        return []
    rows = np.array(change)
    ends, means = _interval(rows, settings), _plain(_mean(rows))
    return [
        {"step": name, "change": mean, "low": low, "high": high}
        for name, mean, low, high in zip(names, means, ends["low"], ends["high"], strict=True)
        if mean is not None
    ]


def _plain(values: np.ndarray) -> Any:
    """Nested lists, None in the place of NaN."""
    return np.where(np.isnan(values), None, values.astype(object)).tolist()


def _store(
    subject: Subject, elements: Any, cells: Cells, found: dict[str, np.ndarray], grid: Grid
) -> xarray.Dataset:
    """ESVs of the true class behind the tables, and the measures of each sequence."""
    cell, row = ("max_subsequences", "iterations", "video"), ("max_subsequences", "video")
    true = of_true_class(cells.values, elements.labels)
    arrays: dict[str, Any] = {
        "exact": (("video", "element"), of_true_class(cells.exact, elements.labels)),
        "algorithm_1": ((*cell, "element"), true[:, :-1]),
        "surrogate": ((*row, "element"), true[:, -1]),
        "share_of_subsequences": (cell[:2], cells.share),
        "index": (("video", "element"), elements.index),
        "label": (("video",), elements.labels),
    }
    for name in METRICS:
        arrays[f"{name}_algorithm_1"] = (cell, found[name][:, :-1])
        arrays[f"{name}_surrogate"] = (row, found[name][:, -1])
    return xarray.Dataset(
        arrays,
        coords={
            "video": [subject.uids[i] for i in elements.rows],
            "max_subsequences": list(grid.ms),
            "iterations": list(grid.ks),
        },
    )
