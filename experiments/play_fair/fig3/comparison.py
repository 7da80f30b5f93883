"""Discard curves of every method in both orders, and ESV's lead over each of the others."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

import esv_jax as ej
from esv_jax.metrics.statistics import Interval
from experiments.play_fair.figure import Settings, plus_minus
from experiments.play_fair.subjects import Elements

Order = Literal["descending", "ascending"]
Measure = Literal["accuracy", "class_score"]
Place: TypeAlias = "int | Literal['area']"
Relation = Literal["clear", "ahead in pairs", "level", "behind"]
Curves: TypeAlias = "dict[str, dict[Order, ej.metrics.DiscardCurve]]"

ORDERS: tuple[Order, ...] = ("descending", "ascending")
MEASURES: tuple[Measure, ...] = ("accuracy", "class_score")
MEASURE_NAMES = {"accuracy": "accuracy", "class_score": "class score"}
SIGN = {"descending": -1, "ascending": 1}  # of a difference by which ESV is ahead


class Beside(NamedTuple):
    """ESV beside another method in one number of their curves.

    Attributes:
      method: the other. relation: how ESV stands to it.
      esv, other, lead: {"mean", "low", "high"} each; the lead is positive where ESV is ahead.
    """

    method: str
    relation: Relation
    esv: dict[str, float]
    other: dict[str, float]
    lead: dict[str, float]


def curves_of(
    game: Any, prior: np.ndarray, elements: Elements, values: dict[str, np.ndarray]
) -> Curves:
    """The curve of every method in every order."""
    return {
        method: {
            order: ej.metrics.discard_curve(
                game, elements.xs, of_method, elements.labels, prior=prior, order=order
            )
            for order in ORDERS
        }
        for method, of_method in values.items()
    }


def numbers_of(curve: ej.metrics.DiscardCurve, settings: Settings) -> dict[str, Any]:
    """Means and 95 % intervals of a curve's points, lists of n, and of its areas, by measure."""
    key = jax.random.key(settings.seed)
    ends = curve.interval(key=key, resamples=settings.n_resamples)
    return {
        name: _plain(getattr(curve, name), *getattr(ends, name))
        | {"area": _plain(getattr(curve.auc, name), *getattr(ends, f"{name}_auc"))}
        for name in MEASURES
    }


def gain_of(curve: ej.metrics.DiscardCurve, settings: Settings) -> dict[str, Any]:
    """What dropping half adds to each measure, paired with the whole sequence."""
    half = curve.right.shape[1] // 2
    gains = np.stack([rows[:, half] - rows[:, 0] for rows in (curve.right, curve.scores)], axis=1)
    three = gains.mean(0), *_interval(gains, settings)
    return {name: _plain(*(part[i] for part in three)) for i, name in enumerate(MEASURES)}


def leads_of(curves: Curves, settings: Settings) -> dict[str, Any]:
    """Paired leads of ESV: other method -> order -> measure, as `numbers_of` has curves."""
    pairs = [(method, order) for method in curves if method != "ESV" for order in ORDERS]
    leads = np.stack(
        [
            SIGN[order] * (_points(curves["ESV"][order]) - _points(curves[method][order]))
            for method, order in pairs
        ],
        axis=1,
    )  # (V, pairs, measures, n + 1)
    three = leads.mean(0), *_interval(leads, settings)
    found: dict[str, Any] = {method: {} for method, _ in pairs}
    for i, (method, order) in enumerate(pairs):
        found[method][order] = {
            name: _plain(*(part[i, j, :-1] for part in three))
            | {"area": _plain(*(part[i, j, -1] for part in three))}
            for j, name in enumerate(MEASURES)
        }
    return found


def compare(
    numbers: dict[str, Any], methods: tuple[str, ...], order: Order, measure: Measure, place: Place
) -> list[Beside]:
    """ESV beside some methods, at a number of elements dropped or over the whole curve."""
    rows = []
    for method in methods:
        esv, other = (
            at(numbers["curves"][name][order][measure], place) for name in ("ESV", method)
        )
        lead = at(numbers["lead"][method][order][measure], place)
        rows.append(Beside(method, relation(order, esv, other, lead), esv, other, lead))
    return rows


def relation(order: Order, esv: Any, other: Any, lead: Any) -> Relation:
    """How ESV stands to another method, by their intervals and that of its lead."""
    below, above = (esv, other) if order == "descending" else (other, esv)
    if below["high"] < above["low"]:
        return "clear"
    if lead["low"] > 0:
        return "ahead in pairs"
    return "behind" if lead["high"] < 0 else "level"


def at(found: dict[str, Any], place: Place) -> dict[str, float]:
    """One of the numbers found together: of a number of elements dropped, or the area."""
    if place == "area":
        return found["area"]
    return {part: found[part][place] for part in ("mean", "low", "high")}


def written(found: dict[str, float]) -> str:
    """In per cent, with its interval."""
    mean, low, high = (round(100 * found[part], 1) + 0.0 for part in ("mean", "low", "high"))
    return plus_minus(mean, low, high)


def _points(curve: ej.metrics.DiscardCurve) -> np.ndarray:
    """Both measures of each sequence at all points, and their areas last: (V, 2, n + 1)."""
    rows = zip((curve.right, curve.scores), curve.areas, strict=True)
    return np.stack([np.column_stack([points, area]) for points, area in rows], axis=1)


def _interval(values: np.ndarray, settings: Settings) -> Interval:
    key = jax.random.key(settings.seed)
    return ej.metrics.bootstrap_interval(values, key=key, resamples=settings.n_resamples)


def _plain(*three: Any) -> dict[str, Any]:
    parts = zip(("mean", "low", "high"), three, strict=True)
    return {part: np.asarray(value, float).tolist() for part, value in parts}
