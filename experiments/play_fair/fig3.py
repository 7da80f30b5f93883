"""Figure 3: accuracy and class score while elements are dropped in the order of each method.

Claims of the paper: dropping the frames of highest ESV first lowers the score of the true class
faster than the orders of Integrated Gradients and Grad-CAM (a); dropping those of lowest ESV first
raises accuracy, by 20 % with 4 of 8 frames left, against 8 % and 7 % (b); orders by position alone
do worse (c).

Measured: attributions of the true class by every method, for each sequence that has `n_elements`.
Elements are dropped one by one, the highest or the lowest value first, and the model scores the
rest: accuracy, and mean probability of the true class. A lead of ESV is the paired difference on
the same sequences, positive where ESV is better: lower in descending order, higher in ascending.
Areas are means over the points of a curve. Intervals are 95 % bootstrap over sequences.

Each finding is the lead over the nearest of the methods named. Agrees: the intervals of ESV and of
every method named do not overlap, ESV on the right side; for the gain, its interval lies above 0.
Fewer than 5 sequences are not compared. Expected: a lead early in descending order and none at its
end; little gain where the model is nearly always right. The first drop of leave-one-out is optimal
for the class score.

Settings that matter: n_elements (8), of which half are dropped; at most 1,000 sequences, evenly
spaced; full takes all.

    python -m experiments.play_fair.fig3
    python -m experiments.play_fair.fig3 --subject japanese-vowels
    python -m experiments.play_fair.fig3 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
import xarray

import esv_jax as ej
from esv_jax.metrics.discard import DiscardCurve
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.harness import Finding, above, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.methods import METHODS, all_values
from experiments.play_fair.subjects import Elements, Subject
from experiments.statistics import Mean, at, mean_of, plain, written

Order = Literal["descending", "ascending"]
Measure = Literal["accuracy", "class_score"]
Point: TypeAlias = "int | Literal['area']"
Curves: TypeAlias = "dict[str, dict[Order, DiscardCurve]]"

ORDERS: tuple[Order, ...] = ("descending", "ascending")
MEASURES: tuple[Measure, ...] = ("accuracy", "class_score")
NAMES = {"accuracy": "accuracy", "class_score": "class score"}
FIRST = {"descending": "highest first", "ascending": "lowest first"}
SIGN = {"descending": -1, "ascending": 1}  # of a difference by which ESV is ahead

OTHERS = tuple(method for method in METHODS if method != "ESV")
PAPERS = ("Integrated Gradients", "Grad-CAM")
BY_POSITION = ("centre-out", "edges-in", "random")
OF_MODEL = tuple(method for method in OTHERS if method not in BY_POSITION)

_FEWEST = 5  # sequences that are compared
_MOST = 1000  # sequences of the reduced size

# the paper's value, group, its methods, order, measure, at half or by area
_COMPARISONS: tuple[tuple[str, str, tuple[str, ...], Order, Measure, str], ...] = (
    ("lowest curve", "IG and Grad-CAM", PAPERS, "descending", "accuracy", "half"),
    ("", "every other method", OTHERS, "descending", "accuracy", "half"),
    ("", "every other method", OTHERS, "descending", "class_score", "half"),
    ("", "every other method", OTHERS, "descending", "accuracy", "area"),
    ("", "every other method", OTHERS, "descending", "class_score", "area"),
    ("+12 and +13 points", "IG and Grad-CAM", PAPERS, "ascending", "accuracy", "half"),
    ("", "every other method", OTHERS, "ascending", "class_score", "half"),
    ("", "every other method", OTHERS, "ascending", "class_score", "area"),
    ("", "orders by position", BY_POSITION, "descending", "accuracy", "half"),
)

# Colours of Okabe & Ito (2008); markers tell methods apart without them.
_LOOK = {
    "ESV": ("#0072B2", "o"),
    "Integrated Gradients": ("#D55E00", "s"),
    "Grad-CAM": ("#009E73", "^"),
    "gradient x input": ("#CC79A7", "v"),
    "leave-one-out": ("#E69F00", "D"),
    "leave-one-in": ("#56B4E9", "P"),
}
_AXES = {"accuracy": "accuracy (%)", "class_score": "mean score of the true class (%)"}
# Of the third column: label, method, order, colour, marker, line
_BASELINES: tuple[tuple[str, str, Order, str, str, str], ...] = (
    ("ESV, lowest first", "ESV", "ascending", "#0072B2", "o", "--"),
    ("ends first", "edges-in", "descending", "#009E73", "^", "-"),
    ("at random", "random", "descending", style.QUIET, "s", "-"),
    ("centre first", "centre-out", "descending", "#E69F00", "D", "-"),
    ("ESV, highest first", "ESV", "descending", "#0072B2", "o", "-"),
)


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Discard curves of every method in both orders, and the leads of ESV."""
    n, longest = settings.n_elements, int(subject.lengths.max())
    if n < 2 or longest < n:
        why = f"expected sequences of at least {max(n, 2)} elements, got at most {longest}"
        why = why if n >= 2 else "expected at least 2 elements"
        return Outcome({"n_elements": n}, why, not_measured(why), {})
    elements = _limited(subject, subject.at_centres(n), full=settings.full)
    values = all_values(subject, elements, settings.seed)
    curves = curves_of(subject.game, subject.trn.prior, elements, values)
    numbers: dict[str, Any] = {
        "n_sequences": len(elements.rows),
        "n_elements": n,
        "half": n // 2,
        "curves": {
            method: {order: numbers_of(curves[method][order], settings) for order in ORDERS}
            for method in METHODS
        },
        "gain": {method: gain_of(curves[method]["ascending"], settings) for method in METHODS},
        "lead": leads_of(curves, settings),
    }
    numbers["all_elements"] = {
        name: point_of(numbers["curves"]["ESV"]["ascending"][name], 0) for name in MEASURES
    }
    title = f"{subject.title}, {len(elements.rows):,} sequences of {n} elements"
    return Outcome(
        numbers,
        _table(numbers),
        findings(numbers),
        {
            "discard": plot_curves(numbers, title),
            "lead": plot_leads(numbers, title),
        },
        _store(subject, elements, values, curves),
    )


def _limited(subject: Subject, elements: Elements, *, full: bool) -> Elements:
    """All elements, or those of at most 1,000 sequences."""
    v = len(elements.rows)
    if full or v <= _MOST:
        return elements
    keep = ej.data.segment_centres(v, _MOST)
    return subject.take(elements.rows[keep], elements.index[keep])


def curves_of(
    game: Any, prior: np.ndarray, elements: Elements, values: dict[str, np.ndarray]
) -> Curves:
    """Discard curves of every method in both orders."""
    return {
        method: {
            order: ej.metrics.discard_curve(
                game, elements.xs, ranking, elements.labels, prior=prior, order=order
            )
            for order in ORDERS
        }
        for method, ranking in values.items()
    }


def numbers_of(curve: DiscardCurve, settings: Settings) -> dict[str, Any]:
    """Means with intervals of a curve: lists over points, and "area", by measure."""
    key = jax.random.key(settings.seed)
    ends = curve.interval(key=key, resamples=settings.n_resamples)
    return {
        name: _plain(getattr(curve, name), *getattr(ends, name))
        | {"area": _plain(getattr(curve.auc, name), *getattr(ends, f"{name}_auc"))}
        for name in MEASURES
    }


def gain_of(curve: DiscardCurve, settings: Settings) -> dict[str, Any]:
    """Change of each measure on dropping half of the elements, paired by sequence."""
    half = curve.right.shape[1] // 2
    gains = np.stack([rows[:, half] - rows[:, 0] for rows in (curve.right, curve.scores)], axis=1)
    found = mean_of(gains, settings)
    return {name: at(found, i) for i, name in enumerate(MEASURES)}


def leads_of(curves: Curves, settings: Settings) -> dict[str, Any]:
    """Paired leads of ESV: other method -> order -> measure, in the form of `numbers_of`."""
    pairs = [(method, order) for method in curves if method != "ESV" for order in ORDERS]
    leads = np.stack(
        [
            SIGN[order] * (_points(curves["ESV"][order]) - _points(curves[method][order]))
            for method, order in pairs
        ],
        axis=1,
    )  # (V, pairs, measures, n + 1)
    means = mean_of(leads, settings)
    found: dict[str, Any] = {method: {} for method, _ in pairs}
    for i, (method, order) in enumerate(pairs):
        found[method][order] = {
            name: {part: values[:-1] for part, values in at(means, i, j).items()}
            | {"area": at(means, i, j, -1)}
            for j, name in enumerate(MEASURES)
        }
    return found


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """The lead over the nearest method in each comparison, and the gain in accuracy."""
    v = numbers["n_sequences"]
    if v < _FEWEST:
        return not_measured(f"expected at least {_FEWEST} sequences, got {v}")
    rows = []
    for paper, group, methods, order, measure, where in _COMPARISONS:
        point: Point = numbers["half"] if where == "half" else "area"
        leads = {m: point_of(numbers["lead"][m][order][measure], point) for m in methods}
        nearest = min(methods, key=lambda method: leads[method]["mean"])
        esv = point_of(numbers["curves"]["ESV"][order][measure], point)
        clear = [
            is_clear(order, esv, point_of(numbers["curves"][m][order][measure], point))
            for m in methods
        ]
        name = _quantity(group, order, measure, where)
        note = f"nearest: {nearest}"
        if not all(clear) and leads[nearest]["low"] > 0:
            note += "; intervals of the methods overlap"
        rows.append(finding(name, leads[nearest], all(clear), paper, note=note))
    gain = numbers["gain"]["ESV"]["accuracy"]
    return [*rows, finding(_GAIN, gain, above(gain), "+20 points")]


_GAIN = "lowest first, half dropped: gain in accuracy by ESV (points)"


def _quantity(group: str, order: Order, measure: Measure, where: str) -> str:
    place = "half dropped" if where == "half" else "area"
    return f"{FIRST[order]}, {place}: lead of ESV in {NAMES[measure]} over {group} (points)"


def not_measured(why: str) -> list[Finding]:
    """The same findings without numbers."""
    named = [(_quantity(*row[1:2], *row[3:]), row[0]) for row in _COMPARISONS]
    return [Finding(name, paper, note=why) for name, paper in [*named, (_GAIN, "+20 points")]]


def is_clear(order: Order, esv: Mean, other: Mean) -> bool:
    """True where the intervals do not overlap and ESV is on the right side."""
    low, high = (esv, other) if order == "descending" else (other, esv)
    return bool(low["high"] < high["low"])


def point_of(found: dict[str, Any], point: Point) -> Mean:
    """One of the means of a curve: at a number of elements dropped, or the area."""
    if point == "area":
        return found["area"]
    return {part: found[part][point] for part in ("mean", "low", "high")}


def _points(curve: DiscardCurve) -> np.ndarray:
    """Both measures of each sequence at all points, then their areas: (V, 2, n + 1)."""
    rows = zip((curve.right, curve.scores), curve.areas, strict=True)
    return np.stack([np.column_stack([points, area]) for points, area in rows], axis=1)


def _plain(*parts: Any) -> Mean:
    names = ("mean", "low", "high")
    return {name: plain(np.asarray(v, float)) for name, v in zip(names, parts, strict=True)}


def _table(numbers: dict[str, Any]) -> str:
    half, n, v = (numbers[name] for name in ("half", "n_elements", "n_sequences"))
    everything = ", ".join(
        f"{NAMES[name]} {written(numbers['all_elements'][name])} %" for name in MEASURES
    )
    parts = [f"{v:,} sequences of {n} elements; with all of them {everything}."]
    for order in ORDERS:
        first = "highest" if order == "descending" else "lowest"
        head = [f"{first} value first (%)", f"accuracy, {half} dropped", f"class score, {half}"]
        head += ["accuracy, area", "class score, area"]
        head += ["accuracy gained", "class score gained"] if order == "ascending" else []
        rows = []
        for method in METHODS:
            found = numbers["curves"][method][order]
            cells = [point_of(found[name], point) for point in (half, "area") for name in MEASURES]
            if order == "ascending":
                cells += [numbers["gain"][method][name] for name in MEASURES]
            rows.append((method, *map(written, cells)))
        parts.append(markdown(head, rows))
    return "\n\n".join(parts)


def _store(
    subject: Subject, elements: Elements, values: dict[str, np.ndarray], curves: Curves
) -> xarray.Dataset:
    def stacked(field: str) -> np.ndarray:
        return np.stack(
            [[getattr(curves[method][order], field) for order in ORDERS] for method in METHODS]
        )

    # Not "method": `sel` of xarray has an argument of that name.
    points = ("attribution", "order", "video", "dropped")
    return xarray.Dataset(
        {
            "right": (points, stacked("right").astype(np.int8)),
            "class_score": (points, stacked("scores")),
            "value": (("attribution", "video", "element"), np.stack([values[m] for m in METHODS])),
            "label": (("video",), elements.labels),
            "index": (("video", "element"), elements.index),
        },
        coords={
            "attribution": list(METHODS),
            "order": list(ORDERS),
            "video": [subject.uids[i] for i in elements.rows],
        },
    )


def plot_curves(numbers: dict[str, Any], title: str) -> Any:
    """Accuracy and class score by elements dropped: two orders, and orders by position."""
    figure: Any = new_figure(11.4, 6.8)
    axes = figure.subplots(2, 3)
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, order in zip(row, ORDERS, strict=False):
            for method, (colour, marker) in _LOOK.items():
                found = numbers["curves"][method][order][measure]
                _line(ax, found, colour, marker, method, front=method == "ESV")
            _limits(ax, [numbers["curves"][method][order][measure] for method in _LOOK])
        for label, method, order, colour, marker, line in _BASELINES:
            found = numbers["curves"][method][order][measure]
            _line(row[2], found, colour, marker, label, line=line)
        _limits(row[2], [numbers["curves"][m][o][measure] for _, m, o, *_ in _BASELINES])
        for ax in row:
            _finish(ax, numbers["n_elements"], _AXES[measure])
    titles = "a  highest value first", "b  lowest value first", "c  by position"
    for ax, text in zip(axes[0], titles, strict=True):
        _heading(ax, text)
    for ax in axes[1]:
        ax.set_xlabel(f"elements dropped, of {numbers['n_elements']}", **style.TEXT)
    for ax, side in ((axes[0, 0], "left"), (axes[0, 2], "right")):
        legend = figure.legend(
            *ax.get_legend_handles_labels(),
            loc=f"outside lower {side}",
            ncols=3,
            frameon=False,
            fontsize=style.TEXT_SIZE,
            labelcolor=style.INK,
        )
        legend.set_in_layout(side == "left")  # the other is beside it
    figure.get_layout_engine().set(wspace=0.05)
    style.head(figure, f"{title}; shaded: 95 % intervals")
    return figure


def plot_leads(numbers: dict[str, Any], title: str) -> Any:
    """Lead of ESV over each method of the model, by elements dropped and by area."""
    figure: Any = new_figure(9.6, 6.6)
    axes = figure.subplots(2, 2, sharex=True)
    n = numbers["n_elements"]
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, order in zip(row, ORDERS, strict=True):
            _leads(ax, numbers, order, measure)
            ax.set_ylabel(f"ESV ahead, in points of {NAMES[measure]}", **style.TEXT)
            ax.set_xticks([*range(1, n), n + 0.5], [*map(str, range(1, n)), "area"])
            style.strip_down(ax)
    _heading(axes[0, 0], "highest value first: how much lower by ESV")
    _heading(axes[0, 1], "lowest value first: how much higher by ESV")
    for ax in axes[1]:
        ax.set_xlabel(f"elements dropped, of {n}", **style.TEXT)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        [f"over {label}" for label in labels],
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=style.TEXT_SIZE,
        labelcolor=style.INK,
        columnspacing=1.2,
    )
    style.head(figure, f"{title}; paired differences with 95 % intervals")
    return figure


def _leads(ax: Any, numbers: dict[str, Any], order: Order, measure: Measure) -> None:
    n = numbers["n_elements"]
    ax.axhline(0, color=style.INK, linewidth=0.9, zorder=1)
    ax.axvline(n - 0.25, color=style.GRID, linewidth=0.9)
    for i, method in enumerate(OF_MODEL):
        colour, marker = _LOOK[method]
        found = numbers["lead"][method][order][measure]
        area = found["area"]
        shift = 0.13 * (i - (len(OF_MODEL) - 1) / 2)
        mean, low, high = (
            100 * np.array([*found[part][1:], area[part]]) for part in ("mean", "low", "high")
        )
        x = np.array([*range(1, n), n + 0.5]) + shift
        ax.errorbar(
            x,
            mean,
            np.maximum([mean - low, high - mean], 0),
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=0,
            elinewidth=1.1,
            capsize=1.8,
            label=method,
            zorder=3,
        )
        ax.plot(x[:-1], mean[:-1], color=colour, linewidth=0.7, alpha=0.45)


def _line(
    ax: Any,
    found: dict[str, Any],
    colour: str,
    marker: str,
    label: str,
    *,
    line: str = "-",
    front: bool = False,
) -> None:
    mean, low, high = (100 * np.array(found[part]) for part in ("mean", "low", "high"))
    dropped = np.arange(len(mean))
    over = 4 if front else 3
    ax.fill_between(dropped, low, high, color=colour, alpha=0.13, linewidth=0, zorder=over - 2)
    ax.plot(
        dropped,
        mean,
        line,
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=2.2 if front else 1.4,
        label=label,
        zorder=over,
    )


def _limits(ax: Any, curves: list[dict[str, Any]]) -> None:
    """Sets limits around all intervals, near 0..100 at most."""
    low = 100 * min(min(curve["low"]) for curve in curves)
    high = 100 * max(max(curve["high"]) for curve in curves)
    margin = 0.05 * (high - low) + 0.2
    ax.set_ylim(max(low - margin, -2), min(high + margin, 102))


def _finish(ax: Any, n: int, label: str) -> None:
    style.strip_down(ax)
    ax.axvline(n // 2, color=style.QUIET, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    ax.set_xticks(range(n) if n <= 12 else range(0, n, 2))
    ax.set_ylabel(label, **style.TEXT)


def _heading(ax: Any, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=style.TITLE_SIZE, fontweight="bold", color=style.INK)


if __name__ == "__main__":
    sys.exit(main("fig3", __doc__, measure))
