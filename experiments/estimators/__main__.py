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
from experiments import harness
from experiments.estimators import games, measures, pictures
from experiments.harness import Finding, markdown

_FILE = "temporal_order.npz"
_WITH_PEERS = ("temporal", "rough", "network", "rough_network")
_RATIOS = {64: 8, 256: 10, 1024: 8}  # Algorithm 1's error at (m, 1) / the surrogate's at pool m
_LONG_POOL, _LONG_LIMIT = 4096, 3.0  # per cent
_COVERAGE, _MIN_PAIRS = (93, 97), 200
Name = Literal["temporal", "rough", "vowels", "long", "network", "rough_network"]
Row = Mapping[str, Any]
Claim = tuple[str, str, float, bool, str]


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
    return harness.command(
        Settings, lambda s: table(run(s)), module="estimators", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Measures and writes all files to `settings.out`; returns the content of `summary.json`."""
    harness.require(settings.data, [_FILE], "--data")
    start = time.perf_counter()
    make_folder(settings.out)
    chosen, left_out = list(settings.games), []
    library = measures.approximators() if settings.peer_sequences else None
    if library is None:
        reason = "shapiq is not installed" if settings.peer_sequences else "no sequences for them"
        left_out.append(f"other estimators: {reason}")
    data = [settings.data / _FILE]
    if "vowels" in chosen:
        vowels = [settings.series / name for name in games.VOWELS]
        if all(path.is_file() for path in vowels):
            data += vowels
        else:
            chosen.remove("vowels")
            left_out.append(f"JapaneseVowels: no {' and '.join(games.VOWELS)} in the series folder")
    found = {case.name: _measured(case, settings, library) for case in _cases(settings, chosen)}
    summary = {
        "experiment": "estimators",
        "findings": harness.as_rows(findings(found)),
        "seed": settings.seed,
        "settings": harness.as_json(settings),
        "games": found,
        "left_out": left_out,
        "data": {path.name: harness.sha256(path) for path in data},
        "wall_seconds": round(time.perf_counter() - start, 1),
        **harness.surroundings("shapiq"),
    }
    pictures.plot_errors(found, settings.out / "error.png")
    pictures.plot_coverage(found, settings.out / "coverage.png")
    harness.write_json(settings.out / "summary.json", summary)
    return summary


def _cases(settings: Settings, chosen: Sequence[str]) -> list[games.Case]:
    count, seed, epochs = settings.n_sequences, settings.seed, settings.max_epochs
    temporal, long = games.trained_cases(settings.data / _FILE, count, settings.n_long)
    makers = {
        "temporal": lambda: temporal,
        "rough": lambda: games.rough_case(count, seed),
        "vowels": lambda: games.vowels_case(settings.series, count, seed, epochs),
        "long": lambda: long,
        "network": lambda: games.network_case(temporal, seed),
        "rough_network": lambda: games.rough_network_case(count, seed),
    }
    return [make() for name, make in makers.items() if name in chosen]


def _measured(case: games.Case, settings: Settings, library: Any | None) -> dict[str, Any]:
    """Measures of all estimators on a game."""
    runs, rows, others = (settings.n_keys, settings.seed), [], []
    with tqdm(_estimators(case, settings), desc=case.title, unit="estimator") as progress:
        for estimator in progress:
            progress.set_postfix_str(measures.short_name(estimator))
            rows.append(measures.measure(case, estimator, *runs))
    if library is not None and case.name in _WITH_PEERS:
        budgets = settings.row_budgets if case.rowwise else settings.peer_budgets
        others = measures.measure_peers(library, case, budgets, settings.peer_sequences, *runs)
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
    return [
        Finding(f"{game['title']}: {text}", expected, value, agrees=agrees, note=note)
        for name, game in found.items()
        for text, expected, value, agrees, note in _claims(name, game)
    ]


def _claims(name: str, game: Row) -> Iterator[Claim]:
    """Quantity, expected value, number, agreement and note of each claim about a game."""
    ratios = error_ratios(game)
    if name == "temporal":
        for m, wanted in _RATIOS.items():
            if m in ratios:
                text, ratio = f"error of Algorithm 1 / Surrogate({m})", ratios[m]
                yield text, f">= {wanted}", ratio, ratio >= wanted, ""
    if name == "long":
        for row in game["rows"]:
            for part in ("relative_error", "spread"):
                if row["estimator"] == f"Surrogate({_LONG_POOL})" and row[part] is not None:
                    text, value = (
                        f"{row['estimator']}: {part.replace('_', ' ')} (%)",
                        100 * row[part],
                    )
                    yield text, f"<= {_LONG_LIMIT:g}", value, value <= _LONG_LIMIT, ""
    if name == "rough" and ratios:
        least = min(ratios.values())
        yield "least error of Algorithm 1 / Surrogate", ">= 1", least, least >= 1, ""
    if game["peers"]:
        yield from _at_equal_evaluations(game) if game["rowwise"] else _at_a_tenth(game)
    for family in measures.FAMILIES if game["n_pairs"] >= _MIN_PAIRS else ():
        rows = (row for row in _of(game, family) if row["coverage"] is not None)
        shares = [100 * row["coverage"] for row in rows]
        if shares:
            text = f"coverage of 95 % intervals of {family}, furthest (%)"
            agrees = _COVERAGE[0] <= min(shares) and max(shares) <= _COVERAGE[1]
            yield text, "93 to 97", max(shares, key=lambda share: abs(share - 95)), agrees, ""


def _at_a_tenth(game: Row) -> Iterator[Claim]:
    """The surrogate of most heads within a tenth of shapiq's, on the same sequences."""
    best = min(game["peers"], key=lambda row: row["relative_error"])
    rows = [r for r in _of(game, "Surrogate") if r["evaluations"] <= best["evaluations"] / 10]
    if rows:
        row = max(rows, key=lambda row: row["evaluations"])
        ratio = first_error(row, best["n_sequences"]) / best["relative_error"]
        text = f"error of {row['estimator']} / {best['estimator']}"
        note = f"{row['evaluations']:.0f} and {best['evaluations']} heads"
        yield text, "<= 2", ratio, ratio <= 2, note


def _at_equal_evaluations(game: Row) -> Iterator[Claim]:
    """SizeRegression beside the better of shapiq's two, by budget, on the same sequences."""
    ratios = []
    for row in _of(game, "SizeRegression"):
        others = [p for p in game["peers"] if p["evaluations"] == row["evaluations"]]
        if others:
            best = min(others, key=lambda row: row["relative_error"])
            ratios.append(first_error(row, best["n_sequences"]) / best["relative_error"])
    if ratios:
        text = "largest error of SizeRegression / shapiq, equal evaluations"
        yield text, "<= 1", max(ratios), max(ratios) <= 1, ""


def _of(game: Row, family: str) -> list[Row]:
    return [row for row in game["rows"] if measures.family_of(row) == family]


def error_ratios(game: Row) -> dict[int, float]:
    """Error of Algorithm 1 at (m, 1) over that of the surrogate at pool m, by m."""
    errors = {row["estimator"]: row["relative_error"] for row in game["rows"]}
    once = (re.fullmatch(r"Algorithm 1 \((\d+), 1\)", name) for name in errors)
    return {
        int(name[1]): errors[name[0]] / errors[f"Surrogate({name[1]})"]
        for name in once
        if name and f"Surrogate({name[1]})" in errors
    }


def first_error(row: Row, n: int) -> float:
    """Relative error on the first n sequences."""
    errors = row["error_by_sequence"][:n]
    return float(sum(errors) / len(errors))


def table(summary: Row) -> str:
    """The numbers as Markdown."""

    def per_cent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    parts = [f"estimators, seed {summary['seed']}, {summary['settings']['n_keys']} keys"]
    numbers = ("relative_error", "spread", "coverage")
    for game in summary["games"].values():
        head = (f"{game['title']}, {game['n_sequences']} sequences",)
        head += ("evaluations", "error (%)", "spread (%)", "coverage (%)", "ms", "plan s")
        rows = [
            (
                row["estimator"],
                f"{row['evaluations']:.0f}",
                *(per_cent(row[name]) for name in numbers),
                f"{1000 * row['seconds']:.1f}",
                f"{row['plan_seconds']:.2f}",
            )
            for row in game["rows"]
        ]
        parts.append(markdown(head, rows))
        if game["peers"]:  # beside the library's estimators, on the sequences measured with both
            n = game["peers"][0]["n_sequences"]
            both = [
                (row["estimator"], row["values"], row["evaluations"], row["relative_error"])
                for row in game["peers"]
            ] + [
                (row["estimator"], "-", f"{row['evaluations']:.0f}", first_error(row, n))
                for row in game["rows"]
            ]
            head = (f"the first {n} sequences", "values", "evaluations", "error (%)")
            parts.append(markdown(head, [(*row, per_cent(error)) for *row, error in both]))
    parts.append(harness.findings_table(summary["findings"]))
    parts += [f"skipped: {reason}" for reason in summary["left_out"]]
    return "\n\n".join([*parts, f"{summary['wall_seconds']:.0f} s, with compilation"])


if __name__ == "__main__":
    sys.exit(main())
