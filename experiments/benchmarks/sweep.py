"""Videos per second of a sweep, from a file of features to stored results.

    python -m experiments.benchmarks.sweep --out sweep.json

Features, weights and labels are random, since time does not depend on values; sizes are the
paper's (256 features, 256 hidden units, 174 classes, heads of 1 to 8 frames). Lengths are those of
Something-Something v2's validation set where a table of frame counts is given (--counts), else
drawn from a similar distribution: 9 to 115 frames, median 35.

`8 frames` is the exact sweep of the whole set, all classes; beside it, in turns, videos explained
one by one by `explain`. `serial` is the share that more hosts do not reduce: opening, planning and
checking. The sampled cases sweep videos of 49 frames, all explained. Runs on CPUs and GPUs.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.sweeps.run import SweepReport
from experiments.benchmarks.common import Table, seconds

N_CLASSES, WIDTH, HIDDEN, N_MAX = 174, 256, 256, 8
TARGETS = {"8 frames": 2000.0, "Constructive(1024, 4)": 1 / 1.5, "Surrogate(1024)": 1 / 0.5}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    counts: Path | None = None
    """CSV with the columns uid and frame_count."""
    videos: int = 24_777
    """Videos of the set; with --counts at most as many."""
    alone: int = 256
    """Videos that are also explained one by one."""
    long: int = 4
    """Videos of 49 frames for each sampled estimator; 0 for none."""
    repeats: int = 3
    """Runs of the exact sweep; the median is reported."""
    folder: Path | None = None
    """Folder of features, which are reused, and results; default a temporary folder."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def lengths_of(settings: Settings) -> dict[str, int]:
    """Frames by uid."""
    if settings.counts is not None:
        with settings.counts.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {row["uid"]: int(row["frame_count"]) for row in rows[: settings.videos]}
    drawn = np.random.default_rng(0).lognormal(np.log(35), 0.35, settings.videos)
    return {str(i): int(n) for i, n in enumerate(np.clip(drawn, 9, 115))}


def random_features(lengths: dict[str, int]) -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
    """Normal features and labels."""
    rng = np.random.default_rng(1)
    for uid, n in lengths.items():
        x = rng.standard_normal((n, WIDTH), dtype=np.float32)
        yield uid, x, {"action": int(rng.integers(N_CLASSES))}


def random_model() -> ej.models.TrainedModel:
    """Heads whose scores differ."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    heads = [
        {
            "w1": weights(s * WIDTH, HIDDEN),
            "b1": np.zeros(HIDDEN, np.float32),
            "w2": 4 * weights(HIDDEN, N_CLASSES),
            "b2": np.zeros(N_CLASSES, np.float32),
        }
        for s in range(1, N_MAX + 1)
    ]
    names = tuple(f"class {c}" for c in range(N_CLASSES))
    prior = np.full(N_CLASSES, 1 / N_CLASSES)
    return ej.models.TrainedModel(ej.models.stack_heads(heads), prior, names)


def case_of(name: str, report: SweepReport, whole: float) -> dict[str, Any]:
    """Numbers of a sweep."""
    running = report.seconds - report.compile_seconds
    return {
        "case": name,
        "target": TARGETS.get(name),
        "videos": report.n_explained,
        "seconds": running,
        "compile_seconds": report.compile_seconds,
        "planning_seconds": report.planning_seconds,
        "whole_seconds": whole,
        "videos_per_second": report.n_explained / running,
        "seconds_per_video": running / report.n_explained,
        "padding_waste": report.padding_waste,
        "serial": report.planning_seconds / (report.planning_seconds + running),
    }


def swept(features: Path, model: Any, out: Path, name: str, **options: Any) -> dict[str, Any]:
    """One sweep into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    report = ej.sweep(features, model, out, **options)
    return case_of(name, report, time.perf_counter() - start)


def one_by_one(features: Path, model: Any, n: int) -> float:
    """Videos per second of `explain` in a loop, results fetched, reading left out."""
    game, prior = ej.MultiScale(model.heads), jnp.asarray(model.prior, jnp.float32)
    inputs = ej.data.open_inputs(features)
    clips = [read[0] for read in inputs.read_many(range(n), 8) if isinstance(read, tuple)]

    def every() -> None:
        for clip in clips:
            np.asarray(ej.explain(game, clip, prior=prior, marginals=False).values)

    np.asarray(ej.explain(game, clips[0], prior=prior, marginals=False).values)
    return len(clips) / seconds(every)


def measured(settings: Settings, folder: Path) -> Iterator[dict[str, Any]]:
    """All cases; the first has the runs of the exact sweep and `explain` one by one."""
    lengths, model = lengths_of(settings), random_model()
    features = folder / "features.hdf"
    if not features.exists():
        ej.data.write_features(features, random_features(lengths), WIDTH)
    cases, alone = [], []
    for _ in range(settings.repeats):
        cases.append(swept(features, model, folder / "exact", "8 frames", frames=8))
        alone.append(one_by_one(features, model, min(settings.alone, len(lengths))))
    best = sorted(cases, key=lambda case: case["videos_per_second"])[len(cases) // 2]
    best |= {"runs": [case["videos_per_second"] for case in cases]}
    best |= {"one_by_one": statistics.median(alone)}
    yield best
    if settings.long:
        few = folder / "long.hdf"
        ej.data.write_features(
            few,
            random_features({f"long {i}": 49 for i in range(settings.long)}),
            WIDTH,
            overwrite=True,
        )
        sampled: dict[str, Any] = {
            "Constructive(1024, 4)": ej.Constructive(1024, 4),
            "Surrogate(1024)": ej.Surrogate(1024, error_draws=0),
            "Surrogate(1024), error bars": ej.Surrogate(1024),
        }
        for name, estimator in sampled.items():
            key = jax.random.key(0)
            options = {"estimator": estimator, "key": key}
            yield swept(few, model, folder / "sampled", name, **options)


COLUMNS = {
    "case": "{case}",
    "videos": "{videos:,}",
    "videos/s": "{videos_per_second:,.4g}",
    "target": "{target:,.3g}",
    "one by one": "{one_by_one:,.4g}",
    "s each": "{seconds_per_video:.3g}",
    "compiling": "{compile_seconds:.1f} s",
    "planning": "{planning_seconds:.1f} s",
    "serial": "{serial:.1%}",
    "total": "{whole_seconds:.1f} s",
}


def main(settings: Settings) -> None:
    table = Table(COLUMNS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in measured(settings, folder):
            table.add(case)
    table.store(settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
