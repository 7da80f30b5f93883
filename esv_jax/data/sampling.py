"""Which elements of a long sequence stand for it: the centres of equal segments."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_int


def segment_centres(length: int, n: int) -> np.ndarray:
    """Indices of the elements in the middle of n equal segments.

        index[i] = floor(i * L / n + L / (2 n)),    L = length

    Computed in double precision as i * (L/n) + (L/n)/2, as play-fair does, so that its videos
    keep their frames. Where the exact quotient is a whole number, rounding may put the index one
    lower than exact arithmetic would: L = 16, n = 12, i = 7 gives 9, not 10. Up to n = 6
    the two agree for every L below 2000.
    Source: Wang et al. (2016), temporal segments; Price & Damen (2020) sample so at test time.

    Args:
      length: elements there are, >= n.
      n: elements wanted, >= 1.
    Returns:
      (n,) int64, strictly increasing, within 0..length - 1; n = length gives every element.
    Raises:
      TypeError: a size is no integer.
      ValueError: n < 1, or a sequence shorter than n.
    Cost: n divisions on the host.
    """
    n = expect_int("n", n, minimum=1)
    length = expect_int("length", length, minimum=1)
    way_out = "Skip sequences shorter than n, or take all elements."
    expect(length >= n, "length", f"at least n = {n} elements", length, way_out)
    segment = length / n
    return np.floor(np.arange(n) * segment + segment / 2).astype(np.int64)


def sample_elements(features: Any, n: int) -> tuple[Any, np.ndarray]:
    """The n elements at the segment centres of one sequence, and where they were.

    Args:
      features: NumPy or JAX array whose first axis is time, (L, ...) with L >= n; (L, D) for
        features, (L, h, w, 3) for frames.
      n: elements wanted, >= 1.
    Returns:
      `(features[indices], indices)`: (n, ...) of the kind and dtype given, and (n,) int64.
    Raises:
      ValueError: no time axis, n < 1, or L < n.
    Cost: one gather of n elements.
    """
    shape = np.shape(features)
    expect(len(shape) >= 1, "features", "shape (L, ...)", shape)
    indices = segment_centres(shape[0], n)
    return features[indices], indices
