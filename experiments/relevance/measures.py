"""Relevance on known evidence, and scores of clips without motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import esv_jax as ej
from esv_jax import relevance as rules
from esv_jax.checks import expect_int
from esv_jax.models.clip_model import ClipModel
from esv_jax.relevance.temporal import motion_share

SCORES = ("motion", "appearance")
METHODS = (
    *("LRP", "selective, sigma 1", "selective, sigma 2", "temporal", "spatial"),
    *("gradient x input", "frame difference", "uniform"),
)
MEASURES = ("mass", "pointing")
SIGMAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
MARGIN = 3  # pixels of dilation, the reach of the first layer


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """Settings of a study of held-out clips; with the model they determine its numbers."""

    model: Path | None = None
    """A model written by `save_clip_model` for these classes; default the one in the package."""
    n_clips: int = 108
    """Held-out clips."""
    n_frames: int = 32
    """Frames of a whole clip; the network sees 16."""
    seed: int = 30_000
    """Seed of the clips, of all that is random and of the bootstrap; not a seed of training."""
    n_resamples: int = 2000
    """Bootstrap resamples of the clips."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        expect_int("n_clips", self.n_clips, minimum=1)
        expect_int("n_resamples", self.n_resamples, minimum=1)


def network_and_clips(
    settings: ClipSettings,
) -> tuple[ClipModel, ej.data.synthetic_video.SyntheticVideos]:
    """The network of a study, and its held-out clips cut down to the frames that it takes."""
    load = ej.models.load_clip_model if settings.model else ej.models.load_synthetic_clips
    model = load(*filter(None, [settings.model]))
    frames = ej.data.segment_centres(settings.n_frames, model.n_frames)
    return model, ej.data.synthetic_videos(
        settings.n_clips, seed=settings.seed, n_frames=settings.n_frames, frames=frames
    )


def contrasted(model: ClipModel) -> Callable[[jax.Array], jax.Array]:
    """The network with two contrasts per class as outputs: clip -> (2 C,).

    First, for each class, its logit minus that of its partner, the same run backwards, which only
    motion tells apart. Then the mean logit of its pair minus the mean of all others. Both are
    linear in the logits and become part of the last layer.
    """
    c = len(model.class_names)
    pair = np.kron(np.eye(c // 2, dtype=np.float32), np.ones((2, 2), np.float32))
    motion = 2 * np.eye(c, dtype=np.float32) - pair
    appearance = pair / 2 - (1 - pair) / (c - 2)
    mixing = jnp.asarray(np.concatenate([motion, appearance], 1))  # (C, 2 C), symmetric halves
    params = model.variables["params"]
    mixed = {
        name: jnp.matmul(weight, mixing, precision="highest")
        for name, weight in params["dense"].items()
    }
    module: Any = model.module.clone(n_classes=2 * c)
    return lambda clip: module.apply({"params": {**params, "dense": mixed}}, clip[None])[0]


Maps = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
"""A clip and the index of a contrast -> volumes (t, h, w) by method, "motion share" by sigma."""


def maps_of(fn: Callable[[jax.Array], jax.Array], composite: Any) -> Maps:
    """Volumes of all methods, as one compiled function of clip and contrast."""

    @jax.jit
    def of_clip(clip: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        whole = rules.lrp(fn, clip, target, composite=composite)
        parts = rules.discriminative(fn, clip, target, composite=composite, relevance=whole)
        padded = jnp.pad(clip, ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
        found = {
            "LRP": whole,
            "selective, sigma 1": rules.selective(whole, 1.0),
            "selective, sigma 2": rules.selective(whole, 2.0),
            "temporal": parts.temporal,
            "spatial": parts.spatial,
            "gradient x input": jax.grad(lambda x: fn(x)[target])(clip) * clip,
            "frame difference": jnp.abs(padded[2:] - padded[:-2]),
            "uniform": jnp.ones_like(clip),
        }
        shares = motion_share(whole, jnp.asarray(SIGMAS, jnp.float32))
        return {name: volume.sum(-1) for name, volume in found.items()} | {"motion share": shares}

    return of_clip


def around(mask: np.ndarray) -> np.ndarray:
    """Evidence (t, h, w), dilated by a few pixels within each frame."""
    side = 2 * MARGIN + 1
    return ndimage.binary_dilation(mask, np.ones((1, side, side), bool))


def points_inside(volume: np.ndarray, inside: np.ndarray) -> float:
    """Probability that the highest voxel lies inside; ties in expectation."""
    return float(inside[volume == volume.max()].mean())


def measure_maps(
    model: ClipModel, videos: ej.data.synthetic_video.SyntheticVideos, run: Maps
) -> dict[str, dict[str, np.ndarray]]:
    """Measures by score: "mass" and "pointing" (V, methods), "motion share" (V, sigmas).

    Both scores have the same masks: the objects and the hand. NaN for clips without evidence.
    """
    found: dict[str, dict[str, Any]] = {
        score: {"mass": [], "pointing": [], "motion share": []} for score in SCORES
    }
    for clip, label, mask in zip(videos.clips, videos.labels, videos.evidence_mask, strict=True):
        inside, x = around(mask), model.prepare(clip)
        for k, score in enumerate(SCORES):
            target = jnp.asarray(label + k * len(model.class_names))
            volumes = jax.device_get(run(x, target))
            found[score]["motion share"].append(volumes["motion share"])
            for measure, of in zip(MEASURES, (ej.metrics.mass_inside, points_inside), strict=True):
                row = [float(of(volumes[m], inside)) if inside.any() else np.nan for m in METHODS]
                found[score][measure].append(row)
    return {score: {m: np.array(rows) for m, rows in one.items()} for score, one in found.items()}


def without_motion(
    model: ClipModel, videos: ej.data.synthetic_video.SyntheticVideos, seed: int, composite: Any
) -> dict[str, dict[str, np.ndarray]]:
    """Predictions on clips without motion, (V,) each.

    Clips: "as it is"; "shuffled", frames in random order; "frozen", the middle frame of the
    evidence repeated. Measures: 1 where the class is right, where its pair is, where the class is
    ahead of its partner, and the motion share of its relevance at sigma 2.
    """
    rng = np.random.default_rng(seed)

    @jax.jit
    def measured(clip: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        whole = rules.lrp(model.logits, clip, target, composite=composite)
        share = motion_share(whole, jnp.asarray([2.0], jnp.float32))[0]
        return model.logits(clip), share

    rows: dict[str, list[tuple[float, ...]]] = {"as it is": [], "shuffled": [], "frozen": []}
    for clip, label, shown in zip(videos.clips, videos.labels, videos.evidence_frames, strict=True):
        evidence = np.flatnonzero(shown)
        middle = evidence[len(evidence) // 2] if len(evidence) else len(clip) // 2
        frozen = np.broadcast_to(clip[middle], clip.shape)
        ways = (clip, clip[rng.permutation(len(clip))], frozen)
        for row, frames in zip(rows.values(), ways, strict=True):
            logits, share = jax.device_get(measured(model.prepare(frames), jnp.asarray(label)))
            best, ahead = logits.argmax(), logits[label] > logits[label ^ 1]
            row.append((best == label, best // 2 == label // 2, ahead, share))
    names = ("class", "pair", "direction", "motion share")
    return {way: dict(zip(names, np.array(row, float).T, strict=True)) for way, row in rows.items()}
