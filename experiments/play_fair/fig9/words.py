"""The table of figure 9 in Markdown, and its findings by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.play_fair.figure import Finding, Verdict, markdown, plus_minus

_FOLLOWS, _SOMEWHAT = 0.9, 0.5  # mean correlation: reproduced, weaker
_ALIKE = "the exact values of each sequence are all alike"
_FINDINGS = {
    "correlation_at_centres": "ESVs of all frames follow the exact ones of 16, at the same frames",
    "correlation": "ESVs of all frames, summed over segments, follow the exact ones of 16",
}
_PAPER = "shown on examples"


def not_measured(reason: str) -> list[Finding]:
    """Both findings where nothing can be said of them."""
    return [Finding(text, _PAPER, "", "not measured", reason) for text in _FINDINGS.values()]


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """By the mean correlations of the leading estimator with the exact values.

    Reproduced from 0.9, weaker from 0.5, contradicted below.
    """
    name = next(iter(numbers["estimators"]))
    found, other = numbers["estimators"][name], numbers["other_elements"]
    rows = []
    for kind, text in _FINDINGS.items():
        if found[kind] is None:
            rows += [row for row in not_measured(_ALIKE) if row.finding == text]
            continue
        mean = found[kind][0]
        verdict: Verdict = "contradicted"
        if mean >= _FOLLOWS:
            verdict = "reproduced"
        elif mean >= _SOMEWHAT:
            verdict = "weaker"
        measured = (
            f"{name} of {_range(numbers['lengths'])} elements: r {_with_interval(found[kind])}"
        )
        if kind == "correlation_at_centres":
            measured += f"; 95 % bands {_per_cent(found['width'])} of mean |ESV| wide"
        others = list(numbers["estimators"].items())[1:]
        measured += "".join(f"; {each} {_with_interval(row[kind])}" for each, row in others)
        why = ""
        if verdict != "reproduced" and kind == "correlation" and other is not None:
            why = (
                f"exact ESVs of {numbers['n']} other elements of the same segments reach r"
                f" {_with_interval(other)}"
            )
            if other[0] < _FOLLOWS:
                why += ": elements between the centres differ from those at them"
        rows.append(Finding(text, _PAPER, measured, verdict, why))
    return rows


def _range(lengths: list[int]) -> str:
    low, high = lengths[0], lengths[-1]
    return f"{high}" if low == high else f"{low} to {high}"


def table(numbers: dict[str, Any]) -> str:
    """A row per estimator."""
    rows = []
    for name, found in numbers["estimators"].items():
        pooled = found["correlation_pooled"]
        rows.append(
            (
                name,
                _with_interval(found["correlation"]),
                "-" if pooled is None else f"{pooled:.3f}",
                _with_interval(found["correlation_at_centres"]),
                _per_cent(found["width"]),
                _per_cent(found["spread"]),
                f"{found['gap']:.1e} ({found['largest_gap']:.1e})",
            )
        )
    rows.append(("exact, other elements", _with_interval(numbers["other_elements"]), *["-"] * 5))
    lengths = ", ".join(map(str, numbers["lengths"]))
    head = (
        "all elements by",
        "r of sums",
        "r pooled",
        "r at centres",
        "width",
        "spread",
        "gap, median (largest)",
    )
    text = (
        f"{numbers['n_sequences']} sequences of {lengths} elements; r with exact ESVs of"
        f" {numbers['n']}; width of 95 % intervals and spread between two keys relative to"
        " mean |ESV|, medians."
    )
    return f"{text}\n\n{markdown(head, rows)}"


def _with_interval(found: Sequence[float] | None) -> str:
    return "-" if found is None else plus_minus(*found, digits=3)


def _per_cent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
