"""The order in which the voxels of a clip are switched, by their attribution."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_int, is_concrete

Order = Literal["most_first", "least_first"]
ORDERS: tuple[Order, ...] = get_args(Order)


class Units(NamedTuple):
    """Units that are switched together in each of V clips; V is 1 where all clips share them.

    Attributes:
      ids: (V, t, h, w) int32, the unit of each voxel, from 0; None where each voxel is one.
      counts: (V,) int32, units in each clip.
      sizes: (U,) voxels in each unit where its importance is their mean; None for their sum.
    """

    ids: np.ndarray | None
    counts: np.ndarray
    sizes: np.ndarray | None = None


def units_of(
    shape: tuple[int, ...], grid: int | None, segments: Any, supervoxels: bool, batched: bool
) -> Units:
    """The units that the options of `insertion` name, for clips of `shape` (V, t, h, w).

    Args:
      segments: (t, h, w); of a set, `batched`, also (V, t, h, w).
    """
    both = grid is not None and segments is not None
    expect(not both, "segments", "None beside a grid", "both", "Choose one.")
    expect(segments is not None or not supervoxels, "segments", "ids of supervoxels", "None")
    if grid is not None:
        return _cells(shape[1:], grid)
    if segments is not None:
        return _segments(shape, segments, supervoxels, batched)
    return Units(None, np.array([np.prod(shape[1:])], np.int32))


def step_ends(units: Units, steps: int) -> np.ndarray:
    """Units switched by the end of each step, (V, steps + 1) int32.

    The whole part of t * count / steps after step t; none at the start.
    """
    fewest = int(units.counts.min())
    expect(steps <= fewest, "steps", f"at most {fewest}, the units to switch", steps)
    return np.linspace(0, units.counts, steps + 1, axis=-1).astype(np.int32)


@functools.partial(jax.jit, static_argnames="n_units")
def switching_order(maps: Array, units: Units, n_units: int, most_first: bool) -> Array:
    """The place from 0, in the order of switching, of the unit that each voxel belongs to.

    Equal values keep the order of their units: of voxels by frame, row and column.

    Args:
      maps: (V, t, h, w).
      n_units: U, of the clip with most of them.
      most_first: whether units of high importance come first.
    Returns:
      (V, t, h, w) int32.
    Cost: one sort of the units per clip.
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
    places = jnp.zeros(order.shape, jnp.int32).at[jnp.arange(len(maps))[:, None], order].set(unit)
    if ids is not None:
        places = jnp.take_along_axis(places, ids, axis=-1)
    return places.reshape(maps.shape)


def _cells(shape: tuple[int, ...], grid: int) -> Units:
    """grid x grid cells in each frame; row i lies in cell row floor(i * grid / h)."""
    t, h, w = shape
    grid = expect_int("grid", grid, 1)
    expect(grid <= min(h, w), "grid", f"at most {min(h, w)}, the shorter side of a frame", grid)
    rows, columns = np.arange(h) * grid // h, np.arange(w) * grid // w
    frames = np.arange(t)[:, None, None] * grid**2
    ids = frames + rows[:, None] * grid + columns
    counts = np.array([t * grid**2], np.int32)
    return Units(ids[None].astype(np.int32), counts, np.bincount(ids.ravel()).astype(np.int32))


def _segments(shape: tuple[int, ...], segments: Any, supervoxels: bool, batched: bool) -> Units:
    way_out = "Close over segments instead of passing them through jit or vmap."
    expect(is_concrete(segments), "segments", "ids that are known", "a traced array", way_out)
    ids = np.asarray(segments)
    is_integer = np.issubdtype(ids.dtype, np.integer)
    expect(is_integer, "segments", "integer ids", f"dtype {ids.dtype}", kind=TypeError)
    fits = ids.shape == shape[1:] or (batched and ids.shape == shape)
    letters = "(V, t, h, w) or (t, h, w)" if batched else "(t, h, w)"
    expect(fits, "segments", f"shape {letters} as the clip has it, {shape[1:]}", ids.shape)
    ids = ids.reshape(-1, *shape[1:])
    if not supervoxels:
        _, own = np.unique(ids, return_inverse=True)
        frame = np.arange(shape[1]).reshape(1, -1, 1, 1)
        ids = frame * (int(own.max()) + 1) + own.reshape(ids.shape)
    dense = np.empty(ids.shape, np.int32)
    counts = np.empty(len(ids), np.int32)
    for i, clip_ids in enumerate(ids):
        present, places = np.unique(clip_ids, return_inverse=True)
        dense[i], counts[i] = places.reshape(clip_ids.shape), len(present)
    return Units(dense, counts)
