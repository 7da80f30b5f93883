"""Relevance on known evidence, and scores of clips without motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import relevance as rules
from esv_jax.models import ClipModel
from esv_jax.relevance.temporal import motion_share

SCORES = ("motion", "appearance")
METHODS = (
    "LRP",
    "selective, sigma 1",
    "selective, sigma 2",
    "temporal",
    "spatial",
    "gradient x input",
    "frame difference",
    "uniform",
)
SIGMAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
MARGIN = 3  # pixels of dilation, the reach of the first layer


def contrasted(model: ClipModel) -> Callable[[jax.Array], jax.Array]:
    """The network with two contrasts per class as outputs: clip -> (2 C,).

    First, for each class, its logit minus that of its partner, the same run backwards, which only
    motion tells apart. Then the mean logit of its pair minus the mean of all others. Both are
    linear in the logits and become part of the last layer.
    """
    c = len(model.class_names)
    own = np.eye(c, dtype=np.float32)
    pair = np.kron(np.eye(c // 2, dtype=np.float32), np.ones((2, 2), np.float32))
    motion = 2 * own - pair
    appearance = pair / 2 - (1 - pair) / (c - 2)
    mixing = jnp.asarray(np.concatenate([motion, appearance], 1))  # (C, 2 C), symmetric halves
    dense = model.variables["params"]["dense"]
    contrasted = {
        "kernel": jnp.matmul(dense["kernel"], mixing, precision="highest"),
        "bias": jnp.matmul(dense["bias"], mixing, precision="highest"),
    }
    variables = {"params": {**model.variables["params"], "dense": contrasted}}
    module = model.module.clone(n_classes=2 * c)

    def scores(clip: jax.Array) -> jax.Array:
        found: Any = module.apply(variables, clip[None])
        return found[0]

    return scores


Maps = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
"""A clip and the index of a contrast -> volumes (t, h, w) by method, "motion share" by sigma."""


def maps_of(fn: Callable[[jax.Array], jax.Array], composite: Any) -> Maps:
    """Volumes of all methods, as one compiled function of clip and contrast."""

    def of_clip(clip: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        whole = rules.lrp(fn, clip, target, composite=composite)
        parts = rules.discriminative(fn, clip, target, composite=composite, relevance=whole)
        _, pull = jax.vjp(lambda x: fn(x)[target], clip)
        (gradient,) = pull(jnp.ones((), clip.dtype))
        padded = jnp.pad(clip, ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
        found = {
            "LRP": whole,
            "selective, sigma 1": rules.selective(whole, 1.0),
            "selective, sigma 2": rules.selective(whole, 2.0),
            "temporal": parts.temporal,
            "spatial": parts.spatial,
            "gradient x input": gradient * clip,
            "frame difference": jnp.abs(padded[2:] - padded[:-2]),
            "uniform": jnp.ones_like(clip),
        }
        volumes = {name: volume.sum(-1) for name, volume in found.items()}
        volumes["motion share"] = motion_share(whole, jnp.asarray(SIGMAS, jnp.float32))
        return volumes

    return jax.jit(of_clip)


def around(mask: np.ndarray) -> np.ndarray:
    """Evidence (t, h, w), dilated by a few pixels within each frame."""
    grown = mask.copy()
    for axis in (1, 2):
        wide = grown.copy()
        for step in range(1, MARGIN + 1):
            there, here = [slice(None)] * 3, [slice(None)] * 3
            there[axis], here[axis] = slice(step, None), slice(None, -step)
            wide[tuple(here)] |= grown[tuple(there)]
            wide[tuple(there)] |= grown[tuple(here)]
        grown = wide
    return grown


def points_inside(volume: np.ndarray, inside: np.ndarray) -> float:
    """Probability that the highest voxel lies inside; ties in expectation."""
    return float(inside[volume == volume.max()].mean())


def measure_maps(
    model: ClipModel, videos: ej.data.SyntheticVideos, run: Maps
) -> dict[str, dict[str, np.ndarray]]:
    """Measures by score: (methods, V) each of "mass" and "pointing", and "motion share" (V, S).

    Both scores have the same masks: the objects and the hand. NaN for clips without evidence.
    """
    c = len(model.class_names)
    found = {}
    for k, score in enumerate(SCORES):
        mass, pointing, shares = [], [], []
        for clip, label, mask in zip(
            videos.clips, videos.labels, videos.evidence_mask, strict=True
        ):
            target = jnp.asarray(label + k * c)
            volumes = jax.device_get(run(model.prepare(clip), target))
            shares.append(volumes["motion share"])
            inside = around(mask)
            if not inside.any():
                mass.append([np.nan] * len(METHODS))
                pointing.append([np.nan] * len(METHODS))
                continue
            mass.append([float(ej.metrics.mass_inside(volumes[m], inside)) for m in METHODS])
            pointing.append([points_inside(volumes[m], inside) for m in METHODS])
        found[score] = {
            "mass": np.array(mass).T,
            "pointing": np.array(pointing).T,
            "motion share": np.array(shares),
        }
    return found


def without_motion(
    model: ClipModel, videos: ej.data.SyntheticVideos, seed: int, composite: Any
) -> dict[str, dict[str, np.ndarray]]:
    """Predictions on clips without motion, (V,) each.

    Clips: "as it is"; "shuffled", frames in random order; "frozen", the middle frame of the
    evidence repeated. Measures: 1 where the class is right, where its pair is, where the class is
    ahead of its partner, and the motion share of its relevance at sigma 2.
    """
    rng = np.random.default_rng(seed)
    score = jax.jit(model.logits)

    @jax.jit
    def share(clip: jax.Array, target: jax.Array) -> jax.Array:
        whole = rules.lrp(model.logits, clip, target, composite=composite)
        return motion_share(whole, jnp.asarray([2.0], jnp.float32))[0]

    rows: dict[str, list[tuple[float, ...]]] = {"as it is": [], "shuffled": [], "frozen": []}
    for clip, label, shown in zip(videos.clips, videos.labels, videos.evidence_frames, strict=True):
        evidence = np.flatnonzero(shown)
        middle = evidence[len(evidence) // 2] if len(evidence) else len(clip) // 2
        ways = {
            "as it is": clip,
            "shuffled": clip[rng.permutation(len(clip))],
            "frozen": np.broadcast_to(clip[middle], clip.shape),
        }
        for way, frames in ways.items():
            x = model.prepare(frames)
            logits = np.asarray(score(x))
            best, partner = int(logits.argmax()), int(label) ^ 1
            rows[way].append(
                (
                    best == label,
                    best // 2 == label // 2,
                    logits[label] > logits[partner],
                    float(share(x, jnp.asarray(label))),
                )
            )
    names = ("class", "pair", "direction", "motion share")
    return {
        way: dict(zip(names, np.array(measured, float).T, strict=True))
        for way, measured in rows.items()
    }
