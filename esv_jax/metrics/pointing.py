"""Pointing metrics: the highest position, or the mass, of an attribution within the evidence."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_int, expect_numbers
from esv_jax.metrics.evidence import grown, maps_and_masks
from esv_jax.metrics.labelled import checked_labels


class PointingGame(NamedTuple):
    """Hits of n points, and their shares.

    Attributes:
      hits: (n,) int, 1 for a hit and -1 for a miss.
      class_accuracies: (C,) share of hits among the points of a class; 0 of none.
      accuracy: their mean.
    """

    hits: np.ndarray
    class_accuracies: np.ndarray
    accuracy: float


def pointing_game(
    points: Any, boxes: Any, labels: Any, tolerance: float = 15, n_classes: int | None = None
) -> PointingGame:
    """The pointing game: whether each map's highest pixel lies in the box of its object.

    A box is taken larger by `tolerance` on every side, borders included, and cut at pixel 0.
    Source: Zhang et al. (2018). Runs on the host, in NumPy.

    Args:
      points: (n, 2) as (x, y), columns and rows.
      boxes: (n, 4) as (x0, y0, x1, y1).
      labels: (n,) int, classes >= 0.
      tolerance: in pixels, >= 0; 15 as published.
      n_classes: C; default up to the highest label. A class without points counts as 0 in the mean.
    Returns:
      `PointingGame`.
    Raises:
      ValueError: shapes, no points, NaN, a tolerance < 0, labels >= C. TypeError: not numbers,
      labels that are no integers.
    """
    points, boxes = expect_numbers("points", points), expect_numbers("boxes", boxes)
    n = len(points) if points.ndim else 0
    expect(n >= 1 and points.shape == (n, 2), "points", "shape (n, 2), n >= 1", points.shape)
    expect(boxes.shape == (n, 4), "boxes", f"shape (n, 4) = ({n}, 4)", boxes.shape)
    expect_finite("points", points)
    expect_finite("boxes", boxes)
    labels = checked_labels("labels", labels, n)
    expect(bool(tolerance >= 0), "tolerance", "pixels >= 0", tolerance)
    c = expect_int("n_classes", int(labels.max()) + 1 if n_classes is None else n_classes, 1)
    expect(bool(labels.max() < c), "labels", f"classes in 0..{c - 1}", labels.max())
    low, high = np.maximum(boxes[:, :2] - tolerance, 0), boxes[:, 2:] + tolerance
    inside = ((points >= low) & (points <= high)).all(1)
    seen = np.bincount(labels, minlength=c)
    accuracies = np.bincount(labels, inside, minlength=c) / np.maximum(seen, 1)
    return PointingGame(np.where(inside, 1, -1), accuracies, float(accuracies.mean()))


def pointing_hits(maps: Any, masks: Any, tolerance: int = 0, frame_tolerance: int = 0) -> Array:
    """Return whether the highest voxel of each map lies on the evidence, or close by.

    The pointing game in space and time. Of equal voxels the first counts, by frame, row and
    column.

    Args:
      maps: (..., t, h, w), e.g. of V clips; see `per_voxel` for others.
      masks: bool like maps, the evidence; or its box in each frame, (..., t, 4) as
        (x0, y0, x1, y1) with borders included, NaN in frames without.
      tolerance: rows and columns, and `frame_tolerance` frames, by which the evidence is taken
        larger on every side.
    Returns:
      (...), 1 or 0; NaN where a clip has no evidence.
    Raises:
      ValueError: shapes that differ, maps not finite, a tolerance < 0. TypeError: masks not bool.
    """
    maps, masks = maps_and_masks(maps, masks)
    return _hits(maps, grown(masks, tolerance, frame_tolerance))


@jax.jit
def _hits(maps: Array, inside: Array) -> Array:
    inside = inside.reshape(*maps.shape[:-3], -1)
    highest = jnp.argmax(maps.reshape(inside.shape), axis=-1, keepdims=True)
    hit = jnp.take_along_axis(inside, highest, axis=-1)[..., 0]
    return jnp.where(inside.any(-1), hit.astype(maps.dtype), jnp.nan)


def mass_inside(maps: Any, masks: Any, tolerance: int = 0, frame_tolerance: int = 0) -> Array:
    """Share of the positive attribution that lies on the evidence, or close by.

    Args and raises: see `pointing_hits`.
    Returns:
      (...), in 0..1; NaN where a clip has no evidence, or a map nothing positive.
    """
    maps, masks = maps_and_masks(maps, masks)
    return _mass(maps, grown(masks, tolerance, frame_tolerance))


@jax.jit
def _mass(maps: Array, inside: Array) -> Array:
    positive = jnp.maximum(maps, 0)
    share = jnp.where(inside, positive, 0).sum((-3, -2, -1)) / positive.sum((-3, -2, -1))
    return jnp.where(inside.any((-3, -2, -1)), share, jnp.nan)


def mask_coverage(maps: Any, masks: Any, area: float) -> Array:
    """Share of the evidence that is found among the highest voxels of each map.

    Where `area` is the evidence's own share of the clip, it is also the share of those voxels
    that are evidence. Of equal voxels the first count, by frame, row and column.

    Args:
      maps, masks: see `pointing_hits`.
      area: share of a clip's voxels, in (0, 1]; rounded to whole voxels, one at least.
    Returns:
      (...), in 0..1; NaN where a clip has no evidence. A random order gives `area` on average.
    Raises:
      As `pointing_hits`; ValueError: an area out of range.
    Cost: one sort per map.
    """
    maps, masks = maps_and_masks(maps, masks)
    expect(0 < area <= 1, "area", "a share in (0, 1]", area)
    n_voxels = int(np.prod(maps.shape[-3:]))
    return _coverage(maps, masks, max(1, round(area * n_voxels)))


@functools.partial(jax.jit, static_argnums=2)
def _coverage(maps: Array, masks: Array, count: int) -> Array:
    masks = masks.reshape(*maps.shape[:-3], -1)
    order = jnp.argsort(-maps.reshape(masks.shape), axis=-1)
    found = jnp.take_along_axis(masks, order[..., :count], axis=-1).sum(-1)
    return found.astype(maps.dtype) / masks.sum(-1).astype(maps.dtype)
