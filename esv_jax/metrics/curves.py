"""Insertion and deletion curves: a score as voxels appear or vanish in the order of a map.

    f = lambda clips: jax.nn.softmax(model(clips))  # (B, t, h, w, c) -> (B, C)
    insertion(f, clip, saliency, target).auc  # high where the map is right
    deletion(f, clip, saliency, target).auc  # low
    jax.jit(functools.partial(insertion_deletion, f))(clips, saliencies, targets).difference

Source: Petsiuk et al. (2018), insertion and deletion; over the voxels of a whole clip, and with
the least important first, as Li et al. (2021) have them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.blur import EDGE, Edge
from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_choice,
    expect_classes,
    expect_finite,
    expect_floating,
    expect_int,
    expect_shape,
)
from esv_jax.metrics.curve_records import InsertionDeletion, PerturbationCurve
from esv_jax.metrics.perturbed import fills_of, target_probabilities
from esv_jax.metrics.probabilities import ProbabilityFunction
from esv_jax.metrics.switching import ORDERS, Order, step_ends, switching_order, units_of
from esv_jax.metrics.voxels import smoothed, voxel_map


class _Ways(NamedTuple):
    """The options of the three measures."""

    steps: int
    remove: Any
    order: Order
    grid: int | None
    segments: Any
    supervoxels: bool
    smooth: int | None
    blur_sigma: float
    edge: Edge
    batch_size: int | None


def insertion(
    fn: ProbabilityFunction,
    clip: Any,
    saliency: Any,
    target: Any,
    steps: int = 16,
    remove: Any = "blur",
    *,
    order: Order = "most_first",
    grid: int | None = None,
    segments: Any = None,
    supervoxels: bool = False,
    smooth: int | None = None,
    blur_sigma: float = 20.0,
    edge: Edge = EDGE,
    batch_size: int | None = None,
) -> PerturbationCurve:
    """Probability of the target as the voxels of a clip appear, from none to all.

    Voxels are ordered over the whole clip, time, rows and columns together; step t of T shows
    those up to place t / T of the order. Its end is fn(clip), its start what is left of a clip
    with everything removed.

    Compiles under `jit` and batches under `vmap`, options being static; values are questioned
    where they are known.

    Args:
      fn: clips (B, t, h, w, c) -> probabilities (B, C), by softmax or by independent sigmoids; (B,)
        is one column. In JAX, and compiled where the call is not; without `jit` or `vmap` any
        function of arrays will do.
      clip: (t, h, w, c), floating point, in the units that fn takes.
      saliency: attribution of the target: (t, h, w), (t, h, w, c), coarser (t', h', w'), or
        (t,) per frame; see `per_voxel`. Equal values appear by frame, row and column.
      target: class whose probability is followed; a traced one that is no class gives NaN.
      steps: T, >= 1.
      remove: what stands where voxels are removed: "blur", the clip under `gaussian_blur`; "fade",
        zeros; or values that broadcast to the clip, e.g. (t, h, w, c).
      order: "most_first" in descending order of the map, or "least_first".
      grid: G: the unit is a cell of a G x G grid in a frame, its importance the mean of the map
        there, instead of a voxel.
      segments: (t, h, w) int, known ids: the unit is a segment, its importance the sum of the map
        over it. Segments of all frames are ordered together. Ids count within their frame,
        as published: the same id in two frames is two segments.
      supervoxels: whether the same id in several frames is one segment, switched in all of them.
      smooth: K: the map is smoothed first in each frame, by a kernel of 2 K + 1 pixels a side,
        sigma K, zero beyond the border.
      blur_sigma, edge: of "blur", see `gaussian_blur`. Published curves have the edge "zero".
      batch_size: clips put to fn at once; default all, or as many as make 33 million numbers.
        Fewer than all run in a compiled loop under `jit`, which may cost speed on CPUs.
    Returns:
      `PerturbationCurve`: curve (T + 1,), auc ().
    Raises:
      ValueError: shapes, a map or clip not finite, fewer units than steps, a target out of range,
      values of fn that are not finite or no probabilities (wrap logits in `jax.nn.softmax` or
      `jax.nn.sigmoid`), an unknown option.
      TypeError: arguments of another kind.
    Cost: a sort of the units and T + 1 evaluations.
    """
    ways = _Ways(
        steps, remove, order, grid, segments, supervoxels, smooth, blur_sigma, edge, batch_size
    )
    return _of_clip(True, fn, clip, saliency, target, ways)


def deletion(
    fn: ProbabilityFunction,
    clip: Any,
    saliency: Any,
    target: Any,
    steps: int = 16,
    remove: Any = "blur",
    *,
    order: Order = "most_first",
    grid: int | None = None,
    segments: Any = None,
    supervoxels: bool = False,
    smooth: int | None = None,
    blur_sigma: float = 20.0,
    edge: Edge = EDGE,
    batch_size: int | None = None,
) -> PerturbationCurve:
    """Probability of the target as the voxels of a clip vanish, from all to none.

    The start is fn(clip), the end what is left of a clip with everything removed.

    Args, returns, raises and cost: see `insertion`.
    """
    ways = _Ways(
        steps, remove, order, grid, segments, supervoxels, smooth, blur_sigma, edge, batch_size
    )
    return _of_clip(False, fn, clip, saliency, target, ways)


def insertion_deletion(
    fn: ProbabilityFunction,
    clips: Any,
    saliencies: Any,
    targets: Any,
    steps: int = 16,
    remove: Any = "blur",
    *,
    order: Order = "most_first",
    grid: int | None = None,
    segments: Any = None,
    supervoxels: bool = False,
    smooth: int | None = None,
    blur_sigma: float = 20.0,
    edge: Edge = EDGE,
    batch_size: int | None = None,
) -> InsertionDeletion:
    """`insertion` and `deletion` of V clips, from one order each.

    Under `jax.jit` one program for all clips and both curves. Without, batches are put to fn one
    after the other: give it compiled.

    Args:
      clips: (V, t, h, w, c). saliencies: (V, ...) maps as for `insertion`. targets: (V,) int.
      remove: also (V, t, h, w, c). segments: (t, h, w) of all clips, or (V, t, h, w).
      Others: see `insertion`.
    Returns:
      `InsertionDeletion`: curves (V, steps + 1), areas and their difference (V,).
    Raises:
      As `insertion`.
    Cost: per clip a sort and 2 * steps evaluations, the ends of the curves being the same two.
    """
    ways = _Ways(
        steps, remove, order, grid, segments, supervoxels, smooth, blur_sigma, edge, batch_size
    )
    case = _checked(clips, saliencies, targets, batched=True)
    steps = expect_int("steps", steps, 1)
    at = np.concatenate([np.arange(steps + 1), np.arange(1, steps)])
    found = _probabilities(fn, case, at, np.arange(len(at)) <= steps, ways)
    insertions, inner = found[:, : steps + 1], found[:, steps + 1 :]
    deletions = jnp.concatenate([insertions[:, -1:], inner, insertions[:, :1]], axis=1)
    return InsertionDeletion(PerturbationCurve(insertions), PerturbationCurve(deletions))


class _Case(NamedTuple):
    """V clips (V, t, h, w, c), saliencies (V, ...) and targets (V,), checked.

    `batched` says whether they came as a set or as one clip.
    """

    clips: Array
    saliencies: Array
    targets: Array
    batched: bool

    @property
    def of_map(self) -> str:
        """The caller's name of the saliencies, for messages."""
        return "saliencies" if self.batched else "saliency"


def _of_clip(
    reveal: bool, fn: ProbabilityFunction, clip: Any, saliency: Any, target: Any, ways: _Ways
) -> PerturbationCurve:
    """The curve of one clip that reveals voxels, or removes them."""
    case = _checked(clip, saliency, target, batched=False)
    at = np.arange(expect_int("steps", ways.steps, 1) + 1)
    return PerturbationCurve(_probabilities(fn, case, at, np.full(len(at), reveal), ways)[0])


def _checked(clips: Any, saliencies: Any, targets: Any, batched: bool) -> _Case:
    name, of_map, of_target = (
        ("clips", "saliencies", "targets") if batched else ("clip", "saliency", "target")
    )
    clips = expect_floating(name, clips, "Convert it, e.g. clip.astype(jnp.float32).")
    letters = "(V, t, h, w, c)" if batched else "(t, h, w, c)"
    is_set = clips.ndim == 5 and not batched
    way_out = "For a set, use insertion_deletion or jax.vmap." if is_set else ""
    expect_shape(name, clips, (None,) * (5 if batched else 4), letters, way_out)
    expect(clips.size > 0, name, "at least one number", f"shape {clips.shape}")
    expect_finite(name, clips)
    saliencies = expect_floating(of_map, saliencies)
    expect_finite(of_map, saliencies)
    targets = expect_classes(of_target, targets)
    if not batched:
        expect_shape(of_target, targets, (), "()", "For several, use jax.vmap.")
        return _Case(clips[None], saliencies[None], jnp.asarray(targets[None]), batched)
    shape = (len(clips),)
    expect_shape(of_target, targets, shape, f"(V,) = {shape}")
    fits = saliencies.ndim >= 1 and len(saliencies) == len(clips)
    expect(fits, of_map, f"{len(clips)} maps, one per clip", f"shape {saliencies.shape}")
    return _Case(clips, saliencies, jnp.asarray(targets), batched)


def _probabilities(
    fn: ProbabilityFunction, case: _Case, at: np.ndarray, reveals: np.ndarray, ways: _Ways
) -> Array:
    """`target_probabilities` of clips whose voxels are switched as the options have it, (V, K)."""
    scores = ScoresOf(fn, "clips", "probabilities")
    smooth = None if ways.smooth is None else expect_int("smooth", ways.smooth, 1)
    shape = case.clips.shape[:-1]
    units = units_of(shape, ways.grid, ways.segments, ways.supervoxels, case.batched)
    ends = step_ends(units, ways.steps)[:, at]
    expect_choice("order", ways.order, ORDERS)
    maps = _maps_of(case.saliencies, case.clips.shape, case.of_map, smooth)
    order = switching_order(maps, units, int(units.counts.max()), ways.order == "most_first")
    fills = fills_of(case.clips, ways.remove, float(ways.blur_sigma), ways.edge)
    switched = np.broadcast_to(ends, (shape[0], len(at)))
    return target_probabilities(
        scores, case.clips, fills, order, case.targets, switched, reveals, ways.batch_size
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _maps_of(saliencies: Array, shape: tuple[int, ...], name: str, smooth: int | None) -> Array:
    """Maps (V, t, h, w) of clips of a shape, smoothed."""
    maps = jax.vmap(lambda value: voxel_map(name, value, shape[1:4], shape[4]))(saliencies)
    return maps if smooth is None else smoothed(maps, smooth)
