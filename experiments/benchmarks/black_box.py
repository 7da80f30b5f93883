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
import statistics
import time
import tracemalloc
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from experiments.benchmarks.common import Repeated, command

C = 400  # classes
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
class Settings(Repeated):
    """Cases and sizes."""

    cases: tuple[str, ...] = CASES
    """(sleep|busy)-(regression-BUDGET|permutations-M|exact-N), then a dtype or a removal."""
    clip_seconds: float = 0.005
    """Seconds of the model per clip."""
    batch_size: int = 32
    """Most clips per call of the model."""


class Model:
    """Scores from the clips' means, after a given time per clip; records the time it took."""

    def __init__(self, kind: str, clip_seconds: float) -> None:
        self.clip_seconds, self.kind = clip_seconds, kind
        rng = np.random.default_rng(0)
        self.weights, self.matrix = rng.normal(size=(3, C)), rng.normal(size=(128, 128))
        self.reset()

    def reset(self) -> None:
        """Forgets earlier calls."""
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


def measure(case: str, settings: Settings) -> dict[str, Any]:
    """Times and memory of a case."""
    model_kind, kind, number, *more = case.split("-")
    estimators = {"exact": lambda _: ej.Exact(), "permutations": ej.PermutationSampling}
    estimator = estimators.get(kind, ej.SizeRegression)(int(number))
    n = int(number) if kind == "exact" else 16
    dtype = np.dtype("uint8" if "uint8" in more else "float32")
    removal: Any = next((word for word in more if word != "uint8"), "drop")
    model = Model(model_kind, settings.clip_seconds)
    game = ej.BlackBox(model, removal, settings.batch_size)
    rng, prior = np.random.default_rng(1), np.full(C, 1 / C, np.float32)

    def run() -> tuple[float, float]:
        x = rng.integers(0, 256, (n, 64, 64, 3)).astype(dtype)
        model.reset()
        start = time.perf_counter()
        att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
        jax.block_until_ready(att.values)
        return time.perf_counter() - start, model.seconds

    first_wall, first_model = run()
    walls, models = np.array([run() for _ in range(settings.repeats)]).T
    shares = walls / models - 1
    counts = {"clips": model.clips, "all_clips_mb": model.bytes / 1e6}
    model.clip_seconds = 0.0
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "case": case,
        "n": n,
        **counts,
        "wall_s": statistics.median(walls.tolist()),
        "model_s": statistics.median(models.tolist()),
        "overhead": float(np.median(shares)),
        "overhead_min": float(shares.min()),
        "overhead_ms_per_clip": 1e3 * float(np.median(shares)) * settings.clip_seconds,
        "first_extra_s": first_wall - first_model,
        "peak_mb": peak / 1e6,
        "batch_mb": settings.batch_size * n * 64 * 64 * 3 * dtype.itemsize / 1e6,
    }


if __name__ == "__main__":
    command(Settings, __doc__, lambda s: (measure(case, s) for case in s.cases))
