"""All that is measured of one clip: its masks, what its prediction needs, scores of its maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

import esv_jax as ej
from esv_jax.cli.evaluate import ScoreFile, open_scores
from esv_jax.maps import METRICS, MapSettings
from esv_jax.maps.evaluation import make_evaluator
from esv_jax.maps.evaluation_record import ClipScores
from esv_jax.models import ClipModel
from esv_jax.models.clip_model import clip_model_digest
from experiments.perturbation.masks import AREA, CORE, MAIN, NO_CORE, WAYS, Masks, MaskStore
from experiments.perturbation.measures import Keeping, covered, keeping, mask_measures, needs

OF_METHODS = {"step": CORE, "step_no_core": NO_CORE}
"""The masks whose sum is the map of a method, so that nothing is optimised twice."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The network, the clips, and what is known of them.

    Attributes:
      store: masks. keep: what masks keep of a probability. scores: of maps, by clip.
      mark: of all that scores depend on.
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
        """Open what an earlier run left, or begin."""
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
        """Masks of clip i found one way."""
        return self.store.find(name, i, self.videos.clips[i], int(self.videos.labels[i]))


class Found(NamedTuple):
    """Of one clip.

    Attributes:
      masks: way -> what `MASK_MEASURES` names, of the mask of a tenth.
      wider: way -> share of the evidence that the mask of a fifth covers.
      clean: probability of the class. needs: what `NEEDS` names.
      scores: of maps. seconds: way -> that its masks took.
    """

    masks: dict[str, tuple[float, ...]]
    wider: dict[str, float]
    clean: float
    needs: tuple[float, ...]
    scores: ClipScores
    seconds: dict[str, float]


def measured(subject: Subject, i: int) -> Found:
    """Everything of clip i."""
    masks = {name: subject.masks(name, i) for name in MAIN}
    evidence, target = subject.videos.evidence_mask[i], int(subject.videos.labels[i])
    clip = subject.model.prepare(subject.videos.clips[i])
    tenth, _ = _tenth(CORE, masks[CORE])
    clean, *rest = needs(subject.keep, clip, target, tenth, evidence)
    rows: dict[str, tuple[float, ...]] = {
        name: mask_measures(*_tenth(name, found), clean, evidence) for name, found in masks.items()
    }
    wider = {
        name: covered(found.masks[WAYS[name].areas.index(0.2)], evidence, 0.2)
        for name, found in masks.items()
        if 0.2 in WAYS[name].areas
    }
    scores = _scores(subject, i, clip, target, masks)
    seconds = {name: found.seconds for name, found in masks.items()}
    return Found(rows, wider, clean, tuple(rest), scores, seconds)


def measured_ways(subject: Subject, name: str, n: int) -> np.ndarray:
    """What `MASK_MEASURES` names, (n, measures), of the first n clips' masks found one way."""
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
    at = WAYS[name].areas.index(AREA)
    return found.masks[at], float(found.probability[at])


def _scores(
    subject: Subject, i: int, clip: jax.Array, target: int, masks: dict[str, Masks]
) -> ClipScores:
    """Scores of all methods on clip i: read where they are known."""
    known = subject.scores.find(f"clip-{i}", subject.mark)
    if known is not None:
        return known
    methods: dict[str, Any] = {name: name for name in subject.settings.methods}
    own = {name: masks[way] for name, way in OF_METHODS.items() if name in methods}
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
    took = {name: masks[way].seconds for name, way in OF_METHODS.items()}
    pairs = zip(evaluator.methods, found.seconds, strict=True)
    found = found._replace(seconds=np.array([took.get(name, s) for name, s in pairs]))
    subject.scores.add(f"clip-{i}", subject.mark, found)
    return found


def _given(volume: np.ndarray) -> Callable[..., np.ndarray]:
    """A method whose map is known."""
    return lambda clip, target, key: volume
