"""The numbers of an experiment on labelled sequences for people: claims, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_EFFICIENCY = 1e-5  # largest gap of exact ESVs that rounding may leave


def claims(
    expected_accuracy: float, rows: Sequence[dict[str, Any]], discarded: dict[str, Any], gap: float
) -> list[dict[str, Any]]:
    """Each claim with the number measured and whether it holds."""
    accuracy = rows[-1]["accuracy"]
    found = [
        {
            "claim": f"accuracy from all elements >= {100 * expected_accuracy:g} %",
            "measured": f"{100 * accuracy:.1f} %",
            "holds": accuracy >= expected_accuracy,
        }
    ]
    for pair, difference in discarded["accuracy_difference"].items():
        mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
        found.append(
            {
                "claim": f"accuracy while dropping, {pair} > 0 (95 % interval)",
                "measured": f"{mean:.1f} points [{low:.1f}, {high:.1f}]",
                "holds": low > 0,
            }
        )
    found.append(
        {
            "claim": f"efficiency gap of exact ESVs < {_EFFICIENCY:g}",
            "measured": f"{gap:.1e}",
            "holds": gap < _EFFICIENCY,
        }
    )
    return found


def table(summary: dict[str, Any]) -> str:
    """The numbers of a summary for people."""
    lines = [f"{summary['experiment']}, seed {summary['seed']}", ""]
    lines += [f"{'elements':>8}  accuracy  sequences  left out  f^ms"]
    for row in summary["accuracy_by_elements"]:
        lines.append(
            f"{row['n']:>8}  {100 * row['accuracy']:6.1f} %  {row['n_sequences']:9}"
            f"  {row['left_out']:8}  {row['method']}"
        )
    pooled = summary["agreement"]["pooled"]
    lines += ["", f"efficiency gap of exact ESVs: {summary['efficiency_gap']:.1e}"]
    if pooled["n_sequences"]:
        lines.append(
            f"sampled against exact ESVs, {pooled['n_sequences']} sequences: relative error"
            f" {100 * pooled['relative_error']:.2f} %, Pearson {pooled['pearson']:.4f},"
            f" LAD slope {pooled['lad_slope']:.4f}"
        )
    lines += ["", *_discard_rows(summary["discard"])]
    lines += [""]
    for claim in summary["claims"]:
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(f"{verdict}: {claim['claim']}: {claim['measured']}")
    lines += ["", f"{sum(summary['wall_seconds'].values()):.0f} s, compilation included"]
    return "\n".join(lines)


def _discard_rows(discarded: dict[str, Any]) -> list[str]:
    """Accuracy with its interval, a line for each number of elements dropped."""
    orders = discarded["accuracy"]
    lines = [f"accuracy (%) of {discarded['n_sequences']} sequences as elements are dropped"]
    lines.append("dropped" + "".join(f"{name:>24}" for name in orders))
    for k in discarded["dropped"]:
        line = f"{k:>7}"
        for curve in orders.values():
            mean, low, high = (100 * curve[name][k] for name in ("mean", "low", "high"))
            line += f"{mean:9.1f} [{low:5.1f}, {high:5.1f}]"
        lines.append(line)
    return lines
