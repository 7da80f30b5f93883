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
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from tqdm import tqdm

import esv_jax as ej
from esv_jax.batches import video_key
from esv_jax.plots import style
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.samples import Samples
from experiments.drawing import HEADING, bare
from experiments.harness import NOTHING, Finding, as_number, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.subjects import Elements, Subject
from experiments.sequences import evenly
from experiments.statistics import Mean, at, mean_of, plain, written

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
_SETS = {
    "true": "true class, mean over sequences",
    "pooled": "true class, elements of all sequences together",
    "all_classes": "all classes together, mean over sequences",
}

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


def measure(subject: Subject, settings: Settings, grid: Grid | None = None) -> Outcome:
    """The tables of one subject; where all sequences are shorter than n, of the longest ones."""
    grid = grid or (FULL if settings.full else REDUCED)
    n = min(grid.n, int(subject.lengths.max()))
    long = np.flatnonzero(subject.lengths >= n)
    elements = subject.at_centres(n, evenly(long, grid.n_sequences))
    key = jax.random.key(settings.seed)
    cells = measured_cells(subject, elements, grid.ms, grid.ks, key)
    both = cells.values, cells.exact
    true, exact = (of_true_class(x, elements.labels) for x in both)
    found = {
        "true": agreement(true, exact),
        "all_classes": agreement(*(x.reshape(*x.shape[:-2], -1) for x in both)),
        "pooled": agreement(*(x.reshape(*x.shape[:-2], 1, -1) for x in (true, exact))),
    }
    numbers = {
        "n": n,
        "wanted_n": grid.n,
        "n_sequences": len(elements.rows),
        "n_sequences_long_enough": len(long),
        "max_subsequences": list(grid.ms),
        "iterations": list(grid.ks),
        "share_of_subsequences": cells.share.tolist(),
        "heads": plain(cells.heads),
        "all_heads": cells.all_heads,
        **{
            over: {name: _mean(rows, settings) for name, rows in measures.items()}
            for over, measures in found.items()
        },
        "steps": _steps(found["true"]["relative_error"][..., :-1, :], grid, settings),
        "logits": None,
    }
    if slope_is_off(numbers):
        slopes = slopes_of_logits(subject, elements, *AT, jax.random.fold_in(key, AT[0]))
        numbers["logits"] = mean_of(slopes, settings)
    cell, row = ("max_subsequences", "iterations", "video"), ("max_subsequences", "video")
    arrays: dict[str, Any] = {
        "exact": (("video", "element"), exact),
        "algorithm_1": ((*cell, "element"), true[:, :-1]),
        "surrogate": ((*row, "element"), true[:, -1]),
        "share_of_subsequences": (cell[:2], cells.share),
    }
    for name in METRICS:
        arrays[f"{name}_algorithm_1"] = (cell, found["true"][name][:, :-1])
        arrays[f"{name}_surrogate"] = (row, found["true"][name][:, -1])
    store = stored(elements, arrays, max_subsequences=list(grid.ms), iterations=list(grid.ks))
    pictures = {"approximation": draw_tables(numbers, subject.title)}
    return Outcome(numbers, table(numbers), findings(numbers), pictures, store)


def _mean(rows: np.ndarray, settings: Settings) -> Mean:
    """Means over the last axis."""
    return mean_of(np.moveaxis(rows, -1, 0), settings)


def _steps(errors: np.ndarray, grid: Grid, settings: Settings) -> list[dict[str, Any]]:
    """Changes of the relative error (M, K, V) along both axes, paired by sequence.

    Steps: every doubling of m at every k; from the fewest to the most iterations at every m.
    """
    ms, ks = grid.ms, grid.ks
    changes = {
        f"m {ms[i]} to {ms[i + 1]}, k = {k}": errors[i + 1, j] - errors[i, j]
        for i in range(len(ms) - 1)
        for j, k in enumerate(ks)
    }
    if len(ks) > 1:
        for i, m in enumerate(ms):
            changes[f"k {ks[0]} to {ks[-1]}, m = {m}"] = errors[i, -1] - errors[i, 0]
    means = {name: mean_of(change, settings) for name, change in changes.items()}
    return [
        {"step": name, "change": found["mean"], "low": found["low"], "high": found["high"]}
        for name, found in means.items()
        if found["mean"] is not None
    ]


def measured_cells(
    subject: Subject, elements: Elements, ms: Sequence[int], ks: Sequence[int], key: jax.Array
) -> Cells:
    """Exact ESVs and those of every budget; the key of m is `fold_in(key, m)`.

    Algorithm 1 has a key per sequence, and the iterations of a cell are the first of those drawn
    for the largest k; all sequences share the surrogate's pool.
    """
    game, prior, xs, uids = subject.game, subject.trn.prior, elements.xs, elements.uids
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
    split = functools.partial(jax.random.split, num=iterations)
    return jax.jit(lambda key: jax.lax.map(lambda one: grow_samples(one, n, m), split(key)))


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
    known = {"prior": prior, "uids": elements.uids, "key": key}
    exact, approx = (
        np.asarray(ej.explain_batch(game, elements.xs, estimator=estimator, **known).values)
        for estimator in (ej.Exact(), ej.Constructive(m, k))
    )
    labels = elements.labels
    return agreement(of_true_class(approx, labels), of_true_class(exact, labels))["lad_slope"]


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


def cell_text(name: str, value: float | None) -> str:
    """A number of one measure as text."""
    if name == "relative_error":
        return "-" if value is None else per_cent(value)
    return as_number(value, ".4f" if name == "pearson" else ".3f")


def per_cent(share: float) -> str:
    """About three significant digits."""
    digits = 1 if share >= 0.1 else 2 if share >= 0.01 else 3
    return f"{100 * share:.{digits}f}"


def table(numbers: dict[str, Any]) -> str:
    """All tables."""
    ms, n = numbers["max_subsequences"], numbers["n"]
    head = ("m", *(f"k = {k}" for k in numbers["iterations"]), "Surrogate(m)")
    parts = [
        f"{numbers['n_sequences']} of {numbers['n_sequences_long_enough']} sequences,"
        f" {n} elements, true class, mean over sequences."
    ]
    texts = {
        title: [[cell_text(name, v) for v in row] for row in numbers["true"][name]["mean"]]
        for name, title in TITLES.items()
    }
    shares, heads = numbers["share_of_subsequences"], numbers["heads"]
    drawn = f"Distinct subsequences drawn (% of 2^{n} - 1)"
    texts[drawn] = [list(map(per_cent, row)) for row in shares]
    evaluated = f"Head evaluations (exact: {numbers['all_heads']:,})"
    texts[evaluated] = [[as_number(count, ",.0f") for count in row] for row in heads]
    for title, cells in texts.items():
        rows = [(m, *row) for m, row in zip(ms, cells, strict=True)]
        parts.append(f"**{title}**\n\n{markdown(head[: len(rows[0])], rows)}")
    if cell_of(numbers, "pearson") is not NOTHING:
        rows = [
            (text, *(cell_text(name, cell_of(numbers, name, over)["mean"]) for name in TITLES))
            for over, text in _SETS.items()
        ]
        parts.append(markdown((f"at {AT[0]} x {AT[1]}, taken over", *TITLES.values()), rows))
    if numbers["logits"] is not None:
        slope = written(numbers["logits"], 1, 3)
        parts.append(f"Slope at {AT[0]} x {AT[1]} of ESVs of logits: {slope}.")
    return "\n\n".join(parts)


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Steps that lower the error, and r and slope at 256 x 4."""
    n, wanted, steps = numbers["n"], numbers["wanted_n"], numbers["steps"]
    short = f"expected sequences of {wanted} elements, got at most {n}" if n < wanted else ""
    text, expected = "steps that lower the error of Algorithm 1 (%)", "all"
    if short or not steps:
        rows = [Finding(text, expected, note=short or "no steps")]
    else:
        falls = sum(step["change"] < 0 for step in steps)
        rises = sum(step["low"] is not None and step["low"] > 0 for step in steps)
        agrees = not rises and falls >= _MOST * len(steps)
        note = f"{falls} of {len(steps)} steps; {rises} rise beyond their interval"
        rows = [Finding(text, expected, 100 * falls / len(steps), agrees=agrees, note=note)]
    for measure, expected in (("pearson", ">= 0.99"), ("lad_slope", "1 +- 0.02")):
        text = f"{TITLES[measure]} of Algorithm 1 at {AT[0]} x {AT[1]}"
        found = NOTHING if short else cell_of(numbers, measure)
        note = short or "budget not measured" * (found is NOTHING)
        agrees = None
        if found["mean"] is not None:
            high, near = found["mean"] >= _CORRELATION, abs(found["mean"] - 1) <= _SLOPE
            agrees = high if measure == "pearson" else near
        rows.append(finding(text, found, agrees, expected, scale=1, note=note))
    return rows


def slope_is_off(numbers: dict[str, Any]) -> bool:
    """True where the slope at 256 x 4 is more than 0.02 from 1."""
    slope = cell_of(numbers, "lad_slope")["mean"]
    return slope is not None and abs(slope - 1) > _SLOPE


def cell_of(numbers: dict[str, Any], measure: str, over: str = "true") -> Mean:
    """A measure at 256 x 4 over one set of values; without numbers where it is not measured."""
    if AT[0] not in numbers["max_subsequences"] or AT[1] not in numbers["iterations"]:
        return NOTHING
    i, j = numbers["max_subsequences"].index(AT[0]), numbers["iterations"].index(AT[1])
    return at(numbers[over][measure], i, j)


def draw_tables(numbers: dict[str, Any], title: str) -> Any:
    """Heat maps of error, slope and r, darker far from exact; share of subsequences in grey."""
    n = numbers["n"]
    figure = style.new_figure(2 * (1.5 + 0.72 * (len(numbers["iterations"]) + 1)), 7.4)
    axes = figure.subplots(2, 2).ravel()
    for ax, (name, heading) in zip(axes, TITLES.items(), strict=False):
        means = numbers["true"][name]["mean"]
        values = np.array(means, dtype=float)  # None becomes NaN
        # Distance from exact, at least the resolution of the text.
        far = values if name == "relative_error" else np.abs(1 - values)
        texts = [[cell_text(name, value) for value in row] for row in means]
        _draw(ax, np.maximum(far, _FLOORS[name]), texts, numbers, _FAR)
        ax.set_title(heading, **HEADING)
    shares = np.array(numbers["share_of_subsequences"])
    _draw(axes[3], shares, [list(map(per_cent, row)) for row in shares], numbers, _MANY)
    drawn = f"Distinct subsequences drawn (% of 2$^{{{n}}}$ - 1)"
    axes[3].set_title(drawn, **HEADING | {"parse_math": True})
    of = f"sampled and exact ESVs of {n} elements, means of {numbers['n_sequences']} sequences"
    style.head(figure, f"{title}: {of}. Pale blue: close to exact.")
    return figure


def _draw(
    ax: Any, shade: np.ndarray, texts: list[list[str]], numbers: dict[str, Any], colours: str
) -> None:
    """A table of coloured cells with numbers, by m and k, and a column of the surrogate."""
    ms, ks = numbers["max_subsequences"], numbers["iterations"]
    known = shade[np.isfinite(shade)]
    low, high = (known.min(), known.max()) if len(known) else (1.0, 1.0)
    norm, scale = LogNorm(low, max(high, 1.5 * low)), colormaps[colours]
    every = [*range(len(ks)), len(ks) + _GAP]
    columns, edge = every[: shade.shape[1]], len(ms) - 0.5
    for j, column in enumerate(columns):
        extent = (column - 0.5, column + 0.5, edge, -0.5)
        ax.imshow(shade[:, j : j + 1], extent=extent, norm=norm, cmap=scale, aspect="auto")
        for i in range(len(ms)):
            x = shade[i, j]
            dark = np.isfinite(x) and np.array(scale(norm(x))[:3]) @ _LUMINANCE < _DARK
            look = {"color": "white" if dark else style.INK, "fontsize": style.TEXT_SIZE}
            ax.text(column, i, texts[i][j], ha="center", va="center", **look)
    ax.set_xticks(columns, [*map(str, ks), "Surrogate"][: len(columns)])
    ax.set_yticks(range(len(ms)), map(str, ms))
    ax.set(xlim=(-0.5, every[-1] + 0.5), ylim=(edge, -0.5))
    bare(ax)
    ax.set_xlabel("iterations k of Algorithm 1", x=len(ks) / 2 / (every[-1] + 1), **style.TEXT)
    ax.set_ylabel("subsequences per scale m", **style.TEXT)


if __name__ == "__main__":
    sys.exit(main("fig8", __doc__, measure))
