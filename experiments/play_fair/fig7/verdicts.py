"""What figure 7 claims, by the rules that its docstring states."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.play_fair.figure import Finding, Verdict, plus_minus

FEWEST = 5  # wrong predictions
EXACT, CLOSE = 1e-5, 1e-3  # gaps of a sum
LITTLE, HALF = 0.1, 0.5  # of the contrast


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """All findings, from the numbers."""
    return [_sum(numbers), _divided(numbers), _deciding(numbers), _direction(numbers)]


def sum_verdict(gap: float) -> Verdict:
    """By the largest gap."""
    if gap <= EXACT:
        return "reproduced"
    return "weaker" if gap <= CLOSE else "contradicted"


def above(x: dict[str, float], bound: float) -> Verdict:
    """Whether a mean lies above a bound with its interval, by itself, or not at all."""
    if x["low"] > bound:
        return "reproduced"
    return "weaker" if x["mean"] > bound else "contradicted"


def gain_verdict(gain: dict[str, float]) -> Verdict:
    """Whether a paired difference lies above 0; weaker where its interval holds 0."""
    if gain["low"] > 0:
        return "reproduced"
    return "weaker" if gain["high"] >= 0 else "contradicted"


def direction_verdict(single: dict[str, Any]) -> Verdict:
    """By how much of the contrast single elements bring; both ends against the claim."""
    most = max(abs(single["alone"]["low"]), abs(single["alone"]["high"]))
    if most <= LITTLE * single["contrast"]["low"]:
        return "reproduced"
    return "weaker" if most <= HALF * single["contrast"]["low"] else "contradicted"


def text_of(x: dict[str, float] | None, scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval, in percent unless told otherwise."""
    return "-" if x is None else plus_minus(*(scale * value for value in x.values()), digits)


def _sum(numbers: dict[str, Any]) -> Finding:
    gap, n = numbers["sum_gap"], numbers["n_sequences"]
    finding = "the contrast shares out the difference of two classes' evidential scores"
    measured = f"largest gap {gap:.1e} over {n} sequences"
    return Finding(finding, "by definition", measured, sum_verdict(gap))


def _divided(numbers: dict[str, Any]) -> Finding:
    n, divided = numbers["n_wrong"], numbers["divided"]["wrong"]
    finding = "in a wrong prediction some frames speak for the true class, others for the predicted"
    if divided is None or n < FEWEST:
        reason = f"{n} wrong predictions of {numbers['n_sequences']}; {FEWEST} are asked for"
        return Finding(finding, "examples", "-", "not measured", reason)
    measured = (
        f"both kinds in {text_of(divided)} % of {n} wrong predictions;"
        f" {text_of(numbers['for_true']['wrong'])} % of the frames speak for the true class"
    )
    return Finding(finding, "examples", measured, above(divided, HALF))


def _deciding(numbers: dict[str, Any]) -> Finding:
    margins = numbers["margins"]
    finding = "the frames of highest contrast decide between the true class and its rival"
    if margins is None:
        return Finding(finding, "examples", "-", "not measured", "sequences of one element")
    measured = (
        f"margin {margins['all']['mean']:.2f} with all elements; with {margins['n_dropped']} of"
        f" {numbers['n_elements']} dropped {text_of(margins['contrast'], 1, 2)} by contrast,"
        f" {text_of(margins['ESV of the true class'], 1, 2)} by the true class's ESVs,"
        f" {text_of(margins['random'], 1, 2)} at random"
    )
    return Finding(finding, "examples", measured, gain_verdict(margins["gain"]))


def _direction(numbers: dict[str, Any]) -> Finding:
    finding = "single frames do not tell a class from the same class run backwards"
    single = numbers["single_reverse"]
    if numbers["reverse"] is None:
        reason = "no classes known to be each other reversed"
        return Finding(finding, "", "-", "not measured", reason)
    if single["contrast"] is None:
        reason = "no sequence whose rival is its class reversed"
        return Finding(finding, "", "-", "not measured", reason)
    at = np.array(numbers["positions"]["contrast"]["mean"])
    middle = slice(len(at) // 4, len(at) - len(at) // 4)
    measured = (
        f"the rival is the class reversed in {text_of(numbers['reverse'])} % of the sequences;"
        f" of the contrast, {text_of(single['contrast'], 1, 2)}, single frames bring"
        f" {text_of(single['alone'], 1, 3)}; the middle half of the positions holds"
        f" {100 * at[middle].sum() / at.sum():.0f} % of it"
    )
    return Finding(finding, "", measured, direction_verdict(single))
