"""What the curves say to the paper's claims, and why where they do not say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.play_fair.fig3.comparison import (
    MEASURE_NAMES,
    Beside,
    Measure,
    Order,
    Place,
    Relation,
    at,
    written,
)
from experiments.play_fair.fig3.comparison import (
    compare as beside_esv,
)
from experiments.play_fair.figure import Finding, Verdict
from experiments.play_fair.methods import METHODS

OTHERS = tuple(method for method in METHODS if method != "ESV")
PAPERS = ("Integrated Gradients", "Grad-CAM")
BY_POSITION = ("centre-out", "edges-in", "random")
OF_MODEL = tuple(method for method in OTHERS if method not in BY_POSITION)

RELATIONS: tuple[Relation, ...] = ("clear", "ahead in pairs", "level", "behind")
WORDS = {
    "clear": "clear of",
    "ahead in pairs": "ahead in pairs of",
    "level": "level with",
    "behind": "behind",
}
_FEWEST = 5  # sequences that are judged
_FEW = 100  # sequences, whose intervals are named as a reason
_SPENT = 0.75  # share of what all drops take, beyond which little is left to tell methods apart
_SLIGHT = 0.1  # of accuracy or class score: too little moves to tell methods apart

# finding, the paper's words, methods, order, measure, whether at half or by area
_COMPARISONS: tuple[tuple[str, str, tuple[str, ...], Order, Measure, str], ...] = (
    (
        "highest first: half dropped by ESV leave a lower accuracy than by IG and Grad-CAM",
        "lowest curve",
        PAPERS,
        "descending",
        "accuracy",
        "half",
    ),
    (
        "highest first: half dropped by ESV leave a lower accuracy than by any other method",
        "",
        OTHERS,
        "descending",
        "accuracy",
        "half",
    ),
    (
        "highest first: likewise of the class score",
        "",
        OTHERS,
        "descending",
        "class_score",
        "half",
    ),
    (
        "highest first: least area under the accuracy by ESV",
        "",
        OTHERS,
        "descending",
        "accuracy",
        "area",
    ),
    (
        "highest first: least area under the class score by ESV",
        "",
        OTHERS,
        "descending",
        "class_score",
        "area",
    ),
    (
        "lowest first: half dropped by ESV leave a higher accuracy than by IG and Grad-CAM",
        "+20 % against +8 % and +7 %",
        PAPERS,
        "ascending",
        "accuracy",
        "half",
    ),
    (
        "lowest first: half dropped by ESV leave a higher class score than by any other method",
        "",
        OTHERS,
        "ascending",
        "class_score",
        "half",
    ),
    (
        "lowest first: most area under the class score by ESV",
        "",
        OTHERS,
        "ascending",
        "class_score",
        "area",
    ),
    (
        "highest first: half dropped by ESV leave a lower accuracy than by position or at random",
        "",
        BY_POSITION,
        "descending",
        "accuracy",
        "half",
    ),
)
_GAIN = "lowest first: dropping half by ESV improves accuracy"
_GAIN_IN_PAPER = "+20 % at 4 of 8"


def compare(numbers: dict[str, Any]) -> list[Finding]:
    """All findings, their verdicts by the rules of the figure."""
    if numbers["n_sequences"] < _FEWEST:
        return not_measured(f"{numbers['n_sequences']} sequences, {_FEWEST} are needed")
    found = [_comparison(numbers, *row) for row in _COMPARISONS]
    return [*found, _gain(numbers)]


def not_measured(why: str) -> list[Finding]:
    """The same findings where nothing can be said."""
    named = [(finding, paper) for finding, paper, *_ in _COMPARISONS] + [(_GAIN, _GAIN_IN_PAPER)]
    return [Finding(finding, paper, "-", "not measured", why) for finding, paper in named]


def verdict_of(rows: Sequence[Beside]) -> Verdict:
    """Clear of all: reproduced. Behind one: contradicted. Else weaker."""
    relations = {row.relation for row in rows}
    if relations == {"clear"}:
        return "reproduced"
    return "contradicted" if "behind" in relations else "weaker"


def _comparison(
    numbers: dict[str, Any],
    finding: str,
    paper: str,
    methods: tuple[str, ...],
    order: Order,
    measure: Measure,
    where: str,
) -> Finding:
    place: Place = numbers["half"] if where == "half" else "area"
    rows = beside_esv(numbers, methods, order, measure, place)
    verdict = verdict_of(rows)
    why = "" if verdict == "reproduced" else _why(numbers, rows, order, measure, where)
    return Finding(finding, paper, _measured(rows), verdict, why)


def _gain(numbers: dict[str, Any]) -> Finding:
    """Accuracy with half of the elements against that with all."""
    gain = numbers["gain"]
    own = gain["ESV"]["accuracy"]
    verdict: Verdict = "weaker"
    if own["low"] > 0:
        verdict = "reproduced"
    elif own["high"] < 0:
        verdict = "contradicted"
    others = ", ".join(f"{name} {written(gain[name]['accuracy'])}" for name in PAPERS)
    score = written(gain["ESV"]["class_score"])
    measured = f"ESV {written(own)} points (class score {score}); {others}."
    right = numbers["all_elements"]["accuracy"]["mean"]
    room = (
        f"{100 * right:.1f} % are right with all elements: {100 - 100 * right:.1f} points to gain."
    )
    return Finding(_GAIN, _GAIN_IN_PAPER, measured, verdict, "" if own["low"] > 0 else room)


def _measured(rows: Sequence[Beside]) -> str:
    """ESV's number, and the others' by how ESV stands to them."""
    parts = [f"ESV {written(rows[0].esv)} %"]
    clear = [
        f"{row.method} {100 * row.other['mean']:.1f}" for row in rows if row.relation == "clear"
    ]
    if clear:
        parts.append(f"{WORDS['clear']} {', '.join(clear)}")
    for relation in RELATIONS[1:]:
        named = [
            f"{row.method} {100 * row.other['mean']:.1f} (lead {written(row.lead)})"
            for row in rows
            if row.relation == relation
        ]
        if named:
            parts.append(f"{WORDS[relation]} {', '.join(named)}")
    return "; ".join(parts) + "."


def _why(
    numbers: dict[str, Any], rows: Sequence[Beside], order: Order, measure: Measure, where: str
) -> str:
    """Reasons that the numbers show, as sentences."""
    methods = tuple(row.method for row in rows)
    parts = [_few(numbers, rows), _shared(rows)]
    if where == "half":
        parts.append(_no_room(numbers, order, measure))
        parts.append(_surest(numbers, methods, order, measure))
    if methods == PAPERS:
        parts.append(_by_class_score(numbers, order))
    return " ".join(part for part in parts if part)


def _few(numbers: dict[str, Any], rows: Sequence[Beside]) -> str:
    v, own = numbers["n_sequences"], rows[0].esv
    span = 100 * (own["high"] - own["low"])
    return f"{v} sequences: an interval spans {span:.0f} points." if v < _FEW and span > 1 else ""


def _shared(rows: Sequence[Beside]) -> str:
    """Whether pairing alone tells the methods apart."""
    if not {row.relation for row in rows} <= {"clear", "ahead in pairs"}:
        return ""
    return "Sequences differ alike under all methods, so intervals overlap; in pairs ESV leads all."


def _no_room(numbers: dict[str, Any], order: Order, measure: Measure) -> str:
    """Whether a floor or a ceiling keeps the methods together at half."""
    half, name = numbers["half"], MEASURE_NAMES[measure]
    whole = numbers["all_elements"][measure]["mean"]
    curves = {
        method: numbers["curves"][method][order][measure]["mean"] for method in ("ESV", *OF_MODEL)
    }
    own = curves["ESV"]
    if order == "descending":
        spent = min(
            (whole - curve[half]) / (whole - curve[-1]) if whole > curve[-1] else 0
            for curve in curves.values()
        )
        if spent > _SPENT:
            return (
                f"By then every method that asks the model has taken {100 * spent:.0f} % or more of"
                " all that its drops take: little is left to tell them apart."
            )
        if whole - own[half] < _SLIGHT:
            return (
                f"What is left suffices: the {name} is still {100 * own[half]:.1f} % of"
                f" {100 * whole:.1f} %."
            )
    elif 1 - own[half] < _SLIGHT:
        left = 100 * (1 - own[half])
        return f"ESV is at {100 * own[half]:.1f} %: {left:.1f} points are left above it."
    return ""


def _surest(
    numbers: dict[str, Any], methods: tuple[str, ...], order: Order, measure: Measure
) -> str:
    """Where ESV's lead over the nearest method that asks the model is surest."""
    leads = {m: numbers["lead"][m][order][measure] for m in methods if m in OF_MODEL}
    if not leads:
        return ""
    lows = {  # of each number dropped, the nearest method's: whose lead is least sure
        k: min((of_method["low"][k], method) for method, of_method in leads.items())
        for k in range(1, numbers["n_elements"])
    }
    k = max(lows, key=lambda k: lows[k][0])
    nearest = lows[k][1]
    lead = at(leads[nearest], k)
    if lead["low"] <= 0:
        return "At no number dropped does ESV lead all that ask the model beyond doubt."
    own = numbers["curves"]["ESV"][order][measure]["mean"][k]
    return (
        f"The surest lead over the nearest is at {k} dropped: ESV {100 * own:.1f} %, ahead of"
        f" {nearest} by {written(lead)}."
    )


def _by_class_score(numbers: dict[str, Any], order: Order) -> str:
    """What the class score says to the paper's comparison."""
    rows = beside_esv(numbers, PAPERS, order, "class_score", numbers["half"])
    parts = []
    for relation in RELATIONS:
        named = [
            f"{row.method} (lead {written(row.lead)})" for row in rows if row.relation == relation
        ]
        if named:
            parts.append(f"{WORDS[relation]} {', '.join(named)}")
    return f"By class score ESV is {'; '.join(parts)}."
