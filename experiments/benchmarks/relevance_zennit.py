"""Run time of LRP beside zennit, on R(2+1)D-18 with the same weights and composite.

    python -m experiments.benchmarks.relevance_zennit --out relevance_zennit.json

Needs torch, torchvision and zennit beside this package. Composite: epsilon for the last layer, z+
for convolutions, batch norms folded. Weights and the clip are random, since time does not depend
on them. Both take turns; `esv_jax` is compiled, zennit's composite is registered before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from esv_jax.extras import require
from esv_jax.models.clip_model import clip_network_from_state_dict
from experiments.benchmarks.common import in_turns, median
from experiments.harness import as_json, surroundings, write_json

TARGET = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    frames: int = 16
    """Frames of the clip."""
    side: int = 112
    """Height and width."""
    repeats: int = 5
    """Timed calls of each, after one that is not timed."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def cases(settings: Settings) -> dict[str, Callable[[], Any]]:
    """Calls of both libraries on one clip."""
    torch = require("torch", "parity")
    composites = require("zennit.composites", "parity")
    canonizers = require("zennit.canonizers", "parity")
    network = require("torchvision.models.video", "parity").r2plus1d_18(num_classes=20).eval()
    state = {name: array.numpy() for name, array in network.state_dict().items()}
    module, variables = clip_network_from_state_dict("r2plus1d_18", state)
    rng = np.random.default_rng(0)
    clip = rng.uniform(size=(settings.frames, settings.side, settings.side, 3)).astype(np.float32)

    @jax.jit
    def by_esv_jax(x: jax.Array) -> jax.Array:
        return ej.relevance.lrp(
            lambda x: module.apply(variables, x[None])[0], x, TARGET, composite="epsilon_plus"
        )

    x = jnp.asarray(clip)
    tensor = torch.from_numpy(np.moveaxis(clip, -1, 0)[None].copy()).requires_grad_()
    merge = canonizers.SequentialMergeBatchNorm()
    composite = composites.EpsilonPlus(canonizers=[merge])
    composite.register(network)  # not timed

    def by_zennit() -> Any:
        scores = network(tensor)
        start = torch.zeros_like(scores)
        start[0, TARGET] = scores[0, TARGET].detach()
        return torch.autograd.grad(scores, tensor, start)

    return {"esv_jax": lambda: by_esv_jax(x), "zennit": by_zennit}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    calls = cases(settings)
    _, turns = in_turns(calls, settings.repeats)
    medians = {name: median(turns, name) for name in calls}
    ratio = median(turns, "esv_jax", "zennit")
    for name, seconds in medians.items():
        print(f"{name:10}{seconds:8.3f} s")
    print(f"esv_jax / zennit {ratio:.2f} (target 1)")
    if settings.out is not None:
        found = {"median_seconds": medians, "ratio": ratio, "turns": turns}
        about = surroundings("torch", "torchvision", "zennit")
        write_json(settings.out, {"settings": as_json(settings), **found, **about})


if __name__ == "__main__":
    main()
