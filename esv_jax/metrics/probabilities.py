"""Probabilities, as what judges or perturbs clips takes them from a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_classes, expect_finite, is_concrete

ProbabilityFunction: TypeAlias = Callable[[Array], Any]
"""Clips (B, t, h, w, c) -> probabilities (B, C), by softmax or by independent sigmoids."""

_OFF = 1e-3  # how far rounding may take a probability out of 0..1


def checked_probabilities(found: Any, targets: Any) -> Array:
    """Return scores (B, C) as an array if they are probabilities of classes that hold the targets.

    They need not sum to 1 over classes, for those of several labels do not.

    Args:
      found: see `class_scores`. targets: classes, of any shape.
    Raises:
      ValueError: numbers that are not finite or outside 0..1 (logits, say), a target that is no
        class; values are checked where they are concrete.
    """
    found = jnp.asarray(found)
    if is_concrete(found):
        expect_finite(
            "fn", found, "Probabilities of clips with voxels removed must be finite, too."
        )
        _expect_probabilities(np.asarray(found, np.float64))
    expect_classes("target", targets, found.shape[1])
    return found


def scores_of_targets(scores: Array, targets: Array) -> Array:
    """The scores (...) of targets (...) among those of all classes (..., C); NaN of no class."""
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1, mode="clip")[..., 0]
    is_class = (targets >= 0) & (targets < scores.shape[-1])
    return jnp.where(is_class, chosen, jnp.nan)


def _expect_probabilities(found: np.ndarray) -> None:
    low, high = found.min(), found.max()
    way_out = (
        "Wrap what gives logits: lambda clips: jax.nn.softmax(model(clips)), or"
        " jax.nn.sigmoid(model(clips)) for independent classes."
    )
    fits = low >= -_OFF and high <= 1 + _OFF
    expect(bool(fits), "fn", "probabilities, 0..1", f"{low:.4g} to {high:.4g}", way_out)
