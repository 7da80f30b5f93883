"""Run time, compile time, peak memory and roofline share of exact and sampled ESVs.

    python -m experiments.benchmarks.core --out core.json

Weights have the paper's size (D = H = 256, C = 174 classes, n_max = 8); features are random, since
time does not depend on values. Each case runs in its own process, for its peak memory and its first
call, which compiles. Runs on CPUs and GPUs.

Roofline: operations counted by `plan_cost`, bytes as weights once and the table of all subsequences
written once and read twice (recurrence, softmax), over ceilings measured in the same run: a
2048 x 2048 matrix product in float32 and reading 256 MB. Caches can lift the share beyond 1.

"public" is the time of the paper's PyTorch code (PyTorch 2.13 on 2 CPU cores of a machine of the
same class, not in this run).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import platform
import resource
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.games.scoring import GameInfo, memory_of
from experiments.benchmarks.common import Repeated, command, seconds, spread
from experiments.random_models import random_heads

D, H, C, N_MAX = 256, 256, 174, 8
VIDEOS = 256  # of a batch
PUBLIC_SECONDS = {  # the paper's public code
    "exact-8": 0.0048,
    "exact-10": 0.026,
    "exact-12": 0.58,
    "exact-14": 23.0,
    "exact-16": 194.0,
    "batch-8": 256 / 200,
    "constructive-16-256-4": 0.39,
    "constructive-16-1024-4": 10.0,
    "constructive-49-1024-4": 246.0,
}
TARGET_SECONDS = {
    "exact-8": 0.0015,
    "exact-12": 0.005,
    "exact-16": 0.045,
    "exact-20": 0.9,
    "batch-8": 256 / 3000,
    "constructive-49-1024-4": 1.5,
    "surrogate-49-1024-0": 0.4,
}
CASES = (
    *(f"exact-{n}" for n in (8, 10, 12, 14, 16, 18, 20)),
    "batch-8",
    *("constructive-16-256-4", "constructive-16-1024-4", "constructive-49-1024-4"),
    *("surrogate-49-1024-0", "surrogate-49-1024-1"),
)


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Cases and repeats, at least five."""

    cases: tuple[str, ...] = CASES
    """exact-N, batch-N (256 sequences), constructive-N-M-ITERATIONS, surrogate-N-POOL-ERRORS
    (its plan is made before)."""


def model() -> tuple[Any, Any]:
    return ej.MultiScale(random_heads(0, N_MAX, D, H, C)), jnp.full(C, 1 / C)


def peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return int(stats["peak_bytes_in_use"])
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def ceilings() -> dict[str, float]:
    """Operations and bytes per second of this machine."""
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    a, stream, read = jnp.ones((2048, 2048)), jnp.ones(2**26), jax.jit(jnp.sum)
    # The first of the calls compiles.
    return {
        "flops_per_second": 2 * 2048**3 / min(seconds(lambda: product(a)) for _ in range(8)),
        "bytes_per_second": 4 * 2**26 / min(seconds(lambda: read(stream)) for _ in range(8)),
    }


def measure(case: str, repeats: int) -> dict[str, Any]:
    """Times and memory of one case, in this process."""
    limits = ceilings()
    game, prior = model()
    kind, *rest = case.split("-")
    n, *numbers = map(int, rest)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(n, D)), jnp.float32)
    key, plan = None, None
    if kind == "constructive":
        estimator: Any = ej.Constructive(*numbers)
        key = jax.random.key(0)
    elif kind == "surrogate":
        estimator = ej.Surrogate(numbers[0], errors=bool(numbers[1]))
        plan = estimator.draw(jax.random.key(0), GameInfo.of(game, n))
    else:
        estimator = ej.Exact()
    cost = ej.plan_cost(game, x, estimator)

    def explained() -> Any:
        options = {"estimator": estimator, "key": key, "plan": plan}
        return ej.explain(game, x, prior=prior, **options).values

    first_s = seconds(explained)
    program = memory_of(game)[estimator, True]
    videos, run = 1, explained
    if kind == "batch":
        videos = VIDEOS
        xs = jnp.asarray(np.random.default_rng(2).normal(size=(videos, n, D)), jnp.float32)

        def run() -> Any:
            return ej.explain_batch(game, xs, prior=prior).values

    jax.block_until_ready(run())
    times = spread([seconds(run) for _ in range(max(repeats, 5))])
    inner = [seconds(lambda: program(game, x, prior, key, plan)) for _ in range(max(repeats, 5))]
    share, public = None, PUBLIC_SECONDS.get(case)
    if isinstance(estimator, ej.Exact):
        weights = sum(s * D * H + H * C for s in range(1, min(n, N_MAX) + 1)) * 4
        flops, n_bytes = videos * (cost.flops or 0), weights + videos * 3 * 2**n * C * 4
        bound = max(flops / limits["flops_per_second"], n_bytes / limits["bytes_per_second"])
        share, limits = bound / times["min_s"], limits | {"flops": flops, "bytes": n_bytes}
    return {
        "case": case,
        **times,
        "program_s": statistics.median(inner),
        "target_s": TARGET_SECONDS.get(case),
        "first_s": first_s,
        "peak_gb": peak_bytes() / 1e9,
        "roofline_share": share,
        "public_s": public,
        "times_faster": public and public / times["median_s"],
        "roofline": limits,
    }


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """The cases, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for case in settings.cases:
        with ProcessPoolExecutor(1, context) as pool:
            yield pool.submit(measure, case, settings.repeats).result()


if __name__ == "__main__":
    command(Settings, __doc__, measured)
