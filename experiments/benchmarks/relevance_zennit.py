"""Run time of LRP beside zennit, on R(2+1)D-18 with the same weights and composite.

    python -m experiments.benchmarks.relevance_zennit --out relevance_zennit.json

Needs torch, torchvision and zennit beside this package. Composite: epsilon for the last layer, z+
for convolutions, batch norms folded. Weights and the clip are random, since time does not depend
on them. Both take turns; `esv_jax` is compiled, zennit's composite is registered before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax.extras import require
from esv_jax.models.clip_model import clip_network_from_state_dict
from experiments.benchmarks.common import Repeated, command, in_turns, median

TARGET = 3


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Sizes and repeats."""

    frames: int = 16
    """Frames of the clip."""
    side: int = 112
    """Height and width."""


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Seconds of both libraries on one clip, and the ratio to zennit's."""
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
    composites.EpsilonPlus(canonizers=[merge]).register(network)  # not timed

    def by_zennit() -> Any:
        scores = network(tensor)
        start = torch.zeros_like(scores)
        start[0, TARGET] = scores[0, TARGET].detach()
        return torch.autograd.grad(scores, tensor, start)

    calls = {"esv_jax": lambda: by_esv_jax(x), "zennit": by_zennit}
    _, turns = in_turns(calls, settings.repeats)
    for name in calls:
        times = {"median_s": median(turns, name), "times_s": [turn[name] for turn in turns]}
        yield {"case": name, **times, "ratio": median(turns, name, "zennit")}


if __name__ == "__main__":
    command(Settings, __doc__, measured, "torch", "torchvision", "zennit")
