"""Exact and sampled ESVs: run time, compile time, peak memory and share of a roofline.

    python -m experiments.benchmarks.core --out core.json

Weights have the paper's size (D = H = 256, C = 174 classes, n_max = 8); features are random, since
time does not depend on values. Each case runs in a process of its own, so that its peak memory and
first call, compile included, are its own. Runs unchanged on a CPU and on a GPU.

The roofline is simple: operations counted by `plan_cost`, bytes counted as weights once and the
table of all subsequences written once and read twice (by the recurrence, by the softmax), over
ceilings measured in the same run: a 2048 x 2048 matrix product in float32 and the pace of reading
256 MB. A share of 1 would be perfect overlap of nothing but that; caches can lift it beyond.

Next to each time stands that of the public PyTorch code of the paper (PyTorch 2.13 on 2 CPU cores,
measured on a machine of the same class, not in this run).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.games.scoring import GameInfo, memory_of
from experiments.records import write_cases

D, H, C, N_MAX = 256, 256, 174, 8
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
CASES = [f"exact-{n}" for n in (8, 10, 12, 14, 16, 18, 20)] + [
    "batch-8",
    "constructive-16-256-4",
    "constructive-16-1024-4",
    "constructive-49-1024-4",
    "surrogate-49-1024-0",
    "surrogate-49-1024-8",
]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    cases: tuple[str, ...] = tuple(CASES)
    """exact-N, batch-N (256 sequences), constructive-N-M-ITERATIONS, surrogate-N-POOL-ERROR_DRAWS
    (its plan is made before)."""
    repeats: int = 5
    """Timed calls of a case, after one that compiles; medians are reported."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def model() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    heads = [
        {
            "w1": (rng.normal(size=(s * D, H)) / np.sqrt(s * D)).astype(np.float32),
            "b1": np.zeros(H, np.float32),
            "w2": (rng.normal(size=(H, C)) / np.sqrt(H)).astype(np.float32),
            "b2": np.zeros(C, np.float32),
        }
        for s in range(1, N_MAX + 1)
    ]
    return ej.MultiScale(ej.models.stack_heads(heads)), jnp.full(C, 1 / C)


def seconds(run: Any, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return int(stats["peak_bytes_in_use"])
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def ceilings() -> dict[str, float]:
    """Operations and bytes per second that this machine reaches."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    jax.block_until_ready(product(a))
    stream = jnp.ones(2**26)
    read = jax.jit(jnp.sum)
    jax.block_until_ready(read(stream))
    return {
        "flops_per_second": 2 * 2048**3 / min(seconds(lambda: product(a), 7)),
        "bytes_per_second": 4 * 2**26 / min(seconds(lambda: read(stream), 7)),
    }


def measure(case: str, repeats: int) -> dict[str, Any]:
    """One case in this process."""
    limits = ceilings()
    game, prior = model()
    kind, *numbers = case.split("-")
    n = int(numbers[0])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(n, D)), jnp.float32)
    weights = sum(s * D * H + H * C for s in range(1, min(n, N_MAX) + 1)) * 4
    key, plan = None, None
    if kind == "constructive":
        estimator: Any = ej.Constructive(int(numbers[1]), int(numbers[2]))
        key = jax.random.key(0)
    elif kind == "surrogate":
        estimator = ej.Surrogate(int(numbers[1]), error_draws=int(numbers[2]))
        plan = estimator.draw(jax.random.key(0), GameInfo.of(game, n))
    else:
        estimator = ej.Exact()
    cost = ej.plan_cost(game, x, estimator)

    start = time.perf_counter()
    ej.explain(game, x, prior=prior, estimator=estimator, key=key, plan=plan)
    first_s = time.perf_counter() - start
    program = memory_of(game)[estimator, True]

    def call_program() -> Any:
        return program(game, x, prior, key, plan).values

    videos = 1
    if kind == "batch":
        videos = 256
        xs = jnp.asarray(np.random.default_rng(2).normal(size=(videos, n, D)), jnp.float32)

        def run() -> Any:
            return ej.explain_batch(game, xs, prior=prior).values
    else:

        def run() -> Any:
            att = ej.explain(game, x, prior=prior, estimator=estimator, key=key, plan=plan)
            return att.values

    jax.block_until_ready(run())
    times = seconds(run, max(repeats, 5))
    inner = seconds(call_program, max(repeats, 5))
    result: dict[str, Any] = {
        "case": case,
        "median_s": statistics.median(times),
        "min_s": min(times),
        "first_s": first_s,
        "program_s": statistics.median(inner),
        "peak_gb": peak_bytes() / 1e9,
        "load": os.getloadavg()[0],
        **limits,
    }
    if isinstance(estimator, ej.Exact):
        table = 2**n * C * 4
        flops, n_bytes = videos * (cost.flops or 0), weights + videos * 3 * table
        bound = max(flops / limits["flops_per_second"], n_bytes / limits["bytes_per_second"])
        result |= {"gflop": flops / 1e9, "gb": n_bytes / 1e9, "roofline_share": bound / min(times)}
    public = PUBLIC_SECONDS.get(case)
    if public:
        result |= {"public_s": public, "times_faster": public / statistics.median(times)}
    return result


def main(settings: Settings) -> None:
    rows = []
    for case in settings.cases:
        command = [sys.executable, "-m", "experiments.benchmarks.core", "--one", case]
        command += [str(settings.repeats)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(answer.stdout.splitlines()[-1]))
        print_row(rows[-1], header=len(rows) == 1)
    if settings.out is not None:
        write_cases(
            settings.out,
            rows,
            sizes={"D": D, "H": H, "C": C, "n_max": N_MAX},
        )


def print_row(row: dict[str, Any], header: bool) -> None:
    if header:
        print(
            f"{'case':24}{'median':>10}{'program':>10}{'target':>10}{'first':>9}{'peak':>9}"
            f"{'roofline':>10}{'public':>10}{'faster':>9}"
        )
    target = TARGET_SECONDS.get(row["case"])
    cells = [
        f"{row['case']:24}",
        f"{row['median_s'] * 1e3:>7.2f} ms",
        f"{row['program_s'] * 1e3:>7.2f} ms",
        f"{target * 1e3:>7.1f} ms" if target else f"{'-':>10}",
        f"{row['first_s']:>7.2f} s",
        f"{row['peak_gb']:>6.2f} GB",
        f"{row['roofline_share']:>10.0%}" if "roofline_share" in row else f"{'-':>10}",
        f"{row['public_s']:>8.3g} s" if "public_s" in row else f"{'-':>10}",
        f"{row['times_faster']:>8,.0f}x" if "times_faster" in row else f"{'-':>9}",
    ]
    print("".join(cells), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(tyro.cli(Settings, description=__doc__))
