"""Shot boundaries: contiguous segments of similar elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_finite, expect_int, expect_shape, message


def propose_segments(
    features: Any, n_segments: int | None = None, threshold: float | None = None
) -> np.ndarray:
    """Contiguous segments of elements that look alike, as labels: shots, for `groups`.

    By default the segments with the least squared distance of elements to their segment's mean,
    among all ways of cutting (dynamic programming; of equally good cuts the earliest). With
    `n_segments = k` exactly k of them. With neither argument, the k <= (n + 1) / 2 that minimises

        distance(k) + 2 v k (log(n / k) + 1),

    where v, the noise that neighbours show, is the median over neighbours of half their squared
    distance. Features without noise are cut wherever they change; pure noise is not cut.
    With `threshold`, cuts are instead where neighbours' cosine similarity is below it.

    Source: the criterion and its penalty are those of kernel temporal segmentation, Potapov et
    al. (2014); its constant is ours.

    Args:
      features: (n, D), finite; n >= 1.
      n_segments: segments wanted, 1..n.
      threshold: cosine similarity, -1..1; a row of zeros is like another of zeros and unlike the
        rest.
    Returns:
      (n,) int64: labels 0..k - 1, never decreasing.
    Raises:
      ValueError: shapes, values that are not finite, both arguments at once, either out of range.
      TypeError: a number of segments that is no integer, features that are no numbers.
    Cost: n**2 * (D + k) multiply-adds and 3 n**2 numbers in double precision.
    """
    features = np.asarray(features)
    if not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features):
        raise TypeError(message("features", "real numbers", f"dtype {features.dtype}"))
    expect_shape("features", features, (None, None), "(n, D)")
    n = len(features)
    expect(n >= 1, "features", "at least one element (n >= 1)", "n = 0")
    expect_finite("features", features)
    features = features.astype(np.float64)
    if threshold is not None:
        expect(n_segments is None, "threshold", "one of n_segments and threshold", "both")
        expect(-1 <= threshold <= 1, "threshold", "a cosine similarity in -1..1", threshold)
        cuts = _neighbour_similarity(features) < threshold
        return np.concatenate([[0], np.cumsum(cuts)])
    most = (n + 1) // 2
    if n_segments is not None:
        most = expect_int("n_segments", n_segments, minimum=1)
        expect(most <= n, "n_segments", f"at most n = {n} segments", most)
    distance, starts = _best_cuts(_within_distance(features), most)
    k = _default_number(features, distance) if n_segments is None else most
    labels = np.zeros(n, np.int64)
    end = n
    for segment in range(k - 1, -1, -1):
        start = starts[segment, end - 1]
        labels[start:end] = segment
        end = start
    return labels


def _neighbour_similarity(features: np.ndarray) -> np.ndarray:
    """Cosine similarity of each element and the next, (n - 1,)."""
    norm = np.linalg.norm(features, axis=1)
    unit = features / np.where(norm > 0, norm, 1)[:, None]
    both_zero = (norm[:-1] == 0) & (norm[1:] == 0)
    return np.where(both_zero, 1.0, (unit[:-1] * unit[1:]).sum(1))


def _within_distance(features: np.ndarray) -> np.ndarray:
    """Squared distance of elements i..j to their mean, (n, n); infinite where j < i.

    From sums over blocks of the products of elements, so that D enters only once. What rounding
    leaves of like elements is taken as 0.
    """
    centred = features - features.mean(0)
    products = centred @ centred.T
    n = len(products)
    blocks = np.zeros((n + 1, n + 1))
    blocks[1:, 1:] = products.cumsum(0).cumsum(1)
    squares = np.concatenate([[0], np.cumsum(np.diag(products))])
    start, end = np.arange(n)[:, None], np.arange(1, n + 1)[None, :]
    block = blocks[end, end] - blocks[start, end] - blocks[end, start] + blocks[start, start]
    total = squares[end] - squares[start]
    distance = total - block / np.maximum(end - start, 1)
    distance[distance < 1e-12 * squares[-1]] = 0
    return np.where(end > start, distance, np.inf)


def _best_cuts(distance: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The least distance of all elements in 1..most segments, (most,), and where to cut.

    Returns also starts (most, n): where the last of k + 1 segments of elements 0..j begins.
    """
    n = len(distance)
    starts = np.zeros((most, n), np.int64)
    total = distance[0]
    whole = [total[-1]]
    for k in range(1, most):
        ended = np.concatenate([[np.inf], total[:-1]])  # k segments of all before the last's start
        candidates = ended[:, None] + distance
        starts[k] = candidates.argmin(0)
        total = candidates.min(0)
        whole.append(total[-1])
    return np.array(whole), starts


def _default_number(features: np.ndarray, distance: np.ndarray) -> int:
    """The number of segments, by the rule in `propose_segments`."""
    n = len(features)
    if n < 3:
        return 1
    noise = np.median(((features[1:] - features[:-1]) ** 2).sum(1)) / 2
    k = np.arange(1, len(distance) + 1)
    return int(np.argmin(distance + 2 * noise * k * (np.log(n / k) + 1))) + 1
