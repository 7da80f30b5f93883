"""Findings about pairs of positions, judged by rules that the numbers decide."""

from __future__ import annotations

from typing import Any

from experiments.play_fair.figure import Finding, Verdict

_PLACES = {
    "synthetic": "By construction the event lies anywhere in the clip, so that the middle shows it"
    " most often."
}


def compare(numbers: dict[str, Any], subject: str) -> list[Finding]:
    """Whether positions differ overall, and whether classes differ in it."""
    return [overall(numbers, _PLACES.get(subject, "")), by_class(numbers)]


def overall(numbers: dict[str, Any], place: str) -> Finding:
    """Reproduced beyond the 95 % quantile of shuffled elements if half of the pairs differ.

    Weaker where fewer do, or where the distance is at least beyond the mean of shuffles.
    """
    found, trn = numbers["overall"], numbers["matrices"]["TRN"]
    differ, n_pairs = trn["n_differ"], numbers["n_pairs"]
    verdict, why = _against_chance(found, "elements")
    if verdict == "reproduced" and 2 * differ < n_pairs:
        verdict, why = "weaker", "Beyond chance, but fewer than half of the pairs."
    measured = f"{differ} of {n_pairs} pairs differ from 1/2; {_distance(found)}"
    finding = "Some positions have higher ESVs than others (TRN, all classes)"
    return Finding(finding, "", measured, verdict, f"{why} {place}".strip())


def by_class(numbers: dict[str, Any]) -> Finding:
    """Reproduced beyond the 95 % quantile of shuffled classes, weaker beyond their mean."""
    finding, found = "Which positions these are depends on the class", numbers["between classes"]
    if found is None:
        return Finding(finding, "", "-", "not measured", "There is only one class.")
    return Finding(finding, "", _distance(found), *_against_chance(found, "classes"))


def _against_chance(found: dict[str, float], shuffled: str) -> tuple[Verdict, str]:
    """Reproduced beyond the 95 % quantile of shuffles, weaker beyond their mean."""
    distance = found["squared distance"]
    if distance > found["by chance, 95 %"]:
        return "reproduced", ""
    if distance > found["by chance"]:
        return "weaker", f"Within what shuffled {shuffled} show."
    return "contradicted", f"No more than shuffled {shuffled} show."


def _distance(found: dict[str, float]) -> str:
    """Root of the squared distance in per cent, beside that of shuffles."""
    root, chance = (100 * found[name] ** 0.5 for name in ("squared distance", "by chance"))
    return f"root mean square distance {root:.1f} %, by chance {chance:.1f} (p = {found['p']:.2g})"
