"""Evaluation of attribution methods by metrics on a set of clips.

found = evaluate(network, clips, targets, methods=["lrp", "selective", "random"],
                 metrics=["insertion", "pointing"], evidence=masks, key=key)
found.scores                       # (metrics, V, methods)
found.summary(key=key).table()     # means with their intervals
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import (
    expect,
    expect_choice,
    expect_finite,
    expect_floating,
    expect_key,
    expect_shape,
)
from esv_jax.gradients.derivatives import expect_input
from esv_jax.maps.evaluation_record import ClipScores, Evaluation, combine_scores
from esv_jax.maps.map_metrics import METRICS, CurveSettings, checked_evidence, map_scores
from esv_jax.maps.methods import METHODS, MapSettings, compiled, expect_one_target
from esv_jax.maps.networks import Network, expect_network, probabilities
from esv_jax.metrics import per_voxel

CustomMethod: TypeAlias = Callable[[Array, Array, Array], ArrayLike]
"""(clip (t, h, w, c), target (), key) -> a map, as `metrics.per_voxel` takes it."""

Methods: TypeAlias = Iterable[str] | Mapping[str, str | CustomMethod]
"""Names of `METHODS`; or names of the caller's, each with one of those or a function."""


def evaluate(
    network: Network,
    clips: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike | Sequence[int],
    *,
    methods: Methods,
    metrics: Iterable[str],
    evidence: ArrayLike | None = None,
    evidence_frames: ArrayLike | None = None,
    key: Array,
    settings: MapSettings | None = None,
    **curves: Any,
) -> Evaluation:
    """Scores of the maps of each method by each metric on each of V clips.

    Each map is computed once, for all metrics:

        insertion                 area under the probability as voxels appear, most relevant first
        deletion                  the same as voxels vanish; low is good
        insertion_minus_deletion  their difference
        insertion_least_first     as voxels appear, least relevant first; low is good
        deletion_least_first      as voxels vanish, least relevant first
        pointing                  1 if the highest voxel is on the evidence
        mass                      share of the positive attribution on the evidence
        coverage                  share of the evidence among the highest tenth of the voxels
        temporal_grounding        overlap of the highest frames with those of the evidence

    The last four need evidence. See `metrics` for definitions and NaN. The scores of a map that is
    not finite are NaN, with an entry in `warnings`. For sets that are read clip by clip, use
    `make_evaluator`.

    Args:
      network: a `ClipModel`, or any object with logits; see `clip_map`.
      clips: (V, t, h, w, c), floating point, in the units of the network.
      targets: (V,) int, the class explained in each.
      methods: names of `METHODS`; or names of your own, each with one of those or with a function
        (clip, target, key) -> map, (t, h, w), (t, h, w, c), coarser, or (t,).
      metrics: names of `METRICS`.
      evidence: (V, t, h, w) bool, the voxels of the evidence in each clip.
      evidence_frames: (V, t) bool, its frames; default those with a voxel of it.
      key: `jax.random.key(seed)`; folded with the index of the clip and the name of the method, so
        results are independent of other clips and methods.
      settings: of the methods.
      **curves: steps=16 and remove="blur" of insertion and deletion; and units=, switched together:
        "pixels"; "patches", a grid x grid (8) of each frame; "supervoxels", about n_supervoxels
        (200) regions of similar colour over several frames, with the extra "segments".
    Raises:
      ValueError: shapes, unknown names, a metric without its evidence, a target out of range.
      TypeError: arguments of another kind.
    Cost: for a clip and method, the map and, for each order of curves, 2 * steps forward passes.
    """
    evaluator = make_evaluator(
        network, methods=methods, metrics=metrics, settings=settings, **curves
    )
    key = expect_key("key", key)
    clips = expect_floating("clips", clips, "Convert them, e.g. clips.astype(jnp.float32).")
    expect_shape("clips", clips, (None,) * 5, "(V, t, h, w, c)")
    expect(clips.size > 0, "clips", "at least one number", f"shape {clips.shape}")
    expect_finite("clips", clips)
    targets = np.asarray(targets)
    expect_shape("targets", targets, (len(clips),), f"(V,) = {(len(clips),)}")
    voxels, frames = checked_evidence(evaluator.metrics, clips.shape[:4], evidence, evidence_frames)
    found = [
        evaluator(
            clip,
            targets[i],
            key=jax.random.fold_in(key, i),
            evidence=None if voxels is None else voxels[i],
            evidence_frames=None if frames is None else frames[i],
        )
        for i, clip in enumerate(clips)
    ]
    return combine_scores(evaluator.methods, evaluator.metrics, found)


@dataclass(frozen=True, eq=False)
class ClipEvaluator:
    """Evaluation of methods, functions by name, by metrics on one clip; see `make_evaluator`."""

    network: Network
    functions: Mapping[str, CustomMethod]
    metrics: tuple[str, ...]
    curves: CurveSettings

    @property
    def methods(self) -> tuple[str, ...]:
        """Names."""
        return tuple(self.functions)

    def __call__(
        self,
        clip: ArrayLike,
        target: int | Array,
        *,
        key: Array,
        evidence: ArrayLike | None = None,
        evidence_frames: ArrayLike | None = None,
        on_map: Callable[[str, np.ndarray], None] | None = None,
    ) -> ClipScores:
        """Scores of all methods by all metrics on one clip.

        Args:
          clip: (t, h, w, c). target: a class. Evidence: (t, h, w) and (t,). See `evaluate`.
          key: folded with the name of each method.
          on_map: called with the name of each method and its map, (t, h, w).
        """
        clip = expect_input(clip)
        expect_one_target(self.network, clip, target)
        key = expect_key("key", key)
        checked = checked_evidence(self.metrics, clip.shape[:3], evidence, evidence_frames)
        maps, seconds, warnings = [], [], {}
        for m, (name, fn) in enumerate(self.functions.items()):
            own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            start = time.perf_counter()
            found = np.asarray(fn(clip, jnp.asarray(target), own_key))
            seconds.append(time.perf_counter() - start)
            n_bad = np.size(found) - np.count_nonzero(np.isfinite(found))
            if n_bad:
                warnings[m] = f"{name}: {n_bad} of {found.size} values are not finite; no scores"
            found = np.asarray(per_voxel(np.where(np.isfinite(found), found, 0), clip.shape))
            maps.append(found)
            if on_map is not None:
                on_map(name, np.full_like(found, np.nan) if n_bad else found)
        volumes = jnp.stack(list(map(jnp.asarray, maps)))
        known = clip, volumes, int(target), checked
        scores = map_scores(self.metrics, probabilities(self.network), *known, self.curves)
        scores[:, list(warnings)] = np.nan
        return ClipScores(scores, np.array(seconds), tuple(warnings.values()))


def make_evaluator(
    network: Network,
    *,
    methods: Methods,
    metrics: Iterable[str],
    settings: MapSettings | None = None,
    **curves: Any,
) -> ClipEvaluator:
    """A function of one clip that scores methods by metrics, for sets that are read clip by clip.

    Programs are compiled at the first clip and cached. Args and raises: see `evaluate`.
    """
    expect_network(network)
    for name, value in (("methods", methods), ("metrics", metrics)):
        is_list = isinstance(value, Iterable) and not isinstance(value, str)
        expect(is_list, name, "a list of names", repr(value), kind=TypeError)
    functions: dict[str, CustomMethod] = {}
    named = methods.items() if isinstance(methods, Mapping) else ((name, name) for name in methods)
    for name, method in named:
        expect(name not in functions, "methods", "each name once", f"{name!r} again")
        if isinstance(method, str):
            expect_choice("methods", method, METHODS)
            method = compiled(method, network, settings)
        expected, got = "names, or functions by name", type(method).__name__
        expect(callable(method), "methods", expected, got, kind=TypeError)
        functions[name] = method
    names = tuple(metrics)
    for name in names:
        expect_choice("metrics", name, METRICS)
        expect(names.count(name) == 1, "metrics", "each name once", f"{name!r} again")
    for kind, given in (("methods", functions), ("metrics", names)):
        expect(len(given) > 0, kind, "at least one", "none")
    return ClipEvaluator(network, functions, names, CurveSettings(**curves))
