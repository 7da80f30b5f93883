"""Localisation of known evidence by attribution maps, in space and time."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import (
    expect,
    expect_array,
    expect_finite,
    expect_floating,
    expect_int,
    expect_numbers,
    wider,
)
from esv_jax.metrics.statistics import Integers, Rows, checked_labels


class PointingGame(NamedTuple):
    """Result of `pointing_game`.

    Attributes:
      hits: (n,) int, 1 for a hit and -1 for a miss.
      class_accuracies: (C,) share of hits among the points of each class; 0 without points.
      accuracy: mean of `class_accuracies`.
    """

    hits: np.ndarray
    class_accuracies: np.ndarray
    accuracy: float


def pointing_game(
    points: Rows, boxes: Rows, labels: Integers, tolerance: float = 15, n_classes: int | None = None
) -> PointingGame:
    """The pointing game: a hit if the highest pixel of a map is in the box of its object.

    Boxes are enlarged by `tolerance` on every side, borders included, and clipped at pixel 0.
    Source: Zhang et al. (2018). Runs on the host, in NumPy.

    Args:
      points: (n, 2) as (x, y), columns and rows.
      boxes: (n, 4) as (x0, y0, x1, y1).
      labels: (n,) int, classes >= 0.
      tolerance: in pixels, >= 0; 15 as published.
      n_classes: C; default highest label + 1. A class without points counts as 0 in the mean.
    Raises:
      ValueError: shapes, no points, NaN, a tolerance < 0, labels >= C. TypeError: not numbers,
      labels that are not integers.
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
    counts = np.bincount(labels, minlength=c)
    accuracies = np.bincount(labels, inside, minlength=c) / np.maximum(counts, 1)
    return PointingGame(np.where(inside, 1, -1), accuracies, float(accuracies.mean()))


def pointing_hits(
    maps: ArrayLike, masks: ArrayLike, tolerance: int = 0, frame_tolerance: int = 0
) -> Array:
    """The pointing game in space and time: 1 where the highest voxel of a map is on the evidence.

    Ties are ordered by frame, row and column.

    Args:
      maps: (..., t, h, w), e.g. of V clips; for others see `per_voxel`.
      masks: bool like maps, the evidence.
      tolerance, frame_tolerance: rows and columns, and frames, by which the evidence is dilated
        on every side.
    Returns:
      (...), 1 or 0; NaN for a clip without evidence.
    Raises:
      ValueError: different shapes, non-finite maps, a tolerance < 0. TypeError: masks not bool.
    """
    maps, inside = _evidence(maps, masks, tolerance, frame_tolerance)
    inside = inside.reshape(*maps.shape[:-3], -1)
    highest = jnp.argmax(maps.reshape(inside.shape), axis=-1, keepdims=True)
    hit = jnp.take_along_axis(inside, highest, axis=-1)[..., 0]
    return jnp.where(inside.any(-1), hit.astype(maps.dtype), jnp.nan)


def mass_inside(
    maps: ArrayLike, masks: ArrayLike, tolerance: int = 0, frame_tolerance: int = 0
) -> Array:
    """Share of the positive attribution that is on the evidence.

    Args and raises: see `pointing_hits`.
    Returns:
      (...), in 0..1; NaN for a clip without evidence or a map without positive values.
    """
    maps, inside = _evidence(maps, masks, tolerance, frame_tolerance)
    positive = jnp.maximum(maps, 0)
    share = jnp.where(inside, positive, 0).sum((-3, -2, -1)) / positive.sum((-3, -2, -1))
    return jnp.where(inside.any((-3, -2, -1)), share, jnp.nan)


def mask_coverage(maps: ArrayLike, masks: ArrayLike, area: float) -> Array:
    """Recall of the evidence among the highest voxels of each map.

    If `area` is the evidence's share of the clip, this is the precision too. Ties are ordered by
    frame, row and column.

    Args:
      maps, masks: see `pointing_hits`.
      area: share of a clip's voxels, in (0, 1]; rounded to whole voxels, at least one.
    Returns:
      (...), in 0..1; NaN for a clip without evidence. A random order gives `area` on average.
    Raises:
      As `pointing_hits`; ValueError: an area out of range.
    Cost: one sort per map.
    """
    maps, masks = _evidence(maps, masks)
    expect(0 < area <= 1, "area", "a share in (0, 1]", area)
    n_voxels = int(np.prod(maps.shape[-3:]))
    masks = masks.reshape(*maps.shape[:-3], n_voxels)
    order = jnp.argsort(-maps.reshape(masks.shape), axis=-1)
    highest = order[..., : max(1, round(area * n_voxels))]
    found = jnp.take_along_axis(masks, highest, axis=-1).sum(-1)
    return found.astype(maps.dtype) / masks.sum(-1).astype(maps.dtype)


def _evidence(
    maps: ArrayLike, masks: ArrayLike, tolerance: int = 0, frame_tolerance: int = 0
) -> tuple[Array, Array]:
    """Maps (..., t, h, w), float32 at least, and their dilated evidence, bool alike."""
    maps = expect_floating("maps", maps)
    expect(maps.ndim >= 3 and maps.size > 0, "maps", "shape (..., t, h, w)", maps.shape)
    expect_finite("maps", maps)
    inside = _expect_bool("masks", masks)
    expect(inside.shape == maps.shape, "masks", f"shape {maps.shape} like maps", inside.shape)
    reach = [expect_int("frame_tolerance", frame_tolerance, 0)]
    reach += [expect_int("tolerance", tolerance, 0)] * 2
    for axis, n in zip((-3, -2, -1), reach, strict=True):
        if n:
            window, strides = [1] * inside.ndim, (1,) * inside.ndim
            window[axis] = 2 * n + 1
            inside = lax.reduce_window(inside, False, lax.bitwise_or, window, strides, "SAME")
    return maps.astype(wider(maps.dtype)), inside


def _expect_bool(name: str, value: ArrayLike) -> Array:
    array = jnp.asarray(expect_array(name, value))
    is_bool = array.dtype == jnp.bool_
    expect(is_bool, name, "bool", f"dtype {array.dtype}", "Compare it.", kind=TypeError)
    return array


def temporal_grounding(values: ArrayLike, evidence: ArrayLike, k: int | None = None) -> Array:
    """Intersection over union of the k highest frames with the frames of the evidence.

    Of equal frames the first is taken.

    Args:
      values: (..., n), one per frame; or maps (..., n, h, w), whose positive values are summed
        over each frame.
      evidence: (..., n) bool, the frames that show the evidence.
      k: number of frames, 1..n; default the number of evidence frames of each clip.
    Returns:
      (...), in 0..1; NaN for a clip without evidence.
    Raises:
      ValueError: different shapes, non-finite values, k out of range. TypeError: values not
      floating point, evidence not bool.
    """
    values, evidence = expect_floating("values", values), _expect_bool("evidence", evidence)
    expect(evidence.ndim >= 1 and evidence.size > 0, "evidence", "shape (..., n)", evidence.shape)
    fits = evidence.shape in (values.shape, values.shape[:-2])
    expect(fits, "values", f"shape {evidence.shape} like evidence, or with (h, w)", values.shape)
    expect_finite("values", values)
    n = evidence.shape[-1]
    if k is not None:
        expect(expect_int("k", k, 1) <= n, "k", f"1..{n} frames", k)
    values = values.astype(wider(values.dtype))
    if values.shape != evidence.shape:
        values = jnp.maximum(values, 0).sum((-2, -1))
    n_evidence = evidence.sum(-1, keepdims=True)
    rank = jnp.argsort(jnp.argsort(-values, axis=-1), axis=-1)
    chosen = rank < (n_evidence if k is None else jnp.full_like(n_evidence, k))
    both = (chosen & evidence).sum(-1).astype(values.dtype)
    either = (chosen | evidence).sum(-1).astype(values.dtype)
    return jnp.where(evidence.any(-1), both / jnp.maximum(either, 1), jnp.nan)
