"""Probabilities, as what judges or perturbs clips asks them of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, is_concrete

ProbabilityFunction: TypeAlias = Callable[[Array], Any]
"""Clips (B, t, h, w, c) -> probabilities (B, C)."""

_OFF = 1e-3  # how far a sum of probabilities may be from 1


def checked_probabilities(found: Any, n_clips: int, targets: Array) -> Array:
    """What a function of clips gave, as an array (B, C) that has probabilities of the targets.

    Args:
      found: of `n_clips` clips. targets: classes, of any shape.
    Raises:
      ValueError: another shape, numbers that are no probabilities (logits, say), a target that is
        no class; values are asked of where they are known. TypeError: not floating point.
    """
    got = f"shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
    fits = getattr(found, "ndim", 0) == 2 and found.shape[0] == n_clips and found.shape[1] > 0
    expect(fits, "fn", f"probabilities of shape (B, C) from {n_clips} clips", got)
    found = jnp.asarray(found)
    is_float = jnp.issubdtype(found.dtype, jnp.floating)
    expect(is_float, "fn", "floating-point probabilities", f"dtype {found.dtype}", kind=TypeError)
    c = found.shape[1]
    if is_concrete(found):
        _expect_probabilities(np.asarray(found, np.float64), float(jnp.finfo(found.dtype).eps))
    if is_concrete(targets):
        known = np.asarray(targets)
        wrong = np.unique(known[(known < 0) | (known >= c)])
        expect(not len(wrong), "target", f"a class in 0..{c - 1}", ", ".join(map(str, wrong)))
    return found


def _expect_probabilities(found: np.ndarray, eps: float) -> None:
    total = found.sum(-1)
    off = ~(np.abs(total - 1) <= max(_OFF, 4 * eps)) | (found < -_OFF).any(-1)
    if off.any():
        i = int(np.flatnonzero(off)[0])
        got = f"{found[i].min():.4g} to {found[i].max():.4g}, of sum {total[i]:.4g}"
        way_out = "Wrap what gives logits: lambda clips: jax.nn.softmax(model(clips))."
        expect(False, "fn", "probabilities, >= 0 and of sum 1 over classes", got, way_out)
