"""Methods judged by metrics on a set of clips.

found = evaluate(network, clips, targets, methods=["lrp", "selective", "random"],
                 metrics=["insertion", "pointing"], evidence=masks, key=key)
found.scores                       # (metrics, V, methods)
found.summary(key=key).table()     # means with their intervals
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_floating, expect_key, expect_shape
from esv_jax.maps.evaluation_record import ClipScores, Evaluation, gathered
from esv_jax.maps.judge import Methods, OnMap, make_judge
from esv_jax.maps.measures import Units, evidence_of
from esv_jax.maps.settings import MapSettings, Network


def evaluate(
    network: Network,
    clips: Any,
    targets: Any,
    *,
    methods: Methods,
    metrics: Iterable[str],
    evidence: Any = None,
    evidence_frames: Any = None,
    key: Array,
    settings: MapSettings | None = None,
    steps: int = 16,
    remove: Any = "blur",
    units: Units = "pixels",
    grid: int = 8,
    n_supervoxels: int = 200,
    on_progress: Callable[[int, ClipScores], Any] | None = None,
    on_map: Callable[[str, int, np.ndarray], Any] | None = None,
    known: Mapping[int, ClipScores] | None = None,
) -> Evaluation:
    """Scores of the maps of each method by each metric on each of V clips.

    Maps are made once for each clip and method, and all metrics taken of them:

        insertion                 area under the probability as voxels appear, most relevant first
        deletion                  the same as they vanish: low is good
        insertion_minus_deletion  their difference
        insertion_least_first     as they appear, least relevant first: low is good
        deletion_least_first      as they vanish, least relevant first
        pointing                  whether the highest voxel lies on the evidence
        mass                      share of the positive attribution on the evidence
        coverage                  share of the evidence among the highest tenth of the voxels
        temporal_grounding        overlap of the highest frames with those of the evidence

    The last four need evidence. See `metrics` for what each is, and for when it is NaN. A map that
    is not finite has no scores, NaN, and is named in the warnings; others are not held up.

    Args:
      network: a `ClipModel`, or another with logits; see `Network`.
      clips: (V, t, h, w, c), floating point, as the network takes them.
      targets: (V,) int, the class that each is explained for.
      methods: names of `METHODS`; or names of your own, each with one of those or with a function
        (clip, target, key) -> map, (t, h, w), (t, h, w, c), coarser, or (t,).
      metrics: names of `METRICS`.
      evidence: (V, t, h, w) bool, where it lies in each clip.
      evidence_frames: (V, t) bool, the frames that show it; default those with a voxel of it.
      key: `jax.random.key(seed)`; clip i has it folded with i, a method with its name, so that
        neither other clips nor other methods change a result.
      settings: of the methods.
      steps, remove: of insertion and deletion.
      units: what they switch as one: "pixels"; "patches", a grid x grid of each frame;
        "supervoxels", some `n_supervoxels` regions of similar colour over several frames, with the
        extra "segments".
      on_progress: called with i and its scores once clip i is done.
      on_map: called with a method, i, and the map (t, h, w).
      known: scores of clips by their number, of a former call with the same arguments; these
        are not computed again.
    Returns:
      `Evaluation`.
    Raises:
      ValueError: shapes, unknown names, a metric without its evidence, a target out of range.
      TypeError: arguments of another kind.
    Cost: for a clip and method, the map and, for each order of curves, 2 * steps forward passes.
    """
    judge = make_judge(
        network,
        methods=methods,
        metrics=metrics,
        settings=settings,
        steps=steps,
        remove=remove,
        units=units,
        grid=grid,
        n_supervoxels=n_supervoxels,
    )
    key = expect_key("key", key)
    clips = expect_floating("clips", clips, "Convert them, e.g. clips.astype(jnp.float32).")
    expect_shape("clips", clips, (None,) * 5, "(V, t, h, w, c)")
    expect(clips.size > 0, "clips", "at least one number", f"shape {clips.shape}")
    expect_finite("clips", clips)
    targets = np.asarray(targets)
    expect_shape("targets", targets, (len(clips),), f"(V,) = {(len(clips),)}")
    where = evidence_of(judge.metrics, clips.shape[:4], evidence, evidence_frames)
    found = dict(known or {})
    unknown = sorted(set(found) - set(range(len(clips))))
    expect(not unknown, "known", f"clips 0..{len(clips) - 1}", unknown)
    for i, clip in enumerate(clips):
        if i in found:
            continue
        found[i] = judge(
            clip,
            targets[i],
            key=jax.random.fold_in(key, i),
            evidence=None if where.voxels is None else where.voxels[i],
            evidence_frames=None if where.frames is None else where.frames[i],
            on_map=None if on_map is None else _of_clip(on_map, i),
        )
        if on_progress is not None:
            on_progress(i, found[i])
    return gathered(judge.methods, judge.metrics, [found[i] for i in range(len(clips))])


def _of_clip(on_map: Callable[[str, int, np.ndarray], Any], i: int) -> OnMap:
    return lambda name, found: on_map(name, i, found)
