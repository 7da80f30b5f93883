"""Run time of relevance beside a gradient of the same network.

    python -m experiments.benchmarks.relevance --out relevance.json
    python -m experiments.benchmarks.relevance --frames 8

R(2+1)D-18 (random weights: time does not depend on them) on a clip of 16 x 112 x 112. LRP should
take at most 3 times one gradient; discriminative relevance, which explains the clip and one static
clip for each of its frames, at most 1.2 times as many LRP passes. All calls are compiled and take
turns; a ratio is the median over turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.models.networks import R2Plus1D18
from experiments.benchmarks.common import Repeated, command, in_turns, median

PRESETS = ("zplus", "epsilon", "epsilon_plus", "epsilon_gamma", "alpha2_beta1")
TARGETS = dict.fromkeys(PRESETS[:3], 3.0) | {"discriminative": 1.2}


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Sizes and repeats."""

    repeats: int = 3
    """Timed calls of a case, after one that compiles."""
    frames: int = 16
    """Frames of the clip."""
    side: int = 112
    """Height and width."""
    discriminative: bool = True
    """Measure discriminative relevance as well, which takes as long as all others."""


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Seconds and ratios of each case on one clip."""
    module = R2Plus1D18(n_classes=20)
    size = (settings.frames, settings.side, settings.side, 3)
    clip = jnp.asarray(np.random.default_rng(0).uniform(size=size), jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), clip[None])

    def fn(x: Any) -> Any:
        return module.apply(variables, x[None])[0]

    compiled = {"gradient": jax.jit(jax.grad(lambda x: fn(x)[3]))}
    for name in PRESETS:
        compiled[name] = jax.jit(lambda x, name=name: ej.relevance.lrp(fn, x, 3, composite=name))
    if settings.discriminative:
        compiled["discriminative"] = jax.jit(lambda x: ej.relevance.discriminative(fn, x, 3))
    calls = {name: lambda run=run: run(clip) for name, run in compiled.items()}
    first, rounds = in_turns(calls, settings.repeats)
    for name in calls:
        base, times = "gradient", 1
        if name == "discriminative":
            base, times = "epsilon_plus", settings.frames + 1
        yield {
            "case": name,
            "first_s": first[name],
            "median_s": median(rounds, name),
            "ratio": median(rounds, name, base) / times,
            "of": base if times == 1 else f"{times} x {base}",
            "target_ratio": TARGETS.get(name),
        }


if __name__ == "__main__":
    command(Settings, __doc__, measured)
