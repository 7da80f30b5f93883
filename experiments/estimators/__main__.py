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
  3. On rough random heads, which a model of pairs fits badly, it is never worse.
  4. With a tenth of the head evaluations its error is at most twice that of the better of two
     estimators of shapiq, on trained and on rough heads.
  5. `SizeRegression` has at most the error of shapiq's at equal evaluations.
  6. 95 % intervals of every estimator cover the exact value in 93 to 97 % of cases, on every game
     with exact ESVs of at least 200 pairs of a sequence and a class.

    python -m experiments.estimators --data ../shared/games --out results/estimators --seed 0
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.files import make_folder
from experiments.estimators import figures, games, measures, peers, report, row_games
from experiments.records import as_json, sha256, surroundings, write_json

_FILE = "temporal_order.npz"
_WITH_PEERS = ("temporal", "rough", "network", "rough_network")
Name = Literal["temporal", "rough", "vowels", "long", "network", "rough_network"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; with the data they determine its numbers on one backend."""

    out: Path = Path("results/estimators")
    """Folder for the results; made if absent, and files of an earlier run are replaced."""
    data: Path = Path("../shared/games")
    """Folder of temporal_order.npz; the default is beside a checkout, seen from its root."""
    series: Path = Path("../shared/data/series")
    """Folder of the JapaneseVowels `.ts` files; without them that game is left out."""
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
    """Sequences per game for shapiq; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Refuse counts below 1; the library asks about the rest."""
        for name in ("n_sequences", "n_long", "n_keys"):
            expect_int(name, getattr(self, name), minimum=1)
        expect_int("peer_sequences", self.peer_sequences, minimum=0)


def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line: 0 when done, 2 where the data is missing."""
    prog = "python -m experiments.estimators"
    settings = tyro.cli(Settings, prog=prog, description=__doc__, args=args)
    if not (settings.data / _FILE).is_file():
        print(f"No {_FILE} in {settings.data}; see --data.", file=sys.stderr)
        return 2
    print(report.table(run(settings)))
    return 0


def run(settings: Settings) -> dict[str, Any]:
    """Measure, write everything to `settings.out`; what `summary.json` holds."""
    start = time.perf_counter()
    make_folder(settings.out)
    left_out = []
    library = peers.approximators() if settings.peer_sequences else None
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
        "claims": report.claims(found),
        "seed": settings.seed,
        "settings": as_json(settings),
        "games": found,
        "left_out": left_out,
        "data": {path.name: sha256(path) for path in data},
        "wall_seconds": round(time.perf_counter() - start, 1),
        **surroundings("shapiq"),
    }
    figures.plot_errors(found, settings.out / "error.png")
    figures.plot_coverage(found, settings.out / "coverage.png")
    write_json(settings.out / "summary.json", summary)
    return summary


def _cases(settings: Settings, data: Sequence[Path]) -> Iterator[games.Case]:
    """The games asked for whose data is there."""
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
        yield row_games.network_case(temporal, seed)
    if "rough_network" in settings.games:
        yield row_games.rough_network_case(count, seed)


def _measured(case: games.Case, settings: Settings, library: Any | None) -> dict[str, Any]:
    """What all estimators do on a game."""
    rows = []
    with tqdm(_estimators(case, settings), desc=case.title, unit="estimator") as progress:
        for estimator in progress:
            progress.set_postfix_str(measures.short_name(estimator))
            rows.append(measures.measure(case, estimator, settings.n_keys, settings.seed))
    others = []
    if library is not None and case.name in _WITH_PEERS:
        budgets = settings.row_budgets if case.rowwise else settings.peer_budgets
        others = peers.measure_peers(
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
    """Which estimators at which budgets."""
    if case.rowwise:
        n, chosen = case.n, settings.row_budgets
        # One evaluation is the whole sequence's; one value of shapiq's is the empty one's.
        regressions = [ej.SizeRegression(budget - 2) for budget in chosen]
        orders = [ej.PermutationSampling(max(2, budget // (2 * (n - 1)))) for budget in chosen]
        samples = [ej.Constructive(measures.matched_samples(n, b, 2), 2) for b in chosen]
        return [*regressions, *orders, *samples]
    if case.name == "long":
        budgets, pools = settings.long_budgets, settings.long_pools
    else:
        budgets, pools = settings.budgets, settings.pools
        if case.name in _WITH_PEERS and settings.peer_sequences:
            tenth = measures.matched_pool(case.n, case.game.n_scales, peers.all_heads(case) / 10)
            pools = tuple(sorted({*pools, tenth}))
    return [*(ej.Constructive(*b) for b in budgets), *(ej.Surrogate(p) for p in pools)]


if __name__ == "__main__":
    sys.exit(main())
