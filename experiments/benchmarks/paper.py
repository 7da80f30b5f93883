"""Run time of gradient methods and discard curves at the size of the paper's heads.

    python -m experiments.benchmarks.paper --out paper.json

256 sequences of 8 elements, one class each, weights of the paper's size (D = H = 256, C = 174
classes, n_max = 8); values are random, since time does not depend on them. Integrated Gradients
with 50 steps should take at most 1.3 times the sum of 50 gradients of the same function by
`jax.grad`. Both are batched in two ways. "map": one sequence after another under `jax.lax.map`, all
its 50 points at once, the default of `integrated_gradients`, whose memory does not grow with the
batch. "vmap": all sequences at one point of the path, then at the next (`batch_size=1` under
`jax.vmap`).

Calls of all cases take turns; a ratio is the median over turns of a case's time over that of the
faster sum of gradients in the same turn.

Discard curves: those of 1,000 sequences in ascending order of 6 given sets of values, at the same
sizes, should take less than 60 s on 2 cores; compilation is counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.gradients.input_gradients import integration_rule
from experiments.benchmarks.common import Repeated, command, in_turns, median, seconds, spread
from experiments.benchmarks.core import N_MAX, C, D, model

STEPS = 50
METHODS = 6
BARE = ("50 gradients, map", "50 gradients, vmap")
ADVISED = "integrated gradients, map"
TARGET_RATIO, TARGET_SECONDS = 1.3, 60.0


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Sizes and repeats."""

    n_gradients: int = 256
    """Sequences whose gradients are taken."""
    n_discard: int = 1000
    """Sequences of the discard curves."""


def gradient_cases(n: int) -> dict[str, Callable[[], Any]]:
    """Compiled calls on the same n sequences, one class each; (n, N_MAX, D) or (n, N_MAX)."""
    fn = ej.gradients.score_function(model()[0], "identity")
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.normal(size=(n, N_MAX, D)), jnp.float32)
    classes = jnp.asarray(rng.integers(C, size=n))
    baseline = jnp.asarray(rng.normal(size=D), jnp.float32)
    rule = integration_rule("gausslegendre", STEPS)
    points, shares = (jnp.asarray(part, jnp.float32) for part in rule)

    def gradient(x: Any, c: Any, t: Any) -> Any:
        return jax.grad(lambda x: fn(x)[c])(baseline + t * (x - baseline))

    def bare_map(xs: Any, classes: Any) -> Any:
        def of_one(pair: Any) -> Any:
            x, c = pair
            each = jax.vmap(lambda t: gradient(x, c, t))(points)
            return (x - baseline) * jnp.tensordot(shares, each, 1)

        return jax.lax.map(of_one, (xs, classes))

    def bare_vmap(xs: Any, classes: Any) -> Any:
        def add(total: Any, point: Any) -> Any:
            t, share = point
            each = jax.vmap(lambda x, c: gradient(x, c, t))(xs, classes)
            return total + share * each, None

        total = jax.lax.scan(add, jnp.zeros_like(xs), (points, shares))[0]
        return (xs - baseline) * total

    def integrated(x: Any, c: Any, batch_size: int | None = None) -> Any:
        options = {"baseline": baseline, "steps": STEPS, "batch_size": batch_size}
        return ej.gradients.integrated_gradients(fn, x, c, **options)

    cases = {
        BARE[0]: bare_map,
        BARE[1]: bare_vmap,
        ADVISED: lambda xs, classes: jax.lax.map(lambda pair: integrated(*pair), (xs, classes)),
        "integrated gradients, vmap": jax.vmap(lambda x, c: integrated(x, c, 1)),
        "gradient x input, vmap": jax.vmap(lambda x, c: ej.gradients.gradient_x_input(fn, x, c)),
        "Grad-CAM, vmap": jax.vmap(lambda x, c: ej.gradients.grad_cam(fn, x, c)),
    }
    compiled = {name: jax.jit(case) for name, case in cases.items()}
    return {name: lambda run=run: run(xs, classes) for name, run in compiled.items()}


def discard(n: int) -> None:
    """Curves of n sequences by METHODS sets of values, one order each."""
    game, prior = model()
    rng = np.random.default_rng(2)
    xs = rng.normal(size=(n, N_MAX, D)).astype(np.float32)
    labels = rng.integers(C, size=n)
    for values in rng.normal(size=(METHODS, n, N_MAX)):
        ej.metrics.discard_curve(game, xs, values, labels, prior=prior)


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Times and ratios of all cases."""
    n = settings.n_gradients
    cases = gradient_cases(n)
    first, rounds = in_turns(cases, settings.repeats)
    faster = min(BARE, key=lambda name: median(rounds, name))
    for name in cases:
        yield {
            "case": name,
            "sequences": n,
            "first_s": first[name],
            **spread([turn[name] for turn in rounds]),
            "target_s": None,
            "ratio": median(rounds, name, faster),
            "target_ratio": TARGET_RATIO if name == ADVISED else None,
            "ratios": [turn[name] / turn[faster] for turn in rounds],
        }
    n = settings.n_discard
    once, *again = (seconds(lambda: discard(n)) for _ in range(settings.repeats + 1))
    row = {"case": f"discard curves, {METHODS} methods", "sequences": n, "first_s": once}
    targets = {"target_s": TARGET_SECONDS, "ratio": None, "target_ratio": None}
    yield row | spread(again) | targets


if __name__ == "__main__":
    command(Settings, __doc__, measured)
