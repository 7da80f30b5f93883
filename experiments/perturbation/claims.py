"""What should hold of masks and maps, decided by intervals over clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.intervals import Row, number, points, share
from experiments.perturbation.masks import CORE, DIFFERENCE, NO_CORE
from experiments.perturbation.measures import WANTED

STEP = ("step", "step_no_core")
SAME = 0.01
"""Areas that differ by less, and shares of the probability, are equal: the interval included."""


def leads(
    methods: Sequence[str], table: np.ndarray, ends: Any
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Paired differences of a metric (V, methods): STEP minus others, others minus random.

    Args:
      ends: values (V,) -> their interval.
    """
    at = {name: table[:, m] for m, name in enumerate(methods)}
    step = {name: ends(at["step"] - at[name]) for name in methods if name not in STEP}
    chance = {name: ends(at[name] - at["random"]) for name in methods if name != "random"}
    return step, chance


def claims(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What should hold, with its numbers."""
    masks, paired = summary["masks"], summary["core_minus"]
    rows = []
    row = masks[CORE]["coverage"]
    text = f"masks of a tenth of the volume cover at least {100 * WANTED:.0f} % of the evidence"
    measured = f"{share(row)}, keeping {share(masks[CORE]['kept'])} of the probability"
    rows.append((text, measured, row["mean"] >= WANTED))

    means = summary["means"]["insertion"]
    others = [name for name in means if name not in STEP]
    best = max(others, key=lambda name: means[name]["mean"])
    lead = summary["step_minus"][best]
    measured = f"{number(means['step'])}, best of the others {best}: difference {number(lead)}"
    rows.append(("STEP has the best insertion, or none is surely better", measured, _up(lead)))

    for other in (NO_CORE, DIFFERENCE):
        flicker, area, kept = (paired[other][name] for name in ("flicker", "area", "kept"))
        measured = (
            f"flicker {number(flicker, 4)}, area {number(area, 4)}, kept {points(kept)}"
            f" (flicker {masks[CORE]['flicker']['mean']:.4f},"
            f" {masks[other]['flicker']['mean']:.4f})"
        )
        equal = max(-area["low"], area["high"]) < SAME and kept["low"] > -SAME
        text = f"the core lowers flicker against {other}, at equal area and probability"
        rows.append((text, measured, flicker["high"] < 0 and equal))

    below = [name for name, row in summary["minus_random"].items() if row["low"] <= 0]
    measured = f"not surely: {', '.join(below)}" if below else "all of them, surely"
    rows.append(("every method has a better insertion than random", measured, not below))
    return [{"claim": c, "measured": m, "holds": bool(h)} for c, m, h in rows]


def _up(lead: Row) -> bool:
    """Whether a lead is none that is surely below 0."""
    return lead["high"] >= 0
