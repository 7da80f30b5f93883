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

import esv_jax as ej
from experiments.benchmarks.common import Repeated, command, seconds
from experiments.random_models import random_heads, with_names

N_CLASSES, WIDTH, HIDDEN, N_MAX = 174, 256, 256, 8
TARGETS = {"8 frames": 2000.0, "Constructive(1024, 4)": 1 / 1.5, "Surrogate(1024)": 1 / 0.5}


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Sizes and repeats."""

    repeats: int = 3
    """Runs of the exact sweep; the median is reported."""
    counts: Path | None = None
    """CSV with the columns uid and frame_count."""
    videos: int = 24_777
    """Videos of the set; with --counts at most as many."""
    alone: int = 256
    """Videos that are also explained one by one."""
    long: int = 4
    """Videos of 49 frames for each sampled estimator; 0 for none."""
    folder: Path | None = None
    """Folder of features, which are reused, and results; default a temporary folder."""


def lengths_of(counts: Path | None, videos: int) -> dict[str, int]:
    """Frames by uid."""
    if counts is not None:
        with counts.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {row["uid"]: int(row["frame_count"]) for row in rows[:videos]}
    drawn = np.random.default_rng(0).lognormal(np.log(35), 0.35, videos)
    return {str(i): int(n) for i, n in enumerate(np.clip(drawn, 9, 115))}


def write_random(path: Path, lengths: dict[str, int], *, overwrite: bool = False) -> Path:
    """Normal features and labels, written where they are absent."""
    rng = np.random.default_rng(1)

    def drawn() -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
        for uid, n in lengths.items():
            x = rng.standard_normal((n, WIDTH), dtype=np.float32)
            yield uid, x, {"action": int(rng.integers(N_CLASSES))}

    if overwrite or not path.exists():
        ej.data.write_features(path, drawn(), WIDTH, overwrite=overwrite)
    return path


def random_model() -> ej.models.TrainedModel:
    """Heads whose scores differ."""
    heads = random_heads(2, N_MAX, WIDTH, HIDDEN, N_CLASSES, gain=4)
    return with_names(heads, [f"class {c}" for c in range(N_CLASSES)])


def swept(features: Path, model: Any, out: Path, name: str, **options: Any) -> dict[str, Any]:
    """Numbers of one sweep into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    report = ej.sweep(features, model, out, **options)
    running = report.seconds - report.compile_seconds
    return {
        "case": name,
        "target_videos_per_second": TARGETS.get(name),
        "videos": report.n_explained,
        "seconds": running,
        "compile_seconds": report.compile_seconds,
        "planning_seconds": report.planning_seconds,
        "whole_seconds": time.perf_counter() - start,
        "videos_per_second": report.n_explained / running,
        "seconds_per_video": running / report.n_explained,
        "padding_waste": report.padding_waste,
        "serial": report.planning_seconds / (report.planning_seconds + running),
        "one_by_one": None,
    }


def one_by_one(features: Path, model: Any, n: int) -> float:
    """Videos per second of `explain` in a loop, results fetched, reading left out."""
    game, prior = ej.MultiScale(model.heads), jnp.asarray(model.prior, jnp.float32)
    inputs = ej.data.open_inputs(features)
    clips = [read[0] for read in inputs.read_many(range(n), 8) if isinstance(read, tuple)]

    def explained(clip: Any) -> np.ndarray:
        return np.asarray(ej.explain(game, clip, prior=prior, marginals=False).values)

    explained(clips[0])
    return len(clips) / seconds(lambda: [explained(clip) for clip in clips])


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """All cases; the first has the runs of the exact sweep and `explain` one by one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lengths, model = lengths_of(settings.counts, settings.videos), random_model()
        features, cases, alone = write_random(folder / "features.hdf", lengths), [], []
        for _ in range(settings.repeats):
            cases.append(swept(features, model, folder / "exact", "8 frames", frames=8))
            alone.append(one_by_one(features, model, min(settings.alone, len(lengths))))
        cases.sort(key=lambda case: case["videos_per_second"])
        runs = [case["videos_per_second"] for case in cases]
        best = cases[len(cases) // 2] | {"one_by_one": statistics.median(alone)}
        yield best | {"runs": runs}
        if not settings.long:
            return
        lengths = {f"long {i}": 49 for i in range(settings.long)}
        few = write_random(folder / "long.hdf", lengths, overwrite=True)
        sampled: dict[str, Any] = {
            "Constructive(1024, 4)": ej.Constructive(1024, 4),
            "Surrogate(1024)": ej.Surrogate(1024, errors=False),
            "Surrogate(1024), error bars": ej.Surrogate(1024),
        }
        for name, estimator in sampled.items():
            options = {"estimator": estimator, "key": jax.random.key(0)}
            yield swept(few, model, folder / "sampled", name, **options)


if __name__ == "__main__":
    command(Settings, __doc__, measured)
