"""From mean scores with and without an element, scale by scale, to Element Shapley Values."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from esv_jax.subsequences import Unseen


class ScaleSums(NamedTuple):
    """Sums of scores by scale.

    Attributes:
      with_element: (n, n, C); `[s - 1, i]` sums the scores of the subsequences of s elements that
        contain element i.
      without_element: (n, n, C); `[s - 1, i]` sums those of the subsequences of s - 1 elements
        that do not contain i; row 0 is the prior.
      n_with, n_without: (n, n), how many each sums.
    """

    with_element: Array
    without_element: Array
    n_with: Array
    n_without: Array


def marginals_of(sums: ScaleSums, unseen: Unseen = "skip") -> Array:
    """Mean marginal contributions (n, n, C): the difference of means in Eq. (7), by scale.

    Source: Price & Damen (2020). A cell with an empty side is NaN under "skip"; under "zero" an
    empty side's mean is 0, as in the paper's public code.
    """
    dtype = sums.with_element.dtype
    with_mean = sums.with_element / jnp.maximum(sums.n_with, 1).astype(dtype)[..., None]
    without_mean = sums.without_element / jnp.maximum(sums.n_without, 1).astype(dtype)[..., None]
    difference = with_mean - without_mean
    if unseen == "zero":
        return difference
    return jnp.where((coverage_of(sums) > 0)[..., None], difference, jnp.nan)


def coverage_of(sums: ScaleSums) -> Array:
    """Subsequences behind each (scale, element) cell, (n, n): those on its emptier side."""
    return jnp.minimum(sums.n_with, sums.n_without)


def values_of(sums: ScaleSums, length: Array, unseen: Unseen) -> Array:
    """ESVs (n, C): the mean of each element's marginals over scales.

    Under "skip" the mean is over the scales that samples cover, NaN where there is none; under
    "zero" over all `length` scales. Elements beyond `length` are 0.
    """
    marginals = marginals_of(sums, unseen)
    dtype = marginals.dtype
    present = jnp.arange(marginals.shape[0]) < length
    if unseen == "zero":
        values = marginals.sum(0) / length.astype(dtype)
    else:
        covered = coverage_of(sums) > 0
        total = jnp.where(covered[..., None], marginals, 0).sum(0)
        values = total / covered.sum(0).astype(dtype)[:, None]
    return jnp.where(present[:, None], values, 0)
