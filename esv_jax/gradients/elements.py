"""From attributions of every number to attributions of elements."""

from __future__ import annotations

from typing import Any, Literal, get_args

from jax import Array

from esv_jax.checks import expect, expect_choice, expect_floating

How = Literal["mean", "sum"]


def per_element(attributions: Any, how: How = "mean", *, class_axis: bool | None = None) -> Array:
    """Attributions (n,) of elements, or (n, K) with classes: averages over all other axes.

    Source: Price & Damen (2020), who average Integrated Gradients over a frame's features; the
    sum keeps the units of the scores, so that completeness holds of elements too.

    Args:
      attributions: (n, ...) of one class, or (n, ..., K) of several, from any function of
        `gradients`.
      how: "mean" or "sum".
      class_axis: True where the last axis counts classes (target None or a list), False where it
        does not. May be left out of (n,) and (n, D), which are then of one class; shapes with more
        axes do not tell.
    Raises:
      TypeError: not floating point, a `class_axis` that is no bool. ValueError: too few axes, more
      than two axes without `class_axis`, another `how`.
    """
    attributions = expect_floating("attributions", attributions)
    expect_choice("how", how, get_args(How))
    got = type(class_axis).__name__
    is_bool = class_axis is None or isinstance(class_axis, bool)
    expect(is_bool, "class_axis", "True, False or None", got, kind=TypeError)
    least = 2 if class_axis else 1
    letters = "(n, ..., K)" if class_axis else "(n, ...)"
    expect(attributions.ndim >= least, "attributions", f"shape {letters}", attributions.shape)
    expected = f"True or False for attributions of shape {attributions.shape}"
    way_out = "True if the last axis counts classes (target None or a list), else False."
    told = attributions.ndim <= 2 or class_axis is not None
    expect(told, "class_axis", expected, "None", way_out)
    rest = tuple(range(1, attributions.ndim - bool(class_axis)))
    return attributions.mean(rest) if how == "mean" else attributions.sum(rest)
