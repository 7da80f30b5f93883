"""Findings about supporting elements and positions, judged by rules that the numbers decide."""

from __future__ import annotations

from typing import Any

from experiments.play_fair.figure import Finding, Verdict
from experiments.play_fair.numbers import by_sign, written

LEAST = 5  # sequences in a group that is judged
ALIKE = 0.02  # shares that differ by less are taken as equal
_NO_TSN = "there is no TSN of this subject"
_PLACES = {
    "synthetic": "By construction the event lies anywhere in the clip, so that no position is"
    " preferred but for the middle, which shows it most often."
}


def compare(numbers: dict[str, Any], subject: str) -> list[Finding]:
    """The five findings; of TSN only where there is one."""
    models, between = numbers["models"], numbers.get("TRN - TSN")
    return [
        half(models, numbers["n_elements"]),
        *(right_and_wrong(name, model) for name, model in models.items()),
        models_differ(between),
        ends_of_trn(models["TRN"], numbers["n_elements"], _PLACES.get(subject, "")),
        less_preference(between, models, _PLACES.get(subject, "")),
    ]


def half(models: dict[str, Any], n: int) -> Finding:
    """Reproduced from 40 to 60 % that do not support, weaker from 20 to 80 %, by TRN's mean."""
    finding = f"About half of {n} elements do not support the true class"
    shares = {name: _distracting(model) for name, model in models.items()}
    apart = abs(shares["TRN"]["mean"] - 0.5)
    verdict: Verdict = (
        "reproduced" if apart <= 0.1 else "weaker" if apart <= 0.3 else "contradicted"
    )
    measured = "; ".join(f"{name} {written(share)} %" for name, share in shares.items())
    accuracy = models["TRN"]["accuracy"]["mean"]
    why = ""
    if verdict != "reproduced" and shares["TRN"]["mean"] < 0.5 and accuracy > 0.9:
        why = f"Classes are easily told apart here: TRN is right in {100 * accuracy:.1f} %."
    return Finding(finding, "about half", measured, verdict, why)


def right_and_wrong(name: str, model: dict[str, Any]) -> Finding:
    """By the sign of the difference's whole interval; both groups must have 5 sequences."""
    finding = f"Right predictions have more supporting elements than wrong ones ({name})"
    counts = model["n_right"], model["n_wrong"]
    right, wrong = (written(model["groups"][g]["supporting"]) for g in ("right", "wrong"))
    measured = f"{right} % of {counts[0]} right, {wrong} % of {counts[1]} wrong"
    if min(counts) < LEAST:
        few = "wrong" if counts[1] < LEAST else "right"
        why = f"Fewer than {LEAST} predictions are {few}."
        return Finding(finding, "more", measured, "not measured", why)
    gap = model["right - wrong"]
    verdict = by_sign(gap)
    why = "The interval of the difference holds 0." if verdict == "weaker" else ""
    return Finding(finding, "more", f"{measured}; difference {written(gap)}", verdict, why)


def models_differ(between: dict[str, Any] | None) -> Finding:
    """Reproduced where the interval leaves out 0, contradicted where it lies within 2 points."""
    finding = "TSN and TRN differ in the share of supporting elements"
    if between is None:
        return Finding(finding, "differ", "-", "not measured", _capital(_NO_TSN))
    count, gap = between["n_both_right"], between["supporting, both right"]
    if count < LEAST:
        why = f"Both are right in fewer than {LEAST} sequences."
        return Finding(finding, "differ", "-", "not measured", why)
    measured = f"TRN - TSN {written(gap)} points in the {count} sequences that both get right"
    everywhere = f"{written(between['supporting, all'])} in all"
    low, high = gap["low"], gap["high"]
    verdict: Verdict = "weaker"
    why = "The interval holds 0." if low <= 0 <= high else ""
    if low >= -ALIKE and high <= ALIKE:
        verdict, why = "contradicted", "The interval lies within 2 points of 0."
    elif low > 0 or high < 0:
        verdict = "reproduced"
    return Finding(finding, "differ", f"{measured}, {everywhere}", verdict, why)


def ends_of_trn(trn: dict[str, Any], n: int, place: str) -> Finding:
    """Above chance of 2/n with the whole interval: both extremes, one (weaker), or neither."""
    finding = "The first and last elements matter most to TRN"
    if n <= 2:
        return Finding(finding, "", "-", "not measured", "There is nothing between the ends.")
    chance = 2 / n
    above = [found["low"] > chance for found in trn["ends"].values()]
    verdict: Verdict = ("contradicted", "weaker", "reproduced")[sum(above)]
    measured = (
        f"at either end lies the most supporting one in {written(trn['ends']['supporting'])} %,"
        f" the most distracting in {written(trn['ends']['distracting'])} %;"
        f" chance {100 * chance:.0f} %"
    )
    only = {(True, False): "Only the most supporting.", (False, True): "Only the most distracting."}
    why = f"{only.get((above[0], above[1]), '')} {place if verdict != 'reproduced' else ''}"
    return Finding(finding, "", measured, verdict, why.strip())


def less_preference(between: dict[str, Any] | None, models: dict[str, Any], place: str) -> Finding:
    """By the sign of the paired difference of the two preferences."""
    finding = "TSN prefers positions less than TRN"
    if between is None:
        return Finding(finding, "less", "-", "not measured", _capital(_NO_TSN))
    gap = between["preference"]
    verdict = by_sign(gap)
    shares = (f"{name} {written(model['preference'])}" for name, model in models.items())
    measured = (
        f"distance of the shares from chance (%): {', '.join(shares)}, TRN - TSN {written(gap)};"
        f" {100 * models['TRN']['preference']['of none']:.1f} is expected without preference"
    )
    holds = "The interval of the difference holds 0. " if verdict == "weaker" else ""
    return Finding(
        finding, "less", measured, verdict, (holds + place if verdict != "reproduced" else "")
    )


def _distracting(model: dict[str, Any]) -> dict[str, Any]:
    found = model["groups"]["all"]["supporting"]
    ends = {"mean": "mean", "low": "high", "high": "low"}
    return {name: None if found[end] is None else 1 - found[end] for name, end in ends.items()}


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
