"""Findings about trends and smoothness, judged by rules that the numbers decide."""

from __future__ import annotations

from typing import Any

from experiments.play_fair.figure import Finding, Verdict
from experiments.play_fair.numbers import written

STEADY = -0.8  # Spearman's rho of a trend that falls all the way
_OTHERS = ("Integrated Gradients", "Grad-CAM")


def compare(numbers: dict[str, Any]) -> list[Finding]:
    """The four findings."""
    n, lengths, marginals = (numbers[name] for name in ("n_elements", "lengths", "marginals"))
    longest = lengths["same"]["n_sequences"][0]
    few = f"Fewer than 3 scales: {n} elements."
    return [
        falls(
            f"The marginal contribution of an element falls with the scale (1 to {n})",
            marginals["signed"],
            (1, 4),
            few,
        ),
        falls(
            f"So does its absolute value (1 to {n})",
            marginals["absolute"],
            (1, 4),
            few,
        ),
        falls(
            f"The more elements, the fewer of them support (1 to {lengths['n'][-1]})",
            lengths["same"],
            (100, 1),
            "No sequence has 3 elements.",
            f" % of the {longest} sequences that have {lengths['n'][-1]}",
        ),
        smooth(numbers["smoothness"], n),
    ]


def falls(
    finding: str,
    found: dict[str, Any],
    form: tuple[float, int],
    few: str,
    units: str = "",
) -> Finding:
    """Whether means fall.

    Reproduced where the last is below the first with the whole interval of the difference, and
    Spearman's rho has its interval at -0.8 or below; weaker where one of the two fails, or where
    the interval of the difference holds 0; contradicted where the last is above the first.
    """
    trend = found["trend"]
    if trend is None:
        return Finding(finding, "falls", "-", "not measured", few)
    drop, rho, mean = trend["last - first"], trend["spearman"], found["mean"]
    measured = (
        f"{written({**drop, 'mean': mean[0], 'low': None}, *form)} to"
        f" {written({**drop, 'mean': mean[-1], 'low': None}, *form)}{units}, difference"
        f" {written(drop, *form)}; Spearman {written(rho, 1, 2)}"
    )
    below = sum(step < 0 for step in trend["steps"]["high"] if step is not None)
    measured += f"; {below} of {len(mean) - 1} steps fall beyond their interval"
    verdict: Verdict = "weaker"
    why = ""
    if drop["low"] > 0:
        verdict, why = "contradicted", "It rises."
    elif drop["high"] >= 0:
        why = "The interval of the difference holds 0."
    elif rho["high"] is not None and rho["high"] <= STEADY:
        verdict = "reproduced"
    else:
        top = max(range(len(mean)), key=mean.__getitem__)
        why = "It falls, but not all the way" + (
            f": it is highest at {top + 1} of {len(mean)}." if top else "."
        )
    return Finding(finding, "falls", measured, verdict, why)


def smooth(found: dict[str, Any] | None, n: int) -> Finding:
    """Whether ESVs keep closer to themselves than the gradients' values, by paired intervals.

    Reproduced where their correlation is above that of both and their change above that of
    neither; contradicted where their correlation is below that of both and their change below that
    of neither; else weaker.
    """
    finding = "ESVs change smoothly as elements move by one, more so than gradients"
    if found is None:
        why = f"No sequence has {2 * n} elements and one after the last centre."
        return Finding(finding, "smooth", "-", "not measured", why)
    methods, between = found["methods"], found["ESV - other"]
    measured = "; ".join(
        f"{name} r {written(one['pearson'], 1, 2)}, change {written(one['change'], 1, 2)}"
        for name, one in methods.items()
    )
    if any(between[name]["pearson"]["low"] is None for name in _OTHERS):
        why = "Fewer than 2 sequences have values that vary."
        return Finding(finding, "smooth", measured, "not measured", why)
    higher = [between[name]["pearson"]["low"] > 0 for name in _OTHERS]
    lower = [between[name]["pearson"]["high"] < 0 for name in _OTHERS]
    more = [(between[name]["change"]["low"] or 0) > 0 for name in _OTHERS]
    less = [(between[name]["change"]["high"] or 0) < 0 for name in _OTHERS]
    verdict: Verdict = "weaker"
    if all(higher) and not any(more):
        verdict = "reproduced"
    elif all(lower) and not any(less):
        verdict = "contradicted"
    even = [not (a or b) for a, b in zip(higher, lower, strict=True)]
    notes = [
        *_named(lower, "The correlation is below that of"),
        *_named(even, "The correlation is no different from that of"),
        *_named(more, "The change is above that of"),
        *_named(less, "The change is below that of"),
        f"One element is {100 * found['median shift']:.0f} % of a segment here.",
    ]
    why = "" if verdict == "reproduced" else " ".join(notes)
    return Finding(finding, "smooth", measured, verdict, why)


def _named(flags: list[bool], text: str) -> list[str]:
    names = [name for name, flag in zip(_OTHERS, flags, strict=True) if flag]
    return [f"{text} {' and '.join(names)}."] if names else []
