"""The estimators' numbers for people: claims, and a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_RATIOS = {64: 8, 256: 10, 1024: 8}  # Algorithm 1's error at (m, 1) / the surrogate's at pool m
_LONG_POOL, _LONG_LIMIT = 4096, 0.03
_COVERAGE, _MIN_PAIRS = (0.93, 0.97), 200
_FAMILIES = ("Algorithm 1", "Surrogate", "SizeRegression", "PermutationSampling")

Claim = dict[str, Any]


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """Each claim that the games at hand can settle, with the number measured."""
    settled: list[Claim] = []
    for name, game in found.items():
        if name == "temporal":
            settled += _ratio_claims(game)
        if name == "long":
            settled += _long_claims(game)
        if name == "rough":
            settled += _never_worse(game)
        if game["peers"]:
            settled += _at_equal_evaluations(game) if game["rowwise"] else _at_a_tenth(game)
        if game["n_pairs"] >= _MIN_PAIRS:
            settled += _coverage_claims(game)
    return settled


def table(summary: Mapping[str, Any]) -> str:
    """The numbers of a summary for people."""
    lines = [f"estimators, seed {summary['seed']}, {summary['settings']['n_keys']} keys"]
    for game in summary["games"].values():
        unit = "evals" if game["rowwise"] else "heads"
        lines += ["", f"{game['title']}, {game['n_sequences']} sequences"]
        lines += [
            f"{'':25}{unit:>7}{'error':>10}{'spread':>10}{'coverage':>10}{'ms':>8}{'plan s':>8}"
        ]
        for row in game["rows"]:
            lines.append(
                f"{row['estimator']:25}{row['evaluations']:7.0f}"
                f"{_per_cent(row['relative_error'])}"
                f"{_per_cent(row['spread'])}{_per_cent(row['coverage'])}"
                f"{1000 * row['seconds']:8.1f}{row['plan_seconds']:8.2f}"
            )
        if game["peers"]:
            lines += _peer_lines(game)
    lines += [""]
    for claim in summary["claims"]:
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(f"{verdict}: {claim['claim']}: {claim['measured']}")
    lines += [f"left out: {reason}" for reason in summary["left_out"]]
    lines += ["", f"{summary['wall_seconds']:.0f} s, compilation included"]
    return "\n".join(lines)


def family_of(row: Mapping[str, Any]) -> str:
    """The estimator of a row without its budget."""
    return str(row["estimator"]).partition("(")[0].strip()


def _ratio_claims(game: Mapping[str, Any]) -> Iterator[Claim]:
    ratios = _ratios(game)
    for m, wanted in _RATIOS.items():
        if m in ratios:
            claim = f"{game['title']}: Surrogate({m}) <= 1/{wanted} of Algorithm 1's error"
            yield _claim(claim, f"1/{ratios[m]:.1f}", ratios[m] >= wanted)


def _long_claims(game: Mapping[str, Any]) -> Iterator[Claim]:
    for row in game["rows"]:
        if row["estimator"] != f"Surrogate({_LONG_POOL})":
            continue
        for name in ("relative_error", "spread"):
            if row[name] is not None:
                claim = f"{game['title']}: {row['estimator']}: {name.replace('_', ' ')} <= 3 %"
                yield _claim(claim, f"{100 * row[name]:.2f} %", row[name] <= _LONG_LIMIT)


def _never_worse(game: Mapping[str, Any]) -> Iterator[Claim]:
    ratios = _ratios(game).values()
    if ratios:
        claim = f"{game['title']}: Surrogate is never worse than Algorithm 1"
        measured = f"1/{max(ratios):.1f} to 1/{min(ratios):.1f} of its error"
        yield _claim(claim, measured, min(ratios) >= 1)


def _at_a_tenth(game: Mapping[str, Any]) -> Iterator[Claim]:
    """The surrogate of most heads within a tenth of shapiq's, on the same sequences."""
    best = min(game["peers"], key=lambda row: row["relative_error"])
    rows = [
        row
        for row in game["rows"]
        if family_of(row) == "Surrogate" and row["evaluations"] <= best["evaluations"] / 10
    ]
    if rows:
        row = max(rows, key=lambda row: row["evaluations"])
        error, n = _first(row, best["n_sequences"]), best["n_sequences"]
        claim = (
            f"{game['title']}: {row['estimator']} ({row['evaluations']:.0f} heads) <= 2 x the error"
            f" of {best['estimator']} ({best['values']} values, {best['evaluations']} heads)"
        )
        measured = (
            f"{100 * error:.2f} against {100 * best['relative_error']:.2f} %, {n} sequences,"
            f" {error / best['relative_error']:.1f} x"
        )
        yield _claim(claim, measured, error <= 2 * best["relative_error"])


def _at_equal_evaluations(game: Mapping[str, Any]) -> Iterator[Claim]:
    """SizeRegression beside the better of shapiq's two, budget by budget, on the same sequences."""
    own = [row for row in game["rows"] if family_of(row) == "SizeRegression"]
    shares = []
    for row in own:
        theirs = [p for p in game["peers"] if p["evaluations"] == row["evaluations"]]
        if theirs:
            best = min(theirs, key=lambda row: row["relative_error"])
            shares.append(_first(row, best["n_sequences"]) / best["relative_error"])
    if shares:
        claim = f"{game['title']}: SizeRegression <= the error of shapiq's at equal evaluations"
        yield _claim(claim, f"{min(shares):.2f} to {max(shares):.2f} x", max(shares) <= 1)


def _coverage_claims(game: Mapping[str, Any]) -> Iterator[Claim]:
    for family in _FAMILIES:
        shares = [
            row["coverage"]
            for row in game["rows"]
            if family_of(row) == family and row["coverage"] is not None
        ]
        if shares:
            low, high = min(shares), max(shares)
            claim = f"{game['title']}: 95 % intervals of {family} cover 93 to 97 %, every budget"
            inside = _COVERAGE[0] <= low and high <= _COVERAGE[1]
            yield _claim(claim, f"{100 * low:.1f} to {100 * high:.1f} %", inside)


def _peer_lines(game: Mapping[str, Any]) -> list[str]:
    """shapiq beside our estimators, on the sequences that both saw."""
    n = game["peers"][0]["n_sequences"]
    unit = "evals" if game["rowwise"] else "heads"
    lines = [f"  the first {n} sequences alone"]
    lines += [f"  {'':25}{'values':>7}{unit:>8}{'error':>10}"]
    for row in game["peers"]:
        lines.append(
            f"  {row['estimator']:25}{row['values']:7}{row['evaluations']:8}"
            f"{_per_cent(row['relative_error'])}"
        )
    for row in game["rows"]:
        error = _per_cent(_first(row, n))
        lines.append(f"  {row['estimator']:25}{'':7}{row['evaluations']:8.0f}{error}")
    return lines


def _claim(claim: str, measured: str, holds: bool) -> Claim:
    return {"claim": claim, "measured": measured, "holds": bool(holds)}


def _ratios(game: Mapping[str, Any]) -> dict[int, float]:
    """Algorithm 1's error at (m, 1) over the surrogate's at pool m, by m."""
    errors = {row["estimator"]: row["relative_error"] for row in game["rows"]}
    once = [int(name[13:-4]) for name in errors if re.fullmatch(r"Algorithm 1 \(\d+, 1\)", name)]
    return {
        m: errors[f"Algorithm 1 ({m}, 1)"] / errors[f"Surrogate({m})"]
        for m in once
        if f"Surrogate({m})" in errors
    }


def _first(row: Mapping[str, Any], n: int) -> float:
    """Relative error on the first n sequences."""
    errors = row["error_by_sequence"][:n]
    return float(sum(errors) / len(errors))


def _per_cent(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{100 * value:8.2f} %"
