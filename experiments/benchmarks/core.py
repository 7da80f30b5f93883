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
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.games.scoring import GameInfo, memory_of
from experiments.benchmarks.common import Table, seconds

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
    """Cases and repeats."""

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


def peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return int(stats["peak_bytes_in_use"])
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def ceilings() -> dict[str, float]:
    """Operations and bytes per second of this machine."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    jax.block_until_ready(product(a))
    stream = jnp.ones(2**26)
    read = jax.jit(jnp.sum)
    jax.block_until_ready(read(stream))
    return {
        "flops_per_second": 2 * 2048**3 / min(seconds(lambda: product(a)) for _ in range(7)),
        "bytes_per_second": 4 * 2**26 / min(seconds(lambda: read(stream)) for _ in range(7)),
    }


def measure(case: str, repeats: int) -> dict[str, Any]:
    """Times and memory of one case, in this process."""
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

    def explained() -> Any:
        att = ej.explain(game, x, prior=prior, estimator=estimator, key=key, plan=plan)
        return att.values

    first_s = seconds(explained)
    program = memory_of(game)[estimator, True]

    def call_program() -> Any:
        return program(game, x, prior, key, plan).values

    videos = 1
    run = explained
    if kind == "batch":
        videos = 256
        xs = jnp.asarray(np.random.default_rng(2).normal(size=(videos, n, D)), jnp.float32)

        def run() -> Any:
            return ej.explain_batch(game, xs, prior=prior).values

    jax.block_until_ready(run())
    times = [seconds(run) for _ in range(max(repeats, 5))]
    inner = [seconds(call_program) for _ in range(max(repeats, 5))]
    result: dict[str, Any] = {
        "case": case,
        "median_s": statistics.median(times),
        "min_s": min(times),
        "first_s": first_s,
        "program_s": statistics.median(inner),
        "peak_gb": peak_bytes() / 1e9,
        "target_s": TARGET_SECONDS.get(case),
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


COLUMNS = {
    "case": "{case}",
    "median": "{median_s:.5f} s",
    "program": "{program_s:.5f} s",
    "target": "{target_s:.5f} s",
    "first": "{first_s:.2f} s",
    "peak": "{peak_gb:.2f} GB",
    "roofline": "{roofline_share:.0%}",
    "public": "{public_s:.3g} s",
    "faster": "{times_faster:,.0f}x",
}


def main(settings: Settings) -> None:
    table = Table(COLUMNS)
    for case in settings.cases:
        command = [sys.executable, "-m", "experiments.benchmarks.core", "--one", case]
        command += [str(settings.repeats)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        table.add(json.loads(answer.stdout.splitlines()[-1]))
    table.store(settings.out, sizes={"D": D, "H": H, "C": C, "n_max": N_MAX})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(tyro.cli(Settings, description=__doc__))
