"""Run time of perturbation masks and pixel metrics beside the bare model.

    python -m experiments.benchmarks.perturbation --out perturbation.json
    python -m experiments.benchmarks.perturbation --network r2plus1d_18 --clips 1 --areas 0.1

An iteration of STEP should take at most 1.15 times one forward and backward pass of the model on
the same clips (areas x modes). Insertion and deletion curves of a set are one compiled call; beside
them as many forward passes. All calls are compiled and take turns; ratios are medians over turns.
On CPUs there are two bare passes: of the model, and with its strided convolutions split as in STEP
(see `esv_jax.strided`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.models.networks import R2Plus1D18
from esv_jax.perturbation import Core, step
from esv_jax.strided import split_strides
from experiments.benchmarks.common import Repeated, command, in_turns, median

ROUNDS = 3  # iterations in a call that is timed
BARE, SPLIT, PASSES = "forward and backward", "the same, strides split", "bare passes of the curves"
BASES = {"STEP": (BARE, SPLIT), "STEP with core": (BARE, SPLIT), "curves": (PASSES,)}


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Network, sizes and repeats."""

    network: Literal["clip_cnn", "r2plus1d_18"] = "clip_cnn"
    """The small network that comes with the package (16 x 64 x 64), or R(2+1)D-18 with random
    weights (16 x 112 x 112)."""
    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """A mask each."""
    clips: int = 64
    """Clips of the curves."""
    steps: int = 16
    """Steps of the curves."""
    native: bool = True
    """Time the model's own gradient, slow on CPUs, as well."""


def network_of(settings: Settings) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """Clips -> probabilities, and the shape of a clip."""
    if settings.network == "clip_cnn":
        model = ej.models.load_synthetic_clips()
        module, variables, shape = model.module, model.variables, (16, 64, 64, 3)
    else:
        module, shape = R2Plus1D18(n_classes=20), (16, 112, 112, 3)
        variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    return lambda clips: jax.nn.softmax(module.apply(variables, clips)), shape


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Seconds of each case by iteration or clip, and ratios."""
    fn, shape = network_of(settings)
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.uniform(size=shape), jnp.float32)
    views = jnp.broadcast_to(clip, (len(settings.areas), *shape)) + 0.0
    many = jnp.asarray(rng.uniform(size=(settings.clips, *shape)), jnp.float32)
    maps = jnp.asarray(rng.uniform(size=many.shape[:-1]), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 3, settings.clips))
    curves = jax.jit(functools.partial(ej.metrics.insertion_deletion, fn, steps=settings.steps))
    forward = jax.jit(fn)

    def bare(model: Callable[[Any], Any]) -> Callable[[], Any]:
        run = jax.jit(jax.value_and_grad(lambda x: -jnp.log(model(x)[:, 3]).sum()))
        return lambda: run(views)

    def search(core: Core | None, iterations: int) -> Any:
        options = {"areas": settings.areas, "core": core, "key": jax.random.key(0)}
        return step(fn, clip, 3, iterations=iterations, **options)

    calls: dict[str, Callable[[], Any]] = {BARE: bare(fn)} if settings.native else {}
    calls |= {
        SPLIT: bare(split_strides(fn)),
        "STEP, short": lambda: search(None, 1),
        "STEP": lambda: search(None, 1 + ROUNDS),
        "STEP with core, short": lambda: search(Core(), 1),
        "STEP with core": lambda: search(Core(), 1 + ROUNDS),
        "curves": lambda: curves(many, maps, targets),
        PASSES: lambda: [forward(many) for _ in range(2 * settings.steps)][-1],
    }
    first, turns = in_turns(calls, settings.repeats)
    for turn in turns:
        for name in ("STEP", "STEP with core"):  # excludes the time around the iterations
            turn[name] = (turn[name] - turn.pop(f"{name}, short")) / ROUNDS
        for name in ("curves", PASSES):
            turn[name] /= settings.clips
    for name in turns[0]:
        bases = [base for base in BASES.get(name, ()) if base in calls]
        ratios = {base: median(turns, name, base) for base in bases}
        text = ", ".join(f"{value:.2f} x {base}" for base, value in ratios.items())
        times = {"first_s": first[name], "median_s": median(turns, name)}
        yield {"case": name, **times, "ratio": text, "ratios": ratios}


if __name__ == "__main__":
    command(Settings, __doc__, measured)
