"""Run time and memory of `BlackBox` beside the model.

    python -m experiments.benchmarks.black_box --out black_box.json

A model that takes 5 ms per clip is explained on 16 frames of 64 x 64 x 3. Overhead is the time of
`explain` outside of the model's function, as a share of the time inside it; the target is less
than 5 %. Median and least of the repeats are reported, since other load only adds to it. The model
either sleeps ("sleep": the processor is free, as beside an accelerator) or computes ("busy": matrix
products until the time is over). The first call, which compiles, is reported separately.

Memory is NumPy's peak during a call, traced in a run that is not timed; beside it the clips of one
batch, and copies of all subsequences.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import esv_jax as ej
from experiments.benchmarks.common import Table

C = 400  # classes
TARGET_SHARE = 0.05
CASES = (
    "sleep-regression-256",
    "sleep-regression-256-uint8",
    "sleep-regression-256-zeros",
    "sleep-regression-256-blur",
    "sleep-permutations-16",
    "sleep-exact-8",
    "busy-regression-256",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Cases and sizes."""

    cases: tuple[str, ...] = CASES
    """(sleep|busy)-(regression-BUDGET|permutations-M|exact-N), then a dtype or a removal."""
    clip_seconds: float = 0.005
    """Seconds of the model per clip."""
    batch_size: int = 32
    """Most clips per call of the model."""
    repeats: int = 5
    """Timed calls of a case, after one that compiles."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


class Model:
    """Scores from the clips' means, after a given time per clip; records the time it took."""

    def __init__(self, kind: str, clip_seconds: float) -> None:
        self.clip_seconds, self.kind = clip_seconds, kind
        rng = np.random.default_rng(0)
        self.weights = rng.normal(size=(3, C))
        self.matrix = rng.normal(size=(128, 128))
        self.seconds, self.clips, self.bytes = 0.0, 0, 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Scores (B, C) of clips (B, s, h, w, 3)."""
        start = time.perf_counter()
        end = start + self.clip_seconds * len(clips)
        few = clips[:, :, ::16, ::16].astype(float).mean((1, 2, 3)) / 255
        logits = few @ self.weights
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        if self.kind == "sleep":
            time.sleep(max(end - time.perf_counter(), 0))
        while time.perf_counter() < end:
            self.matrix @ self.matrix
        self.seconds += time.perf_counter() - start
        self.clips += len(clips)
        self.bytes += clips.nbytes
        return scores


def estimator_of(kind: str, number: int) -> tuple[Any, int]:
    """Estimator and number of frames of a case."""
    if kind == "exact":
        return ej.Exact(), number
    if kind == "permutations":
        return ej.PermutationSampling(number), 16
    return ej.SizeRegression(number), 16


def measure(case: str, settings: Settings) -> dict[str, Any]:
    """Times and memory of a case."""
    model_kind, kind, number, *more = case.split("-")
    estimator, n = estimator_of(kind, int(number))
    dtype = np.dtype("uint8" if "uint8" in more else "float32")
    removal: Any = next((word for word in more if word != "uint8"), "drop")
    model = Model(model_kind, settings.clip_seconds)
    game = ej.BlackBox(model, removal, settings.batch_size)
    rng = np.random.default_rng(1)
    prior = np.full(C, 1 / C, np.float32)

    def run() -> dict[str, float]:
        x = rng.integers(0, 256, (n, 64, 64, 3)).astype(dtype)
        model.seconds, model.clips, model.bytes = 0.0, 0, 0
        start = time.perf_counter()
        att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
        jax.block_until_ready(att.values)
        wall = time.perf_counter() - start
        counts = {"clips": model.clips, "bytes": model.bytes}
        return {"wall_s": wall, "model_s": model.seconds} | counts

    first = run()
    runs = [run() for _ in range(settings.repeats)]
    shares = [row["wall_s"] / row["model_s"] - 1 for row in runs]
    return {
        "case": case,
        "n": n,
        "clips": int(runs[0]["clips"]),
        "wall_s": statistics.median(row["wall_s"] for row in runs),
        "model_s": statistics.median(row["model_s"] for row in runs),
        "overhead": statistics.median(shares),
        "overhead_min": min(shares),
        "overhead_ms_per_clip": 1e3 * statistics.median(shares) * settings.clip_seconds,
        "first_extra_s": first["wall_s"] - first["model_s"],
        "peak_mb": traced_peak(run, model) / 1e6,
        "batch_mb": settings.batch_size * n * 64 * 64 * 3 * dtype.itemsize / 1e6,
        "all_clips_mb": runs[0]["bytes"] / 1e6,
        "load": os.getloadavg()[0],
    }


def traced_peak(run: Callable[[], Any], model: Model) -> int:
    """Peak bytes of Python and NumPy during a call, with a model that takes no time."""
    clip_seconds, model.clip_seconds = model.clip_seconds, 0.0
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        model.clip_seconds = clip_seconds


COLUMNS = {
    "case": "{case}",
    "clips": "{clips}",
    "wall": "{wall_s:.3f} s",
    "model": "{model_s:.3f} s",
    "overhead": "{overhead:.2%}",
    "least": "{overhead_min:.2%}",
    "first": "{first_extra_s:+.2f} s",
    "peak": "{peak_mb:.1f} MB",
    "a batch": "{batch_mb:.1f} MB",
    "all clips": "{all_clips_mb:.1f} MB",
}


def main(settings: Settings) -> None:
    print(f"target: overhead < {TARGET_SHARE:.0%}")
    table = Table(COLUMNS)
    for case in settings.cases:
        table.add(measure(case, settings))
    table.store(
        settings.out,
        clip_seconds=settings.clip_seconds,
        batch_size=settings.batch_size,
        target_share=TARGET_SHARE,
        classes=C,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
