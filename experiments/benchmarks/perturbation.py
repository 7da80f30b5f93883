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
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.models.networks import R2Plus1D18
from esv_jax.perturbation import Core, step
from esv_jax.strided import split_strides
from experiments.benchmarks.common import Table, in_turns, median, seconds

ROUNDS = 3  # iterations in a call that is timed


@dataclasses.dataclass(frozen=True)
class Settings:
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
    repeats: int = 5
    """Timed calls of a case, after one that compiles."""
    whole: int = 0
    """Iterations of a whole search to time as well, for one clip and all areas; 0 for none."""
    native: bool = True
    """Time the model's own gradient, slow on CPUs, as well."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def network_of(settings: Settings) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """Clips -> probabilities, and the shape of a clip."""
    if settings.network == "clip_cnn":
        model = ej.models.load_synthetic_clips()
        module, variables, shape = model.module, model.variables, (16, 64, 64, 3)
    else:
        module, shape = R2Plus1D18(n_classes=20), (16, 112, 112, 3)
        variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    return lambda clips: jax.nn.softmax(module.apply(variables, clips)), shape


def cases(settings: Settings) -> dict[str, tuple[Callable[[], Any], int]]:
    """Calls, and by how many iterations or clips their times are divided."""
    fn, shape = network_of(settings)
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.uniform(size=shape), jnp.float32)
    views = jnp.broadcast_to(clip, (len(settings.areas), *shape)) + 0.0

    def bare(model: Callable[[Any], Any]) -> Callable[[], Any]:
        run = jax.jit(jax.value_and_grad(lambda x: -jnp.log(model(x)[:, 3]).sum()))
        return lambda: jax.block_until_ready(run(views))

    def search(core: Core | None, iterations: int) -> Callable[[], Any]:
        options = {"areas": settings.areas, "core": core, "key": jax.random.key(0)}
        return lambda: jax.block_until_ready(step(fn, clip, 3, iterations=iterations, **options))

    found: dict[str, tuple[Callable[[], Any], int]] = {}
    if settings.native:
        found["forward and backward"] = bare(fn), 1
    found["the same, strides split"] = bare(split_strides(fn)), 1
    for name, core in (("STEP", None), ("STEP with core", Core())):
        # The difference of two calls, one longer, excludes the time around the iterations.
        few, more = search(core, 1), search(core, 1 + ROUNDS)
        found[f"{name}, short"] = few, 1
        found[name] = more, 1
    many = jnp.asarray(rng.uniform(size=(settings.clips, *shape)), jnp.float32)
    maps = jnp.asarray(rng.uniform(size=many.shape[:-1]), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 3, settings.clips))
    curves = jax.jit(functools.partial(ej.metrics.insertion_deletion, fn, steps=settings.steps))
    found["curves"] = lambda: jax.block_until_ready(curves(many, maps, targets)), settings.clips
    forward = jax.jit(fn)
    n_passes = 2 * settings.steps

    def passes() -> None:
        for _ in range(n_passes):
            out = forward(many)
        jax.block_until_ready(out)

    found["bare passes of the curves"] = passes, settings.clips
    return found


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Seconds and ratios of each case."""
    calls = cases(settings)
    first, rounds = in_turns({name: call for name, (call, _) in calls.items()}, settings.repeats)
    turns = [{name: s / calls[name][1] for name, s in turn.items()} for turn in rounds]
    for turn in turns:
        for name in ("STEP", "STEP with core"):
            turn[name] = (turn[name] - turn.pop(f"{name}, short")) / ROUNDS
    rows = []
    for name in turns[0]:
        bases = {
            "STEP": ("forward and backward", "the same, strides split"),
            "STEP with core": ("forward and backward", "the same, strides split"),
            "curves": ("bare passes of the curves",),
        }.get(name, ())
        rows.append(
            {
                "case": name,
                "first": first[name],
                "median": median(turns, name),
                "ratios": {base: median(turns, name, base) for base in bases if base in turns[0]},
            }
        )
    if settings.whole:
        fn, shape = network_of(settings)
        clip = jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)
        options = {"areas": settings.areas, "key": jax.random.key(0)}
        whole = seconds(
            lambda: jax.block_until_ready(
                step(fn, clip, 3, iterations=settings.whole, core=Core(), **options)
            )
        )
        case = f"whole search, {settings.whole} iterations, compiling included"
        rows.append({"case": case, "first": whole, "median": whole, "ratios": {}})
    return rows


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    columns = {"case": "{case}", "first": "{first:.2f} s", "median": "{median:.4f} s"}
    table = Table(columns | {"ratio": "{ratio}"})
    for row in measure(settings):
        ratio = ", ".join(f"{value:.2f} x {base}" for base, value in row["ratios"].items())
        table.add(row | {"ratio": ratio})
    table.store(
        settings.out,
        platform=platform.platform(),
        load=os.getloadavg()[0],
        settings={"network": settings.network, "areas": list(settings.areas)},
    )


if __name__ == "__main__":
    main()
