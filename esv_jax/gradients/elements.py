"""From attributions of every number to attributions of elements."""

from __future__ import annotations

from typing import Any, Literal

from jax import Array

from esv_jax.checks import expect, expect_choice, expect_floating

How = Literal["mean", "sum"]


def per_element(attributions: Any, how: How = "mean", *, class_axis: bool = False) -> Array:
    """Attributions (n,) of elements, or (n, K) with classes: averages over all other axes.

    Source: Price & Damen (2020), who average Integrated Gradients over a frame's features; the
    sum keeps the units of the scores, so that completeness holds of elements too.

    Args:
      attributions: (n, ...), or (n, ..., K) with `class_axis`, from any function of this room.
      how: "mean" or "sum".
      class_axis: whether the last axis counts classes, as it does unless the target is one class.
    Raises:
      TypeError: not floating point. ValueError: too few axes, another `how`.
    """
    attributions = expect_floating("attributions", attributions)
    expect_choice("how", how, ("mean", "sum"))
    least = 2 if class_axis else 1
    letters = "(n, ..., K)" if class_axis else "(n, ...)"
    expect(attributions.ndim >= least, "attributions", f"shape {letters}", attributions.shape)
    rest = tuple(range(1, attributions.ndim - class_axis))
    return attributions.mean(rest) if how == "mean" else attributions.sum(rest)
