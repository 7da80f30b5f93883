"""Sampled ESVs: error, spread, coverage and time of the estimators by model evaluations.

At n = 16 against exact Element Shapley Values, at n = 49 against those of a long run:

- games that combine heads by scale: heads trained on a synthetic temporal-order problem, rough
  random heads, heads trained on JapaneseVowels. `Constructive` (Algorithm 1 of the paper) and
  `Surrogate` at equal distinct head evaluations;
- games that score each subsequence on its own: a tanh network, a rough max-pooled network.
  `SizeRegression`, `PermutationSampling` and `Constructive` at equal distinct evaluations.

Where shapiq is installed, two of its estimators run on the same games.

Claims:
  1. On the temporal-order game at n = 16 the surrogate's relative error is at most 1/8, 1/10 and
     1/8 of Algorithm 1's at (m, iterations) = (64, 1), (256, 1) and (1024, 1).
  2. At n = 49 a pool of 4096 leaves at most 3 % error and 3 % spread between runs.
  3. On rough random heads, which a model of pairs fits badly, its error is never larger.
  4. With a tenth of the head evaluations its error is at most twice that of the better of two
     estimators of shapiq, on trained and on rough heads.
  5. `SizeRegression` has at most the error of shapiq's at equal evaluations.
  6. 95 % intervals of every estimator cover the exact value in 93 to 97 % of cases, on every game
     with exact ESVs of at least 200 pairs of a sequence and a class.

    python -m experiments.estimators --data ../shared/games --out results/estimators --seed 0
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.files import make_folder
from experiments.estimators import games, measures, pictures
from experiments.harness import (
    Finding,
    as_json,
    as_rows,
    command,
    findings_table,
    markdown,
    require,
    sha256,
    surroundings,
    write_json,
)

_FILE = "temporal_order.npz"
_WITH_PEERS = ("temporal", "rough", "network", "rough_network")
_RATIOS = {64: 8, 256: 10, 1024: 8}  # Algorithm 1's error at (m, 1) / the surrogate's at pool m
_LONG_POOL, _LONG_LIMIT = 4096, 3.0  # per cent
_COVERAGE, _MIN_PAIRS = (93, 97), 200
Name = Literal["temporal", "rough", "vowels", "long", "network", "rough_network"]
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the data they determine its numbers on one backend."""

    out: Path = Path("results/estimators")
    """Folder for the results; files of an earlier run are replaced."""
    data: Path = Path("../shared/games")
    """Folder of temporal_order.npz; the default is relative to the root of a checkout."""
    series: Path = Path("../shared/data/series")
    """Folder of the JapaneseVowels `.ts` files; without them that game is skipped."""
    seed: int = 0
    """Seed of the runs, the random games and the training."""
    games: tuple[Name, ...] = ("temporal", "rough", "vowels", "long", "network", "rough_network")
    """Games to measure on."""
    n_sequences: int = 10
    """Sequences of 16 elements per game."""
    n_long: int = 6
    """Sequences of 49 elements."""
    n_keys: int = 4
    """Runs with different keys; two or more give a spread."""
    budgets: tuple[tuple[int, int], ...] = ((64, 1), (64, 4), (256, 1), (256, 4), (1024, 1))
    """Subsequences per scale and iterations of Algorithm 1."""
    pools: tuple[int, ...] = (64, 256, 1024)
    """Pools of the surrogate; one of m takes as many head evaluations as Algorithm 1 at (m, 1)."""
    long_budgets: tuple[tuple[int, int], ...] = ((1024, 4),)
    """Algorithm 1 at n = 49."""
    long_pools: tuple[int, ...] = (1024, 4096)
    """Pools at n = 49."""
    row_budgets: tuple[int, ...] = (128, 256, 512, 1024)
    """Evaluations of the games that score each subsequence on its own."""
    max_epochs: int = 60
    """Passes over the training sequences of JapaneseVowels."""
    peer_budgets: tuple[int, ...] = (512, 2048, 8192)
    """Values for shapiq where heads are combined by scale; a value is one exact f^ms."""
    peer_sequences: int = 4
    """Sequences per game for shapiq; 0 skips it."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        for name in ("n_sequences", "n_long", "n_keys"):
            expect_int(name, getattr(self, name), minimum=1)
        expect_int("peer_sequences", self.peer_sequences, minimum=0)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done, 2 where the data is missing."""
    return command(Settings, lambda s: table(run(s)), module="estimators", about=__doc__, args=args)


def run(settings: Settings) -> dict[str, Any]:
    """Measures and writes all files to `settings.out`.

    Returns:
      The content of `summary.json`.
    """
    require(settings.data, [_FILE], "--data")
    start = time.perf_counter()
    make_folder(settings.out)
    left_out = []
    library = measures.approximators() if settings.peer_sequences else None
    if library is None:
        reason = "shapiq is not installed" if settings.peer_sequences else "no sequences for them"
        left_out.append(f"other estimators: {reason}")
    data = [settings.data / _FILE]
    vowels = [settings.series / name for name in games.VOWELS]
    if "vowels" in settings.games:
        if all(path.is_file() for path in vowels):
            data += vowels
        else:
            left_out.append(f"JapaneseVowels: no {' and '.join(games.VOWELS)} in the series folder")
    found = {case.name: _measured(case, settings, library) for case in _cases(settings, data)}
    summary = {
        "experiment": "estimators",
        "findings": as_rows(findings(found)),
        "seed": settings.seed,
        "settings": as_json(settings),
        "games": found,
        "left_out": left_out,
        "data": {path.name: sha256(path) for path in data},
        "wall_seconds": round(time.perf_counter() - start, 1),
        **surroundings("shapiq"),
    }
    pictures.plot_errors(found, settings.out / "error.png")
    pictures.plot_coverage(found, settings.out / "coverage.png")
    write_json(settings.out / "summary.json", summary)
    return summary


def _cases(settings: Settings, data: Sequence[Path]) -> Iterator[games.Case]:
    """The selected games whose data exists."""
    count, seed = settings.n_sequences, settings.seed
    temporal, long = games.trained_cases(data[0], count, settings.n_long)
    if "temporal" in settings.games:
        yield temporal
    if "rough" in settings.games:
        yield games.rough_case(count, seed)
    if "vowels" in settings.games and len(data) > 1:
        yield games.vowels_case(settings.series, count, seed, settings.max_epochs)
    if "long" in settings.games:
        yield long
    if "network" in settings.games:
        yield games.network_case(temporal, seed)
    if "rough_network" in settings.games:
        yield games.rough_network_case(count, seed)


def _measured(case: games.Case, settings: Settings, library: Any | None) -> dict[str, Any]:
    """Measures of all estimators on a game."""
    rows = []
    with tqdm(_estimators(case, settings), desc=case.title, unit="estimator") as progress:
        for estimator in progress:
            progress.set_postfix_str(measures.short_name(estimator))
            rows.append(measures.measure(case, estimator, settings.n_keys, settings.seed))
    others = []
    if library is not None and case.name in _WITH_PEERS:
        budgets = settings.row_budgets if case.rowwise else settings.peer_budgets
        others = measures.measure_peers(
            library, case, budgets, settings.peer_sequences, settings.n_keys, settings.seed
        )
    return {
        "title": case.title,
        "n": case.n,
        "rowwise": case.rowwise,
        "n_sequences": len(case.xs),
        "n_pairs": case.n_pairs,
        "weights_digest": case.weights_digest(),
        "rows": rows,
        "peers": others,
    }


def _estimators(case: games.Case, settings: Settings) -> list[Any]:
    """Estimators with their budgets."""
    if case.rowwise:
        n, chosen = case.n, settings.row_budgets
        # Further evaluations: the whole sequence; for shapiq the empty one.
        regressions = [ej.SizeRegression(budget - 2) for budget in chosen]
        orders = [ej.PermutationSampling(max(2, budget // (2 * (n - 1)))) for budget in chosen]
        samples = [ej.Constructive(measures.matched_samples(n, b, 2), 2) for b in chosen]
        return [*regressions, *orders, *samples]
    if case.name == "long":
        budgets, pools = settings.long_budgets, settings.long_pools
    else:
        budgets, pools = settings.budgets, settings.pools
        if case.name in _WITH_PEERS and settings.peer_sequences:
            tenth = measures.matched_pool(case.n, case.game.n_scales, measures.all_heads(case) / 10)
            pools = tuple(sorted({*pools, tenth}))
    return [*(ej.Constructive(*b) for b in budgets), *(ej.Surrogate(p) for p in pools)]


def findings(found: Mapping[str, Any]) -> list[Finding]:
    """Numbers of the claims that the measured games decide."""
    rows: list[Finding] = []
    for name, game in found.items():
        if name == "temporal":
            rows += _error_ratios(game)
        if name == "long":
            rows += _long_sequences(game)
        if name == "rough":
            rows += _rough_heads(game)
        if game["peers"]:
            rows += _at_equal_evaluations(game) if game["rowwise"] else _at_a_tenth(game)
        if game["n_pairs"] >= _MIN_PAIRS:
            rows += _coverages(game)
    return rows


def _error_ratios(game: Row) -> Iterator[Finding]:
    ratios = error_ratios(game)
    for m, wanted in _RATIOS.items():
        if m in ratios:
            text = f"{game['title']}: error of Algorithm 1 / Surrogate({m})"
            yield Finding(text, f">= {wanted}", ratios[m], agrees=ratios[m] >= wanted)


def _long_sequences(game: Row) -> Iterator[Finding]:
    for row in game["rows"]:
        for name in ("relative_error", "spread"):
            if row["estimator"] == f"Surrogate({_LONG_POOL})" and row[name] is not None:
                text = f"{game['title']}: {row['estimator']}: {name.replace('_', ' ')} (%)"
                value = 100 * row[name]
                yield Finding(text, f"<= {_LONG_LIMIT:g}", value, agrees=value <= _LONG_LIMIT)


def _rough_heads(game: Row) -> Iterator[Finding]:
    ratios = error_ratios(game).values()
    if ratios:
        text = f"{game['title']}: least error of Algorithm 1 / Surrogate"
        yield Finding(text, ">= 1", min(ratios), agrees=min(ratios) >= 1)


def _at_a_tenth(game: Row) -> Iterator[Finding]:
    """The surrogate of most heads within a tenth of shapiq's, on the same sequences."""
    best = min(game["peers"], key=lambda row: row["relative_error"])
    rows = [
        row
        for row in game["rows"]
        if measures.family_of(row) == "Surrogate" and row["evaluations"] <= best["evaluations"] / 10
    ]
    if rows:
        row = max(rows, key=lambda row: row["evaluations"])
        ratio = first_error(row, best["n_sequences"]) / best["relative_error"]
        text = f"{game['title']}: error of {row['estimator']} / {best['estimator']}"
        note = f"{row['evaluations']:.0f} and {best['evaluations']} heads"
        yield Finding(text, "<= 2", ratio, agrees=ratio <= 2, note=note)


def _at_equal_evaluations(game: Row) -> Iterator[Finding]:
    """SizeRegression beside the better of shapiq's two, by budget, on the same sequences."""
    ratios = []
    for row in game["rows"]:
        others = [p for p in game["peers"] if p["evaluations"] == row["evaluations"]]
        if others and measures.family_of(row) == "SizeRegression":
            best = min(others, key=lambda row: row["relative_error"])
            ratios.append(first_error(row, best["n_sequences"]) / best["relative_error"])
    if ratios:
        text = f"{game['title']}: largest error of SizeRegression / shapiq, equal evaluations"
        yield Finding(text, "<= 1", max(ratios), agrees=max(ratios) <= 1)


def _coverages(game: Row) -> Iterator[Finding]:
    """The coverage furthest from 95 % of each estimator."""
    for family in measures.FAMILIES:
        shares = [
            100 * row["coverage"]
            for row in game["rows"]
            if measures.family_of(row) == family and row["coverage"] is not None
        ]
        if shares:
            worst = max(shares, key=lambda share: abs(share - 95))
            text = f"{game['title']}: coverage of 95 % intervals of {family}, furthest (%)"
            agrees = _COVERAGE[0] <= min(shares) and max(shares) <= _COVERAGE[1]
            yield Finding(text, "93 to 97", worst, agrees=agrees)


def error_ratios(game: Row) -> dict[int, float]:
    """Error of Algorithm 1 at (m, 1) over that of the surrogate at pool m, by m."""
    errors = {row["estimator"]: row["relative_error"] for row in game["rows"]}
    once = [int(name[13:-4]) for name in errors if re.fullmatch(r"Algorithm 1 \(\d+, 1\)", name)]
    return {
        m: errors[f"Algorithm 1 ({m}, 1)"] / errors[f"Surrogate({m})"]
        for m in once
        if f"Surrogate({m})" in errors
    }


def first_error(row: Row, n: int) -> float:
    """Relative error on the first n sequences."""
    errors = row["error_by_sequence"][:n]
    return float(sum(errors) / len(errors))


def table(summary: Row) -> str:
    """The numbers as Markdown."""
    parts = [f"estimators, seed {summary['seed']}, {summary['settings']['n_keys']} keys"]
    for game in summary["games"].values():
        head = (f"{game['title']}, {game['n_sequences']} sequences",)
        head += ("evaluations", "error (%)", "spread (%)", "coverage (%)", "ms", "plan s")
        rows = [
            (
                row["estimator"],
                f"{row['evaluations']:.0f}",
                *(_per_cent(row[name]) for name in ("relative_error", "spread", "coverage")),
                f"{1000 * row['seconds']:.1f}",
                f"{row['plan_seconds']:.2f}",
            )
            for row in game["rows"]
        ]
        parts.append(markdown(head, rows))
        if game["peers"]:
            parts.append(_peer_table(game))
    parts.append(findings_table(summary["findings"]))
    parts += [f"skipped: {reason}" for reason in summary["left_out"]]
    parts.append(f"{summary['wall_seconds']:.0f} s, with compilation")
    return "\n\n".join(parts)


def _peer_table(game: Row) -> str:
    """shapiq beside the library's estimators, on the sequences measured with both."""
    n = game["peers"][0]["n_sequences"]
    rows = [
        (row["estimator"], row["values"], row["evaluations"], _per_cent(row["relative_error"]))
        for row in game["peers"]
    ]
    rows += [
        (row["estimator"], "-", f"{row['evaluations']:.0f}", _per_cent(first_error(row, n)))
        for row in game["rows"]
    ]
    return markdown((f"the first {n} sequences", "values", "evaluations", "error (%)"), rows)


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
