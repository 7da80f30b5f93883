"""Measures of one clip: its masks, its prediction under masks of the evidence, scores of maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import perturbation
from esv_jax.cli.evaluate import ScoreFile, open_scores
from esv_jax.maps import METRICS, MapSettings
from esv_jax.maps.evaluation import make_evaluator
from esv_jax.maps.evaluation_record import ClipScores
from esv_jax.models import ClipModel
from esv_jax.models.clip_model import clip_model_digest
from esv_jax.perturbation import Masking
from experiments.perturbation.masks import AREA, CORE, MAIN, NO_CORE, VARIANTS, Masks, MaskStore
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
METHOD_MASKS = {"step": CORE, "step_no_core": NO_CORE}
"""Masks whose sum is the map of a method, so that nothing is optimised twice."""


def mask_measures(
    mask: np.ndarray, probability: float, clean: float, evidence: np.ndarray
) -> tuple[float, float, float, float]:
    """The measures of `MASK_MEASURES` of one mask (t, h, w).

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


def keeping(fn: Callable[[jax.Array], jax.Array]) -> Keeping:
    """Compiled probabilities under masks, with the perturbation of STEP."""
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
    """The clean probability, then the measures of `NEEDS`, of a clip and its mask of a tenth.

    Shares of the probability are at most 1. Half of the frames of the evidence are those whose
    evidence the mask covers most.
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


@dataclass(frozen=True, eq=False)
class Subject:
    """The network, the clips, and stored masks and scores.

    Attributes:
      store: masks. keep: probabilities under masks. scores: scores of maps, by clip.
      mark: digest of everything that scores depend on.
    """

    model: ClipModel
    videos: ej.data.SyntheticVideos
    settings: Any
    store: MaskStore
    keep: Keeping
    scores: ScoreFile
    mark: str

    @classmethod
    def of(cls, model: ClipModel, videos: ej.data.SyntheticVideos, settings: Any) -> Subject:
        """Opens the stored masks and scores of an earlier run, or new ones."""
        about = {"n_frames": settings.n_frames, "model": clip_model_digest(model)}
        logits = jax.vmap(model.logits)

        def fn(clips: jax.Array) -> jax.Array:
            return jax.nn.softmax(logits(clips))

        store = MaskStore(
            settings.out / "masks", model, fn, settings.seed, settings.iterations, about
        )
        run = [about, settings.seed, settings.iterations, settings.steps, settings.methods]
        text = f"{json.dumps(run, sort_keys=True)} {MapSettings()!r} {ej.__version__}"
        mark = hashlib.sha256(text.encode()).hexdigest()
        scores = open_scores(settings.out / "scores.jsonl", {}, overwrite=False)
        return cls(model, videos, settings, store, keeping(fn), scores, mark)

    def masks(self, name: str, i: int) -> Masks:
        """Masks of clip i by a variant."""
        return self.store.find(name, i, self.videos.clips[i], int(self.videos.labels[i]))


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
    masks = {name: subject.masks(name, i) for name in MAIN}
    evidence, target = subject.videos.evidence_mask[i], int(subject.videos.labels[i])
    clip = subject.model.prepare(subject.videos.clips[i])
    tenth, _ = _tenth(CORE, masks[CORE])
    clean, *rest = needs(subject.keep, clip, target, tenth, evidence)
    rows: dict[str, tuple[float, ...]] = {
        name: mask_measures(*_tenth(name, found), clean, evidence) for name, found in masks.items()
    }
    wider = {
        name: covered(found.masks[VARIANTS[name].areas.index(0.2)], evidence, 0.2)
        for name, found in masks.items()
        if 0.2 in VARIANTS[name].areas
    }
    scores = _scores(subject, i, clip, target, masks)
    seconds = {name: found.seconds for name, found in masks.items()}
    return ClipMeasures(rows, wider, clean, tuple(rest), scores, seconds)


def measure_masks(subject: Subject, name: str, n: int) -> np.ndarray:
    """`MASK_MEASURES` (n, measures) of the first n clips by a variant."""
    rows = []
    for i in range(n):
        clip = subject.model.prepare(subject.videos.clips[i])
        label = int(subject.videos.labels[i])
        clean = float(subject.store.fn(clip[None])[0, label])
        mask, probability = _tenth(name, subject.masks(name, i))
        rows.append(mask_measures(mask, probability, clean, subject.videos.evidence_mask[i]))
    return np.array(rows)


def _tenth(name: str, found: Masks) -> tuple[np.ndarray, float]:
    """The mask of a tenth of the volume, and its probability."""
    at = VARIANTS[name].areas.index(AREA)
    return found.masks[at], float(found.probability[at])


def _scores(
    subject: Subject, i: int, clip: jax.Array, target: int, masks: dict[str, Masks]
) -> ClipScores:
    """Scores of all methods on clip i, computed where they are not stored."""
    known = subject.scores.find(f"clip-{i}", subject.mark)
    if known is not None:
        return known
    methods: dict[str, Any] = {name: name for name in subject.settings.methods}
    own = {name: masks[variant] for name, variant in METHOD_MASKS.items() if name in methods}
    methods |= {name: _given(found.masks.sum(0)) for name, found in own.items()}
    evaluator = make_evaluator(
        subject.model, methods=methods, metrics=tuple(METRICS), steps=subject.settings.steps
    )
    found = evaluator(
        clip,
        target,
        key=jax.random.fold_in(jax.random.key(subject.settings.seed), i),
        evidence=subject.videos.evidence_mask[i],
    )
    took = {name: masks[variant].seconds for name, variant in METHOD_MASKS.items()}
    pairs = zip(evaluator.methods, found.seconds, strict=True)
    found = found._replace(seconds=np.array([took.get(name, s) for name, s in pairs]))
    subject.scores.add(f"clip-{i}", subject.mark, found)
    return found


def _given(volume: np.ndarray) -> Callable[..., np.ndarray]:
    """A method that returns a given map."""
    return lambda clip, target, key: volume
