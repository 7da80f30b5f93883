"""Removal of the voxels of a clip in the order of an attribution map."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.blur import Edge, gaussian_blur
from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_classes,
    expect_finite,
    expect_floating,
    expect_int,
    is_concrete,
    message,
    wider,
)

ProbabilityFunction: TypeAlias = Callable[[Array], Any]
"""Clips (B, t, h, w, c) -> probabilities (B, C), by softmax or by independent sigmoids."""
Remove: TypeAlias = Literal["blur", "fade"] | ArrayLike
"""Content of removed voxels: the blurred clip, zeros, or an array that broadcasts to the clip."""
Order = Literal["most_first", "least_first"]
ORDERS: tuple[Order, ...] = get_args(Order)

_NUMBERS_AT_ONCE = 2**25  # input of fn in one call, by default
_TOLERANCE = 1e-3  # by which rounding may take a probability out of 0..1


# Maps


def per_voxel(attribution: ArrayLike, shape: Sequence[int]) -> Array:
    """Attribution of any resolution as one value per voxel of a clip, (t, h, w).

    Args:
      attribution: floating point, one of
        (t, h, w), unchanged;
        (t, h, w, c) like the clip, summed over channels;
        (t', h', w') with fewer frames, rows or columns, e.g. from Grad-CAM: interpolated
        linearly between the centres of its cells, constant beyond the outermost;
        (t,), a value per frame, e.g. Element Shapley Values: repeated over the frame.
      shape: of the clip, (t, h, w, c) or (t, h, w).
    Returns:
      (t, h, w), float32 at least.
    Raises:
      ValueError: another shape, NaN or infinity. TypeError: not floating point.
    """
    attribution = expect_floating("attribution", attribution)
    expect_finite("attribution", attribution)
    size = tuple(expect_int("shape", length, 1) for length in shape)
    expect(len(size) in (3, 4), "shape", "(t, h, w) or (t, h, w, c)", size)
    return voxel_map("attribution", attribution, size[:3], size[3] if len(size) == 4 else None)


def voxel_map(name: str, value: Array, size: tuple[int, ...], channels: int | None) -> Array:
    """`per_voxel` of finite values; `name` is for errors."""
    value = value.astype(wider(value.dtype))
    if value.shape == size[:1]:
        return jnp.broadcast_to(value[:, None, None], size)
    if value.ndim == 4 and value.shape == (*size, channels):
        return value.sum(-1)
    if value.shape == size:
        return value
    coarser = value.ndim == 3 and all(1 <= a <= b for a, b in zip(value.shape, size, strict=True))
    expected = f"shape (t, h, w) = {size} or coarser, (t, h, w, c) like the clip, or (t,)"
    expect(coarser, name, expected, value.shape)
    return jax.image.resize(value, size, "linear")


def smoothed(maps: Array, reach: int) -> Array:
    """Maps (..., h, w) convolved with `smoothing_weights` by rows and columns, zero-padded."""
    weights = smoothing_weights(reach)

    def band(size: int) -> Array:
        away = np.arange(size) - np.arange(size)[:, None]
        kernel = weights[away.clip(-reach, reach) + reach]
        return jnp.asarray(np.where(np.abs(away) <= reach, kernel, 0), maps.dtype)

    rows, columns = (band(size) for size in maps.shape[-2:])
    maps = jnp.einsum("xw,...hw->...hx", columns, maps, precision="highest")
    return jnp.einsum("yh,...hx->...yx", rows, maps, precision="highest")


def smoothing_weights(reach: int) -> np.ndarray:
    """Gaussian of sigma `reach` on 2 reach + 1 pixels, (2 reach + 1,), of sum 1.

    As published, the weights up to 4 sigma away are wrapped into the window.
    """
    size = 2 * reach + 1
    away = np.arange(-4 * reach, 4 * reach + 1)
    weights = np.exp(-0.5 * (away / reach) ** 2)
    return np.bincount((away + reach) % size, weights / math.fsum(weights), minlength=size)


# Order


class Units(NamedTuple):
    """Groups of voxels that are switched together in each of V clips; V is 1 for shared units.

    Attributes:
      ids: (V, t, h, w) int32, the unit of each voxel, from 0; None if each voxel is a unit.
      counts: (V,) int32, number of units in each clip.
      sizes: (U,) voxels in each unit if importance is their mean; None for their sum.
    """

    ids: np.ndarray | None
    counts: np.ndarray
    sizes: np.ndarray | None = None


def make_units(
    shape: tuple[int, ...],
    grid: int | None,
    segments: ArrayLike | None,
    supervoxels: bool,
    batched: bool,
) -> Units:
    """The units selected by the options of `insertion`, for clips of `shape` (V, t, h, w)."""
    both = grid is not None and segments is not None
    expect(not both, "segments", "None beside a grid", "both", "Choose one.")
    expect(segments is not None or not supervoxels, "segments", "ids of supervoxels", "None")
    if segments is not None:
        return _segments(shape, segments, supervoxels, batched)
    t, h, w = shape[1:]
    if grid is None:
        return Units(None, np.array([t * h * w], np.int32))
    grid = expect_int("grid", grid, 1)
    expect(grid <= min(h, w), "grid", f"at most {min(h, w)}, the shorter side of a frame", grid)
    rows, columns = np.arange(h) * grid // h, np.arange(w) * grid // w  # cells of pixels
    ids = np.arange(t)[:, None, None] * grid**2 + rows[:, None] * grid + columns
    counts = np.array([t * grid**2], np.int32)
    return Units(ids[None].astype(np.int32), counts, np.bincount(ids.ravel()).astype(np.int32))


def _segments(
    shape: tuple[int, ...], segments: ArrayLike, supervoxels: bool, batched: bool
) -> Units:
    way_out = "Close over segments instead of passing them through jit or vmap."
    expect(is_concrete(segments), "segments", "ids that are known", "a traced array", way_out)
    ids = np.asarray(segments)
    is_integer = np.issubdtype(ids.dtype, np.integer)
    expect(is_integer, "segments", "integer ids", f"dtype {ids.dtype}", kind=TypeError)
    fits = ids.shape == shape[1:] or (batched and ids.shape == shape)
    letters = "(V, t, h, w) or (t, h, w)" if batched else "(t, h, w)"
    expect(fits, "segments", f"shape {letters} like the clip, {shape[1:]}", ids.shape)
    ids = ids.reshape(-1, *shape[1:])
    if not supervoxels:
        _, own = np.unique(ids, return_inverse=True)
        frame = np.arange(shape[1]).reshape(1, -1, 1, 1)
        ids = frame * (int(own.max()) + 1) + own.reshape(ids.shape)
    dense, counts = np.empty(ids.shape, np.int32), np.empty(len(ids), np.int32)
    for i, clip_ids in enumerate(ids):
        present, index = np.unique(clip_ids, return_inverse=True)
        dense[i], counts[i] = index.reshape(clip_ids.shape), len(present)
    return Units(dense, counts)


@functools.partial(jax.jit, static_argnames="n_units")
def switching_rank(maps: Array, units: Units, n_units: int, most_first: bool) -> Array:
    """Rank, from 0, of each voxel's unit in the order of switching, (V, t, h, w) int32.

    Ties keep the order of units; voxels are ordered by frame, row and column. `n_units` is the
    greatest number of units in a clip.
    """
    values, ids = maps.reshape(len(maps), -1), None
    if units.ids is not None:
        ids = jnp.broadcast_to(units.ids, maps.shape).reshape(values.shape)
        values = jax.vmap(lambda row, own: jax.ops.segment_sum(row, own, n_units))(values, ids)
    if units.sizes is not None:
        values = values / jnp.asarray(units.sizes, values.dtype)[None]
    unit = jnp.arange(n_units, dtype=jnp.int32)[None]
    present = unit < jnp.asarray(units.counts)[:, None]
    ascending = jnp.where(present, jnp.where(most_first, -values, values), jnp.inf)
    order = jnp.argsort(ascending, axis=-1)
    rank = jnp.zeros(order.shape, jnp.int32).at[jnp.arange(len(maps))[:, None], order].set(unit)
    if ids is not None:
        rank = jnp.take_along_axis(rank, ids, axis=-1)
    return rank.reshape(maps.shape)


# Clips with voxels removed


def replacement(clips: Array, remove: Remove, blur_sigma: float, edge: Edge) -> Array:
    """Content of the removed voxels of clips (V, t, h, w, c), of their shape; see `insertion`."""
    if isinstance(remove, str):
        known = remove in ("blur", "fade")
        expect(known, "remove", "'blur', 'fade' or an array like the clip", repr(remove))
        return jnp.zeros_like(clips) if remove == "fade" else _blurred(clips, blur_sigma, edge)
    fill = expect_floating("remove", remove, "Choose 'blur' or 'fade', or give an array.")
    expect_finite("remove", fill)
    try:
        return jnp.broadcast_to(fill.astype(clips.dtype), clips.shape)
    except ValueError:
        expected = f"a shape that broadcasts to that of a clip, {clips.shape[1:]}"
        raise ValueError(message("remove", expected, fill.shape)) from None


_blurred = jax.jit(gaussian_blur, static_argnums=(1, 2))


def target_probabilities(
    fn: ScoresOf,
    clips: Array,
    fills: Array,
    rank: Array,
    targets: Array,
    switched: np.ndarray,
    reveals: np.ndarray,
    batch_size: int | None = None,
) -> Array:
    """Probabilities of the targets with voxels revealed or removed in K ways, (V, K).

    Args:
      clips, fills: (V, t, h, w, c). rank: (V, t, h, w), from `switching_rank`. targets: (V,) int.
      switched: (V, K), units switched. reveals: (K,), whether these are revealed, else removed.
    Cost: V * K evaluations in batches of one size: a loop on the host for concrete arrays, a
      compiled loop while tracing.
    """
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE * len(clips) // clips.size)
    batches = in_batches(switched.size, batch_size)

    def evaluate(index: Array | np.ndarray) -> Array:
        found = fn(_blended(clips, fills, rank, switched, reveals, index))
        found = checked_probabilities(found, targets)
        return scores_of_targets(found.astype(wider(found.dtype)), targets[index // len(reveals)])

    if len(batches) == 1:
        found = evaluate(batches[0])
    elif all(map(is_concrete, (clips, fills, rank, targets))):
        found = jnp.concatenate(list(map(evaluate, batches)))
    else:
        found = lax.map(evaluate, batches).reshape(-1)
    return found[: switched.size].reshape(switched.shape)


def in_batches(n: int, batch_size: int) -> np.ndarray:
    """0..n - 1 in batches of one size, (batches, width); the last is repeated."""
    n_batches = -(-n // expect_int("batch_size", batch_size, 1))
    width = -(-n // n_batches)
    return np.arange(n_batches * width, dtype=np.int32).reshape(n_batches, width).clip(max=n - 1)


@jax.jit
def _blended(
    clips: Array, fills: Array, rank: Array, switched: Array, reveals: Array, index: Array
) -> Array:
    """The clips at `index` (B,) among all V * K, (B, t, h, w, c)."""
    i, way = index // len(reveals), index % len(reveals)
    n_switched, reveal = (row[:, None, None, None] for row in (switched[i, way], reveals[way]))
    kept = (rank[i] < n_switched) == reveal
    return jnp.where(kept[..., None], clips[i], fills[i])


def checked_probabilities(found: ArrayLike, targets: ArrayLike) -> Array:
    """Class scores (B, C) as an array, checked to be probabilities.

    They need not sum to 1 over classes: independent sigmoids do not. Values and targets are checked
    where they are concrete.
    """
    found = jnp.asarray(found)
    if is_concrete(found):
        expect_finite("fn", found, "Probabilities of clips with voxels removed must be finite.")
        low, high = float(found.min()), float(found.max())
        way_out = (
            "Wrap a function that returns logits: lambda clips: jax.nn.softmax(model(clips)),"
            " or jax.nn.sigmoid(model(clips)) for independent classes."
        )
        fits = low >= -_TOLERANCE and high <= 1 + _TOLERANCE
        expect(fits, "fn", "probabilities, 0..1", f"{low:.4g} to {high:.4g}", way_out)
    expect_classes("target", targets, found.shape[1])
    return found


def scores_of_targets(scores: Array, targets: Array) -> Array:
    """Scores (...) of the targets (...) among those of all classes (..., C); NaN out of range."""
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1, mode="clip")[..., 0]
    is_class = (targets >= 0) & (targets < scores.shape[-1])
    return jnp.where(is_class, chosen, jnp.nan)
