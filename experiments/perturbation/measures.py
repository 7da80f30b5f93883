"""What masks of clips with known evidence are like, and what a prediction needs of the evidence."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import perturbation
from esv_jax.perturbation import Masking
from experiments.perturbation.masks import AREA
from experiments.relevance.measures import around

MASK_MEASURES = ("coverage", "kept", "flicker", "area")
NEEDS = (
    "evidence share",
    "highest coverage possible",
    "kept by nothing, all blurred",
    "kept by the evidence",
    "kept by the evidence, grown",
    "kept by half of its frames, grown",
    "kept without the evidence, grown",
    "kept by the mask within the evidence, grown",
    "evidence frames covered by half",
)
KEEPS = 0.9  # share of its probability at which a prediction counts as kept
WANTED = 0.7  # coverage that is claimed


def mask_measures(
    mask: np.ndarray, probability: float, clean: float, evidence: np.ndarray
) -> tuple[float, float, float, float]:
    """What `MASK_MEASURES` names, of one mask (t, h, w).

    coverage: share of the evidence among the highest tenth of the mask; kept: share of the clean
    probability, at most all of it; flicker: mean |mask[t + 1] - mask[t]|; area: mean of the mask.
    """
    coverage = covered(mask, evidence, AREA)
    flicker = float(np.abs(np.diff(mask, axis=0)).mean())
    return coverage, min(1.0, probability / clean), flicker, float(mask.mean())


def covered(volume: np.ndarray, evidence: np.ndarray, area: float) -> float:
    """Share of the evidence among the highest voxels; NaN without evidence."""
    return float(ej.metrics.mask_coverage(jnp.asarray(volume), evidence, area))


Keeping = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""A clip, masks (B, t, h, w) and a target -> probabilities (B,) under each mask."""


def keeping(fn: Callable[[jax.Array], jax.Array]) -> Keeping:
    """What of a target's probability masks keep, as STEP perturbs clips; compiled."""
    masking = Masking()

    def of_clip(clip: jax.Array, masks: jax.Array, target: jax.Array) -> jax.Array:
        levels = perturbation.pyramid(
            clip, masking.perturbation, masking.levels, masking.max_blur, masking.edge
        )
        left = jax.lax.map(lambda mask: perturbation.perturb(levels, mask), masks)
        return fn(left)[:, target]

    return jax.jit(of_clip)


def needs(
    keep: Keeping, clip: jax.Array, target: int, mask: np.ndarray, evidence: np.ndarray
) -> tuple[float, ...]:
    """What `NEEDS` names, of one clip and its mask of a tenth; clean probability first.

    Shares of the probability are at most 1. Half of the frames of the evidence: those of which the
    mask holds most.
    """
    grown = around(evidence)
    frames = np.flatnonzero(evidence.any((1, 2)))
    size = evidence.sum((1, 2))
    top = _highest(mask, AREA)
    shares = (top & evidence).sum((1, 2))[frames] / np.maximum(size[frames], 1)
    best = frames[np.argsort(-shares, kind="stable")[: -(-len(frames) // 2)]]
    half = np.zeros_like(grown)
    half[best] = grown[best]
    volumes = [np.ones_like(mask), np.zeros_like(mask), evidence, grown, half, ~grown, mask * grown]
    stacked = np.stack([np.asarray(v, np.float32) for v in volumes])
    p = np.asarray(keep(clip, jnp.asarray(stacked), jnp.asarray(target)), np.float64)
    share = float(evidence.mean())
    possible = min(1.0, AREA / share) if share else float("nan")
    half_covered = float((shares >= 0.5).mean()) if len(frames) else float("nan")
    return (float(p[0]), share, possible, *np.minimum(1, p[1:] / p[0]).tolist(), half_covered)


def _highest(volume: np.ndarray, area: float) -> np.ndarray:
    """The highest voxels of a volume, bool; of equal ones the first."""
    order = np.argsort(-volume.ravel(), kind="stable")
    top = np.zeros(volume.size, bool)
    top[order[: max(1, round(area * volume.size))]] = True
    return top.reshape(volume.shape)
