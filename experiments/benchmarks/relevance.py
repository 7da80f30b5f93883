"""Relevance beside a gradient of the same network: run time.

    python -m experiments.benchmarks.relevance --out relevance.json
    python -m experiments.benchmarks.relevance --frames 8

R(2+1)D-18 (random weights: time does not depend on them) on a clip of 16 x 112 x 112. LRP should
take at most 3 times what one gradient takes; discriminative relevance, which explains the clip and
one static clip for each of its frames, at most 1.2 times as much as so many LRP passes one by one.
All calls are compiled, take turns, and a ratio is the median over turns.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.models.networks import R2Plus1D18
from experiments.benchmarks.timing import seconds
from experiments.records import write_cases

PRESETS = ("zplus", "epsilon", "epsilon_plus", "epsilon_gamma", "alpha2_beta1")
TARGETS = dict.fromkeys(PRESETS[:3], 3.0) | {"discriminative": 1.2}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    frames: int = 16
    """Frames of the clip."""
    side: int = 112
    """Height and width."""
    repeats: int = 3
    """Timed calls of a case, after one that compiles."""
    discriminative: bool = True
    """Whether to measure discriminative relevance as well, which takes as long as all others."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def cases(settings: Settings) -> dict[str, Callable[[], Any]]:
    """Compiled calls on one clip."""
    module = R2Plus1D18(n_classes=20)
    rng = np.random.default_rng(0)
    size = (settings.frames, settings.side, settings.side, 3)
    clip = jnp.asarray(rng.uniform(size=size), jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), clip[None])

    def fn(x: Any) -> Any:
        return module.apply(variables, x[None])[0]

    compiled = {"gradient": jax.jit(jax.grad(lambda x: fn(x)[3]))}
    for name in PRESETS:
        compiled[name] = jax.jit(lambda x, name=name: ej.relevance.lrp(fn, x, 3, composite=name))
    if settings.discriminative:
        compiled["discriminative"] = jax.jit(lambda x: ej.relevance.discriminative(fn, x, 3))
    return {
        name: lambda run=run: jax.block_until_ready(run(clip)) for name, run in compiled.items()
    }


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Seconds and ratios of each case."""
    calls = cases(settings)
    first = {name: seconds(call) for name, call in calls.items()}
    turns = [{name: seconds(call) for name, call in calls.items()} for _ in range(settings.repeats)]
    rows = []
    for name in calls:
        base, times = "gradient", 1
        if name == "discriminative":
            base, times = "epsilon_plus", settings.frames + 1
        ratio = statistics.median(turn[name] / (times * turn[base]) for turn in turns)
        rows.append(
            {
                "case": name,
                "first": first[name],
                "median": statistics.median(turn[name] for turn in turns),
                "ratio": ratio,
                "of": base if times == 1 else f"{times} x {base}",
                "target": TARGETS.get(name),
            }
        )
    return rows


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    rows = measure(settings)
    print(f"{'case':16}{'first':>10}{'median':>10}{'ratio':>8}  {'of':22}{'target':>6}")
    for row in rows:
        target = f"{row['target']:.1f}" if row["target"] else "-"
        line = f"{row['case']:16}{row['first']:8.2f} s{row['median']:8.3f} s{row['ratio']:8.2f}"
        print(f"{line}  {row['of']:22}{target:>6}")
    if settings.out is not None:
        write_cases(
            settings.out,
            rows,
            platform=platform.platform(),
            load=os.getloadavg()[0],
            settings={"frames": settings.frames, "side": settings.side},
        )


if __name__ == "__main__":
    main()
