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
    python -m experiments.play_fair.fig3 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray

import esv_jax as ej
from esv_jax.metrics.discard import DiscardCurve
from esv_jax.plots import style
from experiments.drawing import (
    BLUE,
    GREEN,
    HEADING,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    band,
    legend_below,
    name_axes,
    points,
)
from experiments.harness import Finding, above, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.methods import METHODS, all_values
from experiments.play_fair.subjects import Elements, Subject
from experiments.sequences import evenly
from experiments.statistics import PARTS, Mean, at, mean_of, written

Order = Literal["descending", "ascending"]
Measure = Literal["accuracy", "class_score"]
Curves: TypeAlias = "dict[str, dict[Order, DiscardCurve]]"

ORDERS: tuple[Order, ...] = ("descending", "ascending")
MEASURES: tuple[Measure, ...] = ("accuracy", "class_score")
NAMES = {"accuracy": "accuracy", "class_score": "class score"}
FIRST = {"descending": "highest first", "ascending": "lowest first"}
SIGN = {"descending": -1, "ascending": 1}  # of a difference by which ESV is ahead

OTHERS = tuple(method for method in METHODS if method != "ESV")
PAPERS = ("Integrated Gradients", "Grad-CAM")
BY_POSITION = ("centre-out", "edges-in", "random")

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
_GAIN = "lowest first, half dropped: gain in accuracy by ESV (points)"

_LOOK = {
    "ESV": (BLUE, "o"),
    "Integrated Gradients": (VERMILLION, "s"),
    "Grad-CAM": (GREEN, "^"),
    "gradient x input": (PURPLE, "v"),
    "leave-one-out": (ORANGE, "D"),
    "leave-one-in": (SKY, "P"),
}
_AXES = {"accuracy": "accuracy (%)", "class_score": "mean score of the true class (%)"}
# Of the third column: label, method, order, colour, marker, line
_BASELINES: tuple[tuple[str, str, Order, str, str, str], ...] = (
    ("ESV, lowest first", "ESV", "ascending", BLUE, "o", "--"),
    ("ends first", "edges-in", "descending", GREEN, "^", "-"),
    ("at random", "random", "descending", style.QUIET, "s", "-"),
    ("centre first", "centre-out", "descending", ORANGE, "D", "-"),
    ("ESV, highest first", "ESV", "descending", BLUE, "o", "-"),
)


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Discard curves of every method in both orders, and the leads of ESV."""
    n, longest = settings.n_elements, int(subject.lengths.max())
    if n < 2 or longest < n:
        why = f"expected sequences of at least {n} elements, got at most {longest}"
        why = why if n >= 2 else "expected at least 2 elements"
        return Outcome({"n_elements": n}, why, not_measured(why), {})
    elements = limited(subject, n, full=settings.full)
    values = all_values(subject, elements, settings.seed)
    curves: Curves = {
        method: {
            order: ej.metrics.discard_curve(
                subject.game,
                elements.xs,
                ranking,
                elements.labels,
                prior=subject.trn.prior,
                order=order,
            )
            for order in ORDERS
        }
        for method, ranking in values.items()
    }
    numbers = {"n_sequences": len(elements.rows), "n_elements": n, "half": n // 2}
    numbers |= numbers_of(curves, settings)
    title = f"{subject.title}, {len(elements.rows):,} sequences of {n} elements"
    pictures = {"discard": plot_curves(numbers, title), "lead": plot_leads(numbers, title)}
    store = _store(elements, values, curves)
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def limited(subject: Subject, n: int, *, full: bool) -> Elements:
    """n elements of all sequences that have them, or of at most 1,000."""
    rows = evenly(np.flatnonzero(subject.lengths >= n), None if full else _MOST)
    return subject.at_centres(n, rows)


def numbers_of(curves: Curves, settings: Settings) -> dict[str, Any]:
    """Means with intervals of all curves, gains on dropping half, and leads of ESV.

    Curves and leads are lists over the number dropped, with their mean as "area".
    """
    by_method = [
        [
            [np.column_stack([curve.right, curve.right.mean(1)])]
            + [np.column_stack([curve.scores, curve.scores.mean(1)])]
            for curve in by_order.values()
        ]
        for by_order in curves.values()
    ]  # (methods, orders, measures, V, n + 1)
    found = np.moveaxis(np.array(by_method), 3, 0)
    half = (found.shape[-1] - 1) // 2
    gains = found[:, :, 1, :, half] - found[:, :, 1, :, 0]
    sign = np.array([SIGN[order] for order in ORDERS])[:, None, None]
    methods = list(curves)
    esv = methods.index("ESV")
    means, gain, leads = (
        mean_of(x, settings) for x in (found, gains, sign * (found[:, esv : esv + 1] - found))
    )

    def by_order(found: Mean, i: int) -> dict[str, Any]:
        return {
            order: {
                name: at(found, i, j, k, slice(-1)) | {"area": at(found, i, j, k, -1)}
                for k, name in enumerate(MEASURES)
            }
            for j, order in enumerate(ORDERS)
        }

    each = list(enumerate(methods))
    return {
        "curves": {method: by_order(means, i) for i, method in each},
        "gain": {m: {name: at(gain, i, k) for k, name in enumerate(MEASURES)} for i, m in each},
        "lead": {method: by_order(leads, i) for i, method in each if method != "ESV"},
        "all_elements": {name: at(means, esv, 1, k, 0) for k, name in enumerate(MEASURES)},
    }


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """The lead over the nearest method in each comparison, and the gain in accuracy."""
    v = numbers["n_sequences"]
    if v < _FEWEST:
        return not_measured(f"expected at least {_FEWEST} sequences, got {v}")
    rows = []
    curves, half = numbers["curves"], numbers["half"]
    for paper, group, methods, order, measure, where in _COMPARISONS:
        place = order, measure, where, half
        leads = {m: point_of(numbers["lead"][m], *place) for m in methods}
        nearest = min(methods, key=lambda m, leads=leads: leads[m]["mean"])
        esv, others = (
            point_of(curves["ESV"], *place),
            (point_of(curves[m], *place) for m in methods),
        )
        clear = all(is_clear(order, esv, other) for other in others)
        note = f"nearest: {nearest}"
        if not clear and leads[nearest]["low"] > 0:
            note += "; intervals of the methods overlap"
        name = _quantity(group, order, measure, where)
        rows.append(finding(name, leads[nearest], clear, paper, note=note))
    gain = numbers["gain"]["ESV"]["accuracy"]
    return [*rows, finding(_GAIN, gain, above(gain), "+20 points")]


def _quantity(group: str, order: Order, measure: Measure, where: str) -> str:
    place = "half dropped" if where == "half" else "area"
    return f"{FIRST[order]}, {place}: lead of ESV in {NAMES[measure]} over {group} (points)"


def not_measured(why: str) -> list[Finding]:
    """The same findings without numbers."""
    named = [(_quantity(group, *rest), paper) for paper, group, _, *rest in _COMPARISONS]
    return [Finding(name, paper, note=why) for name, paper in [*named, (_GAIN, "+20 points")]]


def is_clear(order: Order, esv: Mean, other: Mean) -> bool:
    """True where the intervals do not overlap and ESV is on the right side."""
    low, high = (esv, other) if order == "descending" else (other, esv)
    return bool(low["high"] < high["low"])


def point_of(found: dict[Any, Any], order: Order, measure: Measure, where: str, half: int) -> Mean:
    """One of the means of a method: with half of the elements dropped, or the area."""
    curve = found[order][measure]
    return curve["area"] if where == "area" else {part: curve[part][half] for part in PARTS}


def _table(numbers: dict[str, Any]) -> str:
    half, n, v = (numbers[name] for name in ("half", "n_elements", "n_sequences"))
    everything = ", ".join(
        f"{NAMES[name]} {written(numbers['all_elements'][name])} %" for name in MEASURES
    )
    parts = [f"{v:,} sequences of {n} elements; with all of them {everything}."]
    for order in ORDERS:
        is_last = order == "ascending"
        head = [f"{FIRST[order].replace(' ', ' value ')} (%)", f"accuracy, {half} dropped"]
        head += [f"class score, {half}", "accuracy, area", "class score, area"]
        head += ["accuracy gained", "class score gained"] * is_last
        rows = []
        for method in METHODS:
            found = numbers["curves"][method]
            places = [(order, name, where) for where in ("half", "area") for name in MEASURES]
            cells = [point_of(found, *place, half) for place in places]
            cells += [numbers["gain"][method][name] for name in MEASURES] * is_last
            rows.append((method, *map(written, cells)))
        parts.append(markdown(head, rows))
    return "\n\n".join(parts)


def _store(elements: Elements, values: dict[str, np.ndarray], curves: Curves) -> xarray.Dataset:
    def every(field: str) -> np.ndarray:
        return np.stack([[getattr(curves[m][order], field) for order in ORDERS] for m in METHODS])

    dims = ("attribution", "order", "video", "dropped")  # `sel` has an argument called method
    arrays = {
        "right": (dims, every("right").astype(np.int8)),
        "class_score": (dims, every("scores")),
        "value": (("attribution", "video", "element"), np.stack([values[m] for m in METHODS])),
    }
    return stored(elements, arrays, attribution=list(METHODS), order=list(ORDERS))


def plot_curves(numbers: dict[str, Any], title: str) -> Any:
    """Accuracy and class score by elements dropped: two orders, and orders by position."""
    figure: Any = style.new_figure(11.4, 6.8)
    axes, n = figure.subplots(2, 3), numbers["n_elements"]
    columns = [[(m, m, order, *look, "-") for m, look in _LOOK.items()] for order in ORDERS]
    titles = ("a  highest value first", "b  lowest value first", "c  by position")
    below = ("", f"elements dropped, of {n}")
    for row, measure, label in zip(axes, MEASURES, below, strict=True):
        for ax, lines in zip(row, (*columns, _BASELINES), strict=True):
            curves = [numbers["curves"][method][order][measure] for _, method, order, *_ in lines]
            for (name, _, _, colour, marker, line), found in zip(lines, curves, strict=True):
                front = {"lw": 2.2, "zorder": 4} if name == "ESV" else {}
                band(ax, found, colour, marker, label=name, ls=line, **front)
            low = 100 * min(min(curve["low"]) for curve in curves)
            high = 100 * max(max(curve["high"]) for curve in curves)
            margin = 0.05 * (high - low) + 0.2
            ax.set_ylim(max(low - margin, -2), min(high + margin, 102))
            name_axes(ax, label, _AXES[measure])
            ax.axvline(n // 2, color=style.QUIET, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            ax.set_xticks(range(n) if n <= 12 else range(0, n, 2))
    for ax, text in zip(axes[0], titles, strict=True):
        ax.set_title(text, **HEADING)
    legend_below(figure, axes[0, 0], side="left")
    # The second legend is beside the first.
    legend_below(figure, axes[0, 2], side="right").set_in_layout(False)
    figure.get_layout_engine().set(wspace=0.05)
    style.head(figure, f"{title}; shaded: 95 % intervals")
    return figure


def plot_leads(numbers: dict[str, Any], title: str) -> Any:
    """Lead of ESV over each method of the model, by elements dropped and by area."""
    figure: Any = style.new_figure(9.6, 6.6)
    axes = figure.subplots(2, 2, sharex=True)
    n, methods = numbers["n_elements"], [m for m in _LOOK if m != "ESV"]
    x = np.array([*range(1, n), n + 0.5])
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, order in zip(row, ORDERS, strict=True):
            ax.axhline(0, color=style.INK, linewidth=0.9, zorder=1)
            ax.axvline(n - 0.25, color=style.GRID, linewidth=0.9)
            for i, method in enumerate(methods):
                found, at_x = numbers["lead"][method][order][measure], x + 0.13 * (i - 2)
                every = {part: [*found[part][1:], found["area"][part]] for part in PARTS}
                look = {"ms": 4.5, "lw": 0, "elinewidth": 1.1, "capsize": 1.8, "zorder": 3}
                points(ax, at_x, every, *_LOOK[method], label=f"over {method}", **look)
                mean = 100 * np.array(found["mean"][1:])
                ax.plot(at_x[:-1], mean, color=_LOOK[method][0], linewidth=0.7, alpha=0.45)
            below = f"elements dropped, of {n}" if measure == "class_score" else ""
            name_axes(ax, below, f"ESV ahead, in points of {NAMES[measure]}")
            ax.set_xticks(x, [*map(str, range(1, n)), "area"])
    axes[0, 0].set_title("highest value first: how much lower by ESV", **HEADING)
    axes[0, 1].set_title("lowest value first: how much higher by ESV", **HEADING)
    legend_below(figure, axes[0, 0], len(methods), columnspacing=1.2)
    style.head(figure, f"{title}; paired differences with 95 % intervals")
    return figure


if __name__ == "__main__":
    sys.exit(main("fig3", __doc__, measure))
