"""Figure 8: error of sampled ESVs by number of samples.

Claim of the paper: the error of Algorithm 1 falls with the subsequences per scale, m, and with the
iterations, k; m = 256 and k = 4 give values nearly proportional to the exact ones (r = 0.99).

Measured on 16 elements at segment centres of sequences that are long enough, 12 evenly spaced (100
with --full), m = 32 to 1024, k = 1, 2, 4, 10 (1 to 10). Per sequence, over the ESVs of the true
class, the paper's measures: relative error mean |approx - exact| / mean |exact|, slope of the line
of least absolute deviations through the origin, Pearson's r; then the mean over sequences. The same
over the ESVs of all classes, and over the elements of all sequences together. Share of
subsequences: distinct ones that Algorithm 1 draws in all iterations, of the 2^16 - 1. Head
evaluations count those of up to n_max elements. Where the slope at 256 x 4 is off it is also
measured on ESVs of logits, which no softmax bends. `Surrogate(pool=m)` evaluates as many heads as
m x 1.

Agrees: at least 90 % of the steps lower the error, and none raises it beyond its interval (steps:
every doubling of m, and the fewest to the most iterations); r >= 0.99 and a slope within 0.02 of 1
at 256 x 4, by the means.

Settings that matter: --full, --seed (a key for each m, from it one for each sequence; the first
iterations of a larger k are those of a smaller one).

    python -m experiments.play_fair.fig8
    python -m experiments.play_fair.fig8 --subject japanese-vowels
    python -m experiments.play_fair.fig8 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from tqdm import tqdm

import esv_jax as ej
from esv_jax.batches import video_key
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.samples import Samples
from experiments.harness import Finding, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.subjects import Elements, Subject
from experiments.statistics import Mean, mean_of, plain, written

METRICS = ("relative_error", "lad_slope", "pearson")
TITLES = {
    "relative_error": "Relative error (%)",
    "lad_slope": "LAD slope",
    "pearson": "Pearson r",
}
AT = (256, 4)  # budget of the paper's r and slope
_CORRELATION, _SLOPE = 0.99, 0.02
_MOST = 0.9  # share of steps that fall
_ALIKE = 1e-6  # relative range of values that differ by rounding alone
_MIN_SURROGATE = 3  # elements

_FAR, _MANY = "Blues", "Greys"  # one hue each, independent of colour vision
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (BT.709)
_DARK = 0.52  # luminance; on darker cells the text is white
_GAP = 0.35  # columns between Algorithm 1 and the surrogate
_FLOORS = {"relative_error": 1e-5, "lad_slope": 1e-3, "pearson": 1e-5}  # resolution of the text


class Grid(NamedTuple):
    """Size of a measurement: sequences, elements, subsequences per scale, iterations."""

    n_sequences: int
    n: int
    ms: tuple[int, ...]
    ks: tuple[int, ...]


_MS = (32, 64, 128, 256, 512, 1024)
REDUCED = Grid(12, 16, _MS, (1, 2, 4, 10))
FULL = Grid(100, 16, _MS, tuple(range(1, 11)))


class Cells(NamedTuple):
    """ESVs of V sequences of n elements, by M numbers of subsequences and K of iterations.

    Attributes:
      exact: (V, n, C). values: (M, K + 1, V, n, C), Algorithm 1, then the surrogate, which is
        NaN for sequences too short for it.
      heads: (M, K + 1) distinct head evaluations, mean over sequences.
      all_heads: those of exact ESVs.
      share: (M, K) distinct subsequences drawn, as a share of the 2^n - 1, mean over sequences.
    """

    exact: np.ndarray
    values: np.ndarray
    heads: np.ndarray
    all_heads: int
    share: np.ndarray


def measure(subject: Subject, settings: Settings) -> Outcome:
    """The tables of one subject."""
    return measure_grid(subject, settings, FULL if settings.full else REDUCED)


def measure_grid(subject: Subject, settings: Settings, grid: Grid) -> Outcome:
    """Tables of a given size; where all sequences are shorter than n, of the longest ones."""
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
        "heads": plain(cells.heads),
        "all_heads": cells.all_heads,
        **{
            over: {name: _mean(rows, settings) for name, rows in found.items()}
            for over, found in by_sequence.items()
        },
        "steps": _steps(by_sequence["true"]["relative_error"][..., :-1, :], grid, settings),
    }
    numbers["logits"] = None
    if slope_is_off(numbers):
        slopes = slopes_of_logits(subject, elements, *AT, jax.random.fold_in(key, AT[0]))
        numbers["logits"] = mean_of(slopes, settings)
    return Outcome(
        numbers,
        table(numbers),
        findings(numbers),
        {"approximation": draw_tables(numbers, subject.title)},
        _store(subject, elements, cells, by_sequence["true"], grid),
    )


def _measures(cells: Cells, labels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Each measure (M, K + 1, V), over three sets of values; V = 1 where pooled."""
    exact, values = cells.exact, cells.values
    true, exact_true = of_true_class(values, labels), of_true_class(exact, labels)
    return {
        "true": agreement(true, exact_true),
        "all_classes": agreement(of_all_classes(values), of_all_classes(exact)),
        "pooled": agreement(of_all_sequences(true), of_all_sequences(exact_true)),
    }


def _mean(rows: np.ndarray, settings: Settings) -> Mean:
    """Means over the last axis."""
    return mean_of(np.moveaxis(rows, -1, 0), settings)


def _steps(errors: np.ndarray, grid: Grid, settings: Settings) -> list[dict[str, Any]]:
    """Changes of the relative error (M, K, V) along both axes, paired by sequence.

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
    found = _mean(np.array(change), settings)
    parts = (found[part] for part in ("mean", "low", "high"))
    return [
        {"step": name, "change": mean, "low": low, "high": high}
        for name, mean, low, high in zip(names, *parts, strict=True)
        if mean is not None
    ]


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


def measured_cells(
    subject: Subject, elements: Elements, ms: Sequence[int], ks: Sequence[int], key: jax.Array
) -> Cells:
    """Exact ESVs and those of every budget; the key of m is `fold_in(key, m)`.

    Algorithm 1 has a key per sequence, and the iterations of a cell are the first of those drawn
    for the largest k; all sequences share the surrogate's pool.
    """
    uids = [subject.uids[i] for i in elements.rows]
    game, prior, xs = subject.game, subject.trn.prior, elements.xs
    explained = functools.partial(ej.explain_batch, game, xs, prior=prior, uids=uids)
    exact = explained(estimator=ej.Exact())
    shape = (len(ms), len(ks) + 1)
    values = np.full((*shape, *exact.values.shape), np.nan, np.float32)
    heads, share = np.full(shape, np.nan), np.zeros((len(ms), len(ks)))
    with tqdm(total=len(ms) * (len(xs) + 1), desc="sampled ESVs", unit="sequence") as progress:
        for i, m in enumerate(ms):
            own = jax.random.fold_in(key, m)
            grow = _grower(xs.shape[1], m, max(ks))
            evaluated = np.zeros((len(ks), len(xs)))
            for v, uid in enumerate(uids):
                samples = grow(video_key(own, uid))
                share[i] += np.array(shares_drawn(samples, ks)) / len(xs)
                for j, k in enumerate(ks):
                    found = _replayed(subject, xs[v], samples, m, k)
                    values[i, j, v] = found.values
                    evaluated[j, v] = found.n_evaluations
                progress.update()
            heads[i, :-1] = evaluated.mean(-1)
            if xs.shape[1] >= _MIN_SURROGATE:
                found = explained(estimator=ej.Surrogate(pool=m), key=own)
                values[i, -1], heads[i, -1] = found.values, np.mean(found.n_evaluations)
            progress.update()
    return Cells(np.asarray(exact.values), values, heads, int(exact.n_evaluations[0]), share)


def _grower(n: int, m: int, iterations: int) -> Any:
    """Compiled function of a key that draws the samples of `Constructive(m, iterations)`."""

    @jax.jit
    def grow(key: jax.Array) -> Samples:
        keys = jax.random.split(key, iterations)
        return jax.lax.map(lambda key: grow_samples(key, n, m), keys)

    return grow


def _replayed(subject: Subject, x: np.ndarray, samples: Samples, m: int, k: int) -> ej.Attribution:
    """Algorithm 1 on the first k iterations.

    The others stay in the plan without valid rows: one compiled program serves every k.
    """
    iterations = len(samples.valid)
    kept = (jnp.arange(iterations) < k)[:, None, None]
    plan = ej.SubsequencePlan(Samples(samples.member & kept[..., None], samples.valid & kept))
    estimator = ej.Constructive(m, iterations)
    prior = subject.trn.prior
    return ej.explain(subject.game, x, prior=prior, estimator=estimator, plan=plan, marginals=False)


def slopes_of_logits(
    subject: Subject, elements: Elements, m: int, k: int, key: jax.Array
) -> np.ndarray:
    """LAD slope of each sequence, (V,), of ESVs of logits; the prior is the log prior."""
    game = ej.MultiScale(subject.trn.heads, link="identity")
    prior = np.log(np.maximum(subject.trn.prior, 1e-6))
    names = [subject.uids[i] for i in elements.rows]
    explained = functools.partial(
        ej.explain_batch, game, elements.xs, prior=prior, uids=names, key=key
    )
    exact, approx = (
        of_true_class(np.asarray(explained(estimator=estimator).values), elements.labels)
        for estimator in (ej.Exact(), ej.Constructive(m, k))
    )
    return agreement(approx, exact)["lad_slope"]


def shares_drawn(samples: Samples, ks: Sequence[int]) -> list[float]:
    """Distinct subsequences in the first k iterations, as shares of the 2^n - 1 there are."""
    n = samples.member.shape[-1]
    codes = np.asarray(samples.member).astype(np.int64) @ (1 << np.arange(n, dtype=np.int64))
    valid = np.asarray(samples.valid)
    return [len(np.unique(codes[:k][valid[:k]])) / (2**n - 1) for k in ks]


def agreement(approx: np.ndarray, exact: np.ndarray) -> dict[str, np.ndarray]:
    """The paper's three measures of values (..., V, n) against exact (V, n): (..., V) float64.

    NaN where a measure is undefined: values that are NaN, exact values that are all zero, or, for
    r, all equal.
    """
    exact = np.broadcast_to(exact, approx.shape)
    there = ~np.isnan(approx).any(-1)
    known = np.where(there[..., None], approx, 0)
    found = {name: np.asarray(getattr(ej.metrics, name)(known, exact), float) for name in METRICS}
    alike = np.ptp(exact, axis=-1) <= _ALIKE * np.abs(exact).max(-1)
    found["pearson"] = np.where(alike, np.nan, found["pearson"])
    return {n: np.where(there & np.isfinite(rows), rows, np.nan) for n, rows in found.items()}


def of_true_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(..., V, n, C) -> (..., V, n)."""
    index = labels.reshape(*(1,) * (values.ndim - 3), -1, 1, 1)
    return np.take_along_axis(values, index, axis=-1)[..., 0]


def of_all_classes(values: np.ndarray) -> np.ndarray:
    """(..., V, n, C) -> (..., V, n C): the values of all classes side by side."""
    return values.reshape(*values.shape[:-2], -1)


def of_all_sequences(values: np.ndarray) -> np.ndarray:
    """(..., V, n) -> (..., 1, V n): the elements of all sequences in one row."""
    return values.reshape(*values.shape[:-2], 1, -1)


def cell_text(name: str, value: float | None) -> str:
    """A number of one measure as text."""
    if value is None:
        return "-"
    if name == "pearson":
        return f"{value:.4f}"
    if name == "lad_slope":
        return f"{value:.3f}"
    return per_cent(value)


def per_cent(share: float) -> str:
    """About three significant digits."""
    share *= 100
    digits = 1 if share >= 10 else 2 if share >= 1 else 3
    return f"{share:.{digits}f}"


def table(numbers: dict[str, Any]) -> str:
    """All tables."""
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    head = ("m", *(f"k = {k}" for k in ks), "Surrogate(m)")
    parts = [
        f"{numbers['n_sequences']} of {numbers['n_sequences_long_enough']} sequences,"
        f" {numbers['n']} elements, true class, mean over sequences."
    ]
    for name, title in TITLES.items():
        rows = [
            (m, *(cell_text(name, value) for value in row))
            for m, row in zip(ms, numbers["true"][name]["mean"], strict=True)
        ]
        parts.append(f"**{title}**\n\n{markdown(head, rows)}")
    shares = zip(ms, numbers["share_of_subsequences"], strict=True)
    rows = [(m, *map(per_cent, row)) for m, row in shares]
    title = f"**Distinct subsequences drawn (% of 2^{numbers['n']} - 1)**"
    parts.append(f"{title}\n\n{markdown(head[:-1], rows)}")
    heads = zip(ms, numbers["heads"], strict=True)
    rows = [(m, *(_count(count) for count in row)) for m, row in heads]
    title = f"**Head evaluations (exact: {numbers['all_heads']:,})**"
    parts.append(f"{title}\n\n{markdown(head, rows)}")
    if _has_budget(numbers):
        parts.append(_other_sets(numbers))
    if numbers["logits"] is not None:
        slope = written(numbers["logits"], 1, 3)
        parts.append(f"Slope at {AT[0]} x {AT[1]} of ESVs of logits: {slope}.")
    return "\n\n".join(parts)


def _count(count: float | None) -> str:
    return "-" if count is None else f"{count:,.0f}"


def _other_sets(numbers: dict[str, Any]) -> str:
    """The three measures at 256 x 4, over three sets of values."""
    i, j = _index(numbers)
    names = {
        "true": "true class, mean over sequences",
        "pooled": "true class, elements of all sequences together",
        "all_classes": "all classes together, mean over sequences",
    }
    rows = [
        (title, *(cell_text(name, numbers[over][name]["mean"][i][j]) for name in TITLES))
        for over, title in names.items()
    ]
    head = (f"at {AT[0]} x {AT[1]}, taken over", *TITLES.values())
    return markdown(head, rows)


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Steps that lower the error, and r and slope at 256 x 4."""
    rows = [_falling(numbers)]
    short = _too_short(numbers) or ("" if _has_budget(numbers) else "budget not measured")
    for measure, expected in (("pearson", ">= 0.99"), ("lad_slope", "1 +- 0.02")):
        text = f"{TITLES[measure]} of Algorithm 1 at {AT[0]} x {AT[1]}"
        if short:
            rows.append(Finding(text, expected, note=short))
            continue
        found = cell_of(numbers, measure)
        mean = found["mean"]
        if mean is None:
            agrees = None
        elif measure == "pearson":
            agrees = mean >= _CORRELATION
        else:
            agrees = abs(mean - 1) <= _SLOPE
        rows.append(finding(text, found, agrees, expected, scale=1))
    return rows


def _falling(numbers: dict[str, Any]) -> Finding:
    steps = numbers["steps"]
    text, expected = "steps that lower the error of Algorithm 1 (%)", "all"
    short = _too_short(numbers) or ("" if steps else "no steps")
    if short:
        return Finding(text, expected, note=short)
    falls = sum(step["change"] < 0 for step in steps)
    rises = sum(step["low"] is not None and step["low"] > 0 for step in steps)
    agrees = not rises and falls >= _MOST * len(steps)
    note = f"{falls} of {len(steps)} steps; {rises} rise beyond their interval"
    return Finding(text, expected, 100 * falls / len(steps), agrees=agrees, note=note)


def slope_is_off(numbers: dict[str, Any]) -> bool:
    """True where the slope at 256 x 4 is more than 0.02 from 1."""
    if not _has_budget(numbers):
        return False
    slope = cell_of(numbers, "lad_slope")["mean"]
    return slope is not None and abs(slope - 1) > _SLOPE


def cell_of(numbers: dict[str, Any], measure: str) -> Mean:
    """A measure of the true class at 256 x 4."""
    i, j = _index(numbers)
    found = numbers["true"][measure]
    return {part: found[part][i][j] for part in ("mean", "low", "high")}


def _too_short(numbers: dict[str, Any]) -> str:
    n, wanted = numbers["n"], numbers["wanted_n"]
    return f"expected sequences of {wanted} elements, got at most {n}" if n < wanted else ""


def _has_budget(numbers: dict[str, Any]) -> bool:
    return AT[0] in numbers["max_subsequences"] and AT[1] in numbers["iterations"]


def _index(numbers: dict[str, Any]) -> tuple[int, int]:
    return numbers["max_subsequences"].index(AT[0]), numbers["iterations"].index(AT[1])


def draw_tables(numbers: dict[str, Any], title: str) -> Any:
    """Heat maps of error, slope and r, darker far from exact; share of subsequences in grey."""
    ks = numbers["iterations"]
    figure = new_figure(2 * (1.5 + 0.72 * (len(ks) + 1)), 7.4)
    axes = figure.subplots(2, 2).ravel()
    look = {"fontsize": style.TITLE_SIZE, "fontweight": "bold", "color": style.INK}
    for ax, (name, heading) in zip(axes, TITLES.items(), strict=False):
        means = numbers["true"][name]["mean"]
        values = np.array(means, dtype=float)  # None becomes NaN
        texts = [[cell_text(name, value) for value in row] for row in means]
        _draw(ax, _distance(name, values), texts, numbers, _FAR, surrogate=True)
        ax.set_title(heading, loc="left", **look)
    shares = np.array(numbers["share_of_subsequences"])
    texts = [list(map(per_cent, row)) for row in shares]
    _draw(axes[3], shares, texts, numbers, _MANY, surrogate=False)
    axes[3].set_title(
        f"Distinct subsequences drawn (% of 2$^{{{numbers['n']}}}$ - 1)", loc="left", **look
    )
    text = (
        f"{title}: sampled and exact ESVs of {numbers['n']} elements, means of"
        f" {numbers['n_sequences']} sequences. Pale blue: close to exact."
    )
    style.head(figure, text)
    return figure


def _draw(
    ax: Any,
    shade: np.ndarray,
    texts: list[list[str]],
    numbers: dict[str, Any],
    colours: str,
    *,
    surrogate: bool,
) -> None:
    """A table of coloured cells with numbers, by m and k, and a column of the surrogate."""
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    known = shade[np.isfinite(shade)]
    low, high = (known.min(), known.max()) if len(known) else (1.0, 1.0)
    norm, scale = LogNorm(low, max(high, 1.5 * low)), colormaps[colours]
    every = [*range(len(ks)), len(ks) + _GAP]
    columns = every[: shade.shape[1]]
    edge = len(ms) - 0.5
    for j, column in enumerate(columns):
        extent = (column - 0.5, column + 0.5, edge, -0.5)
        ax.imshow(shade[:, j : j + 1], extent=extent, norm=norm, cmap=scale, aspect="auto")
        for i in range(len(ms)):
            shown = (
                np.array(scale(norm(shade[i, j]))[:3]) if np.isfinite(shade[i, j]) else np.ones(3)
            )
            colour = "white" if shown @ _LUMINANCE < _DARK else style.INK
            where = {"ha": "center", "va": "center", "fontsize": style.TEXT_SIZE}
            ax.text(column, i, texts[i][j], color=colour, **where)
    labels = [str(k) for k in ks] + ["Surrogate"] * surrogate
    ax.set_xticks(columns, labels)
    ax.set_yticks(range(len(ms)), [str(m) for m in ms])
    ax.set_xlim(-0.5, every[-1] + 0.5)
    ax.set_ylim(edge, -0.5)
    ax.tick_params(length=0, labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("iterations k of Algorithm 1", x=len(ks) / 2 / (every[-1] + 1), **style.TEXT)
    ax.set_ylabel("subsequences per scale m", **style.TEXT)


def _distance(name: str, values: np.ndarray) -> np.ndarray:
    """Distance from exact: the error, |slope - 1| or 1 - r; at least the text's resolution."""
    far = values if name == "relative_error" else np.abs(1 - values)
    return np.maximum(far, _FLOORS[name])


if __name__ == "__main__":
    sys.exit(main("fig8", __doc__, measure))
