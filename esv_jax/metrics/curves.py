"""Insertion and deletion curves: a probability as voxels appear or vanish in the order of a map.

    f = lambda clips: jax.nn.softmax(model(clips))  # (B, t, h, w, c) -> (B, C)
    insertion(f, clip, saliency, target).auc  # high for a good map
    deletion(f, clip, saliency, target).auc  # low
    jax.jit(functools.partial(insertion_deletion, f))(clips, saliencies, targets).difference

Source: Petsiuk et al. (2018); over the voxels of a whole clip and with the least important
voxels first, Li et al. (2021).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

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
from esv_jax.metrics.voxels import (
    ORDERS,
    Order,
    ProbabilityFunction,
    Remove,
    make_units,
    replacement,
    smoothed,
    switching_rank,
    target_probabilities,
    voxel_map,
)
from esv_jax.records import register_record


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """Probabilities of a target as voxels are switched; behaves as the array of its curve.

    Attributes:
      curve: (..., steps + 1); point 0 is the start, at the last all voxels are switched.
    """

    curve: Array

    @property
    def auc(self) -> Array:
        """Area under the curve over the share of voxels switched, by trapezoids, (...)."""
        return (self.curve[..., 1:] + self.curve[..., :-1]).mean(-1) / 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the curve."""
        return self.curve.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.curve, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.curve)

    def __getitem__(self, index: Any) -> Array:
        return self.curve[index]

    def __iter__(self) -> Iterator[Array]:
        return iter(self.curve)


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """Both curves of V clips, (V, steps + 1) with areas (V,)."""

    insertion: PerturbationCurve
    deletion: PerturbationCurve

    @property
    def difference(self) -> Array:
        """(V,) area of insertion minus area of deletion; high for good maps."""
        return self.insertion.auc - self.deletion.auc


class CurveOptions(TypedDict, total=False):
    """Keywords of `insertion`, `deletion` and `insertion_deletion`.

    Attributes:
      order: "most_first", the default, in descending order of the map, or "least_first".
      grid: G: units are the cells of a G x G grid in each frame instead of voxels; their
        importance is the mean of the map.
      segments: (t, h, w) int, static ids: units are segments; their importance is the sum of the
        map. As published, the same id in two frames is two segments.
      supervoxels: the same id in several frames is one segment.
      smooth: K: smooths the map in each frame first, with a Gaussian of sigma K on 2 K + 1 pixels,
        zero-padded.
      blur_sigma, edge: of remove="blur", see `gaussian_blur`; default 20 and "replicate". Published
        curves have the edge "zero".
      batch_size: clips in one call of fn; default all, or as many as make 33 million numbers.
        Several batches run in a compiled loop under `jit`, which may be slower on CPUs.
    """

    order: Order
    grid: int | None
    segments: ArrayLike | None
    supervoxels: bool
    smooth: int | None
    blur_sigma: float
    edge: Edge
    batch_size: int | None


def insertion(
    fn: ProbabilityFunction,
    clip: ArrayLike,
    saliency: ArrayLike,
    target: ArrayLike,
    steps: int = 16,
    remove: Remove = "blur",
    **options: Unpack[CurveOptions],
) -> PerturbationCurve:
    """Probability of the target as the voxels of a clip appear, from none to all.

    Voxels are ordered over the whole clip; step t of T reveals the first t / T of them. The
    curve starts at the clip with everything removed and ends at fn(clip). Compiles under `jit`
    and batches under `vmap` with static options; values are checked on concrete arrays.

    Args:
      fn: clips (B, t, h, w, c) -> probabilities (B, C), by softmax or independent sigmoids, (B,)
        being one column; or one clip -> logits (C,); or an object with such `logits`. Without `jit`
        and `vmap` also a function of another framework.
      clip: (t, h, w, c), floating point, in the units of fn.
      saliency: attribution of the target: (t, h, w), (t, h, w, c), coarser (t', h', w'), or
        (t,) per frame; see `per_voxel`. Ties are ordered by frame, row and column.
      target: the class; a traced one out of range gives NaN.
      steps: T, >= 1.
      remove: content of removed voxels: "blur", the clip under `gaussian_blur`; "fade", zeros; or
        an array that broadcasts to the clip.
      **options: order, grid, segments, supervoxels, smooth, blur_sigma, edge, batch_size; see
        `CurveOptions`.
    Returns:
      `PerturbationCurve`: curve (T + 1,), auc ().
    Raises:
      ValueError: shapes, a map or clip not finite, fewer units than steps, a target out of range,
      an unknown option, values of fn that are not probabilities (wrap logits in `jax.nn.softmax`
      or `jax.nn.sigmoid`). TypeError: arguments of another kind.
    Cost: a sort of the units and T + 1 evaluations.
    """
    return _single_curve(True, fn, clip, saliency, target, steps, remove, options)


def deletion(
    fn: ProbabilityFunction,
    clip: ArrayLike,
    saliency: ArrayLike,
    target: ArrayLike,
    steps: int = 16,
    remove: Remove = "blur",
    **options: Unpack[CurveOptions],
) -> PerturbationCurve:
    """Probability of the target as the voxels of a clip vanish, from all to none.

    The curve starts at fn(clip) and ends at the clip with everything removed.

    Args, returns, raises and cost: see `insertion`.
    """
    return _single_curve(False, fn, clip, saliency, target, steps, remove, options)


def insertion_deletion(
    fn: ProbabilityFunction,
    clips: ArrayLike,
    saliencies: ArrayLike,
    targets: ArrayLike | Sequence[int],
    steps: int = 16,
    remove: Remove = "blur",
    **options: Unpack[CurveOptions],
) -> InsertionDeletion:
    """`insertion` and `deletion` of V clips, sharing the order and the ends of the curves.

    Under `jax.jit` one program for all clips and both curves. Otherwise fn is called batch by
    batch: pass a compiled one.

    Args:
      clips: (V, t, h, w, c). saliencies: (V, ...) maps as for `insertion`. targets: (V,) int.
      remove: also (V, t, h, w, c). segments: (t, h, w) for all clips, or (V, t, h, w).
      Others: see `insertion`.
    Raises: as `insertion`.
    Cost: per clip a sort and 2 * steps evaluations.
    """
    batch = _checked(clips, saliencies, targets, batched=True)
    steps = expect_int("steps", steps, 1)
    at = np.concatenate([np.arange(steps + 1), np.arange(1, steps)])
    found = _probabilities(fn, batch, steps, at, np.arange(2 * steps) <= steps, remove, **options)
    insertions, inner = found[:, : steps + 1], found[:, steps + 1 :]
    deletions = jnp.concatenate([insertions[:, -1:], inner, insertions[:, :1]], axis=1)
    return InsertionDeletion(PerturbationCurve(insertions), PerturbationCurve(deletions))


class _Batch(NamedTuple):
    """Clips (V, t, h, w, c), saliencies (V, ...) and targets (V,); `batched` as passed by users."""

    clips: Array
    saliencies: Array
    targets: Array
    batched: bool


def _single_curve(
    reveal: bool,
    fn: ProbabilityFunction,
    clip: ArrayLike,
    saliency: ArrayLike,
    target: ArrayLike,
    steps: int,
    remove: Remove,
    options: CurveOptions,
) -> PerturbationCurve:
    batch = _checked(clip, saliency, target, batched=False)
    at = np.arange(expect_int("steps", steps, 1) + 1)
    reveals = np.full(len(at), reveal)
    return PerturbationCurve(_probabilities(fn, batch, steps, at, reveals, remove, **options)[0])


def _checked(
    clips: ArrayLike, saliencies: ArrayLike, targets: ArrayLike | Sequence[int], batched: bool
) -> _Batch:
    name, map_name, target_name = (
        ("clips", "saliencies", "targets") if batched else ("clip", "saliency", "target")
    )
    clips = expect_floating(name, clips, "Convert it, e.g. clip.astype(jnp.float32).")
    letters = "(V, t, h, w, c)" if batched else "(t, h, w, c)"
    way_out = "" if batched or clips.ndim != 5 else "For a set, use insertion_deletion or jax.vmap."
    expect_shape(name, clips, (None,) * (5 if batched else 4), letters, way_out)
    expect(clips.size > 0, name, "at least one number", f"shape {clips.shape}")
    expect_finite(name, clips)
    saliencies = expect_floating(map_name, saliencies)
    expect_finite(map_name, saliencies)
    targets = expect_classes(target_name, targets)
    if not batched:
        expect_shape(target_name, targets, (), "()", "For several, use jax.vmap.")
        return _Batch(clips[None], saliencies[None], jnp.asarray(targets[None]), batched)
    shape = (len(clips),)
    expect_shape(target_name, targets, shape, f"(V,) = {shape}")
    expected = f"{len(clips)} maps, one per clip"
    expect(saliencies.shape[:1] == shape, map_name, expected, f"shape {saliencies.shape}")
    return _Batch(clips, saliencies, jnp.asarray(targets), batched)


def _probabilities(
    fn: ProbabilityFunction,
    batch: _Batch,
    steps: int,
    at: np.ndarray,
    reveals: np.ndarray,
    remove: Remove,
    *,
    order: Order = "most_first",
    grid: int | None = None,
    segments: ArrayLike | None = None,
    supervoxels: bool = False,
    smooth: int | None = None,
    blur_sigma: float = 20.0,
    edge: Edge = EDGE,
    batch_size: int | None = None,
) -> Array:
    """Probabilities (V, K) at steps `at` (K,), voxels being revealed or removed."""
    scores = ScoresOf(fn, "clips", "probabilities")
    smooth = None if smooth is None else expect_int("smooth", smooth, 1)
    units = make_units(batch.clips.shape[:-1], grid, segments, supervoxels, batch.batched)
    fewest = int(units.counts.min())
    expect(steps <= fewest, "steps", f"at most {fewest}, the units to switch", steps)
    ends = np.linspace(0, units.counts, steps + 1, axis=-1).astype(np.int32)[:, at]
    expect_choice("order", order, ORDERS)
    name = "saliencies" if batch.batched else "saliency"
    maps = _voxel_maps(batch.saliencies, batch.clips.shape, name, smooth)
    rank = switching_rank(maps, units, int(units.counts.max()), order == "most_first")
    fills = replacement(batch.clips, remove, float(blur_sigma), edge)
    switched = np.broadcast_to(ends, (len(batch.clips), len(at)))
    return target_probabilities(
        scores, batch.clips, fills, rank, batch.targets, switched, reveals, batch_size
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _voxel_maps(saliencies: Array, shape: tuple[int, ...], name: str, smooth: int | None) -> Array:
    """Maps (V, t, h, w) for clips of `shape`, smoothed."""
    maps = jax.vmap(lambda value: voxel_map(name, value, shape[1:4], shape[4]))(saliencies)
    return maps if smooth is None else smoothed(maps, smooth)
