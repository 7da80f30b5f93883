"""Measures of one clip: its masks, its prediction under masks of the evidence, scores of maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import perturbation
from esv_jax.cli.evaluate import ScoreFile, open_scores
from esv_jax.maps import MapSettings
from esv_jax.maps.evaluation import make_evaluator
from esv_jax.maps.evaluation_record import ClipScores
from esv_jax.maps.map_metrics import METRICS
from esv_jax.models.clip_model import ClipModel, clip_model_digest
from experiments.perturbation.masks import (
    AREA,
    CORE,
    MAIN,
    NO_CORE,
    VARIANTS,
    Masks,
    find_masks,
    index_of,
    stored_masks,
)
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
_OWN = {"step": CORE, "step_no_core": NO_CORE}
"""Variants whose masks are summed to the map of a method, so that nothing is optimised twice."""


def mask_measures(
    mask: np.ndarray, probability: float, clean: float, evidence: np.ndarray
) -> tuple[float, ...]:
    """The measures of `MASK_MEASURES` of one mask (t, h, w).

    coverage: share of the evidence among the highest tenth of the mask; kept: share of the clean
    probability, at most all of it; flicker: mean |mask[t + 1] - mask[t]|; area: mean of the mask.
    """
    flicker = float(np.abs(np.diff(mask, axis=0)).mean())
    kept = min(1.0, float(probability) / clean)
    return covered(mask, evidence, AREA), kept, flicker, float(mask.mean())


def covered(volume: np.ndarray, evidence: np.ndarray, area: float) -> float:
    """Share of the evidence among the highest voxels; NaN without evidence."""
    return float(ej.metrics.mask_coverage(jnp.asarray(volume), evidence, area))


Keeping = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def keeping(fn: Callable[[jax.Array], jax.Array]) -> Keeping:
    """Compiled probabilities under masks, with the perturbation of STEP."""
    m = perturbation.Masking()

    def of_clip(clip: jax.Array, masks: jax.Array, target: jax.Array) -> jax.Array:
        levels = perturbation.pyramid(clip, m.perturbation, m.levels, m.max_blur, m.edge)
        left = jax.lax.map(lambda mask: perturbation.perturb(levels, mask), masks)
        return fn(left)[:, target]

    return jax.jit(of_clip)


def needs(
    keep: Keeping, clip: jax.Array, target: int, mask: np.ndarray, evidence: np.ndarray
) -> tuple[float, ...]:
    """The clean probability, then the measures of `NEEDS`, of a clip and its mask of a tenth.

    Shares of the probability are at most 1. Half of the frames of the evidence are those whose
    evidence the mask covers most.
    """
    grown = around(evidence)
    frames = np.flatnonzero(evidence.any((1, 2)))
    highest = np.argsort(-mask.ravel(), kind="stable")[: max(1, round(AREA * mask.size))]
    top = np.zeros(mask.size, bool)
    top[highest] = True
    shares = (top.reshape(mask.shape) & evidence).sum((1, 2))[frames] / evidence.sum((1, 2))[frames]
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


@dataclass(frozen=True, eq=False)
class Subject:
    """The network, the clips, and stored masks and scores.

    Attributes:
      fn: clips (B, t, h, w, c) -> probabilities. keep: probabilities under masks.
      scores: scores of maps, by clip, of this or an earlier run.
    """

    model: ClipModel
    videos: ej.data.synthetic_video.SyntheticVideos
    settings: Any
    fn: Callable[[jax.Array], jax.Array]
    keep: Keeping
    scores: ScoreFile

    @classmethod
    def of(
        cls, model: ClipModel, videos: ej.data.synthetic_video.SyntheticVideos, settings: Any
    ) -> Subject:
        """Opens the scores of an earlier run, or new ones."""
        logits = jax.vmap(model.logits)

        def fn(clips: jax.Array) -> jax.Array:
            return jax.nn.softmax(logits(clips))

        scores = open_scores(settings.out / "scores.jsonl", {}, overwrite=False)
        return cls(model, videos, settings, fn, keeping(fn), scores)

    def digest(self, *about: Any) -> str:
        """Digest of everything that masks or scores depend on, without the clip."""
        run = self.settings
        parts = (clip_model_digest(self.model), run.n_frames, run.seed, run.iterations, *about)
        return hashlib.sha256(f"{parts} {ej.__version__}".encode()).hexdigest()

    def clip(self, i: int) -> tuple[jax.Array, int, np.ndarray]:
        """Clip i as the network takes it, its class and its evidence."""
        evidence, label = self.videos.evidence_mask[i], int(self.videos.labels[i])
        return self.model.prepare(self.videos.clips[i]), label, evidence

    def key(self, i: int) -> jax.Array:
        """The key of clip i, in all variants."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), i)

    def masks(self, name: str, i: int) -> Masks:
        """Masks of clip i by a variant."""
        file = f"{name.replace(',', '').replace(' ', '_')}-{i:03d}.npz"
        options = {"iterations": self.settings.iterations, "key": self.key(i)}
        return stored_masks(
            self.settings.out / "masks" / file,
            self.digest(VARIANTS[name]),
            lambda: find_masks(self.fn, name, *self.clip(i)[:2], **options),
        )


class ClipMeasures(NamedTuple):
    """Measures of one clip.

    Attributes:
      masks: variant -> `MASK_MEASURES` of the mask of a tenth.
      wider: variant -> share of the evidence that the mask of a fifth covers.
      clean: probability of the class. needs: `NEEDS`.
      scores: scores of maps. seconds: variant -> time of its masks.
    """

    masks: dict[str, tuple[float, ...]]
    wider: dict[str, float]
    clean: float
    needs: tuple[float, ...]
    scores: ClipScores
    seconds: dict[str, float]


def measure_clip(subject: Subject, i: int) -> ClipMeasures:
    """All measures of clip i."""
    clip, target, evidence = subject.clip(i)
    masks = {name: subject.masks(name, i) for name in MAIN}
    clean, *rest = needs(subject.keep, clip, target, tenth(CORE, masks[CORE])[0], evidence)
    return ClipMeasures(
        {name: mask_measures(*tenth(name, m), clean, evidence) for name, m in masks.items()},
        {
            name: covered(found.masks[k], evidence, 0.2)
            for name, found in masks.items()
            if (k := index_of(name, 0.2)) is not None
        },
        clean,
        tuple(rest),
        _scores(subject, i, masks),
        {name: found.seconds for name, found in masks.items()},
    )


def measure_masks(subject: Subject, name: str, n: int) -> np.ndarray:
    """`MASK_MEASURES` (n, measures) of the first n clips by a variant."""
    rows = []
    for i in range(n):
        clip, target, evidence = subject.clip(i)
        clean = float(subject.fn(clip[None])[0, target])
        rows.append(mask_measures(*tenth(name, subject.masks(name, i)), clean, evidence))
    return np.array(rows)


def tenth(name: str, found: Masks) -> tuple[np.ndarray, float]:
    """The mask of a tenth of the volume, and its probability."""
    at = index_of(name, AREA)
    return found.masks[at], found.probability[at]


def _scores(subject: Subject, i: int, masks: dict[str, Masks]) -> ClipScores:
    """Scores of all methods on clip i, computed where they are not stored."""
    settings, uid = subject.settings, f"clip-{i}"
    mark = subject.digest(settings.steps, settings.methods, MapSettings())
    known = subject.scores.find(uid, mark)
    if known is not None:
        return known
    methods: dict[str, Any] = {name: name for name in settings.methods}
    own = {name: masks[variant] for name, variant in _OWN.items() if name in methods}
    methods |= {name: lambda *_, found=found: found.masks.sum(0) for name, found in own.items()}
    evaluator = make_evaluator(
        subject.model, methods=methods, metrics=tuple(METRICS), steps=settings.steps
    )
    clip, target, evidence = subject.clip(i)
    found = evaluator(clip, target, key=subject.key(i), evidence=evidence)
    took = dict(zip(evaluator.methods, found.seconds, strict=True))
    took |= {name: one.seconds for name, one in own.items()}
    found = found._replace(seconds=np.array(list(took.values())))
    subject.scores.add(uid, mark, found)
    return found
