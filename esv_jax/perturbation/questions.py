"""What is asked of a function of clips before it is explained by perturbations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, is_concrete, message
from esv_jax.metrics.probabilities import checked_probabilities
from esv_jax.perturbation.objective import ClipFunction

ONLY_ASK = (
    "What only asks remains: perturbation.occlusion, metrics.insertion and deletion, and"
    " explain(BlackBox(fn), clip)."
)
_UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


def clean_probabilities(fn: ClipFunction, clips: Array, targets: Array) -> Array:
    """p(target) of N clips as they are, (N,).

    Raises:
      TypeError: fn is no function, none of JAX, or gives no floating-point numbers.
      ValueError: fn does not give (N, C), or what it gives are no probabilities; a target that is
        no class. Values are asked of where they are known, not while tracing.
    """
    expect(callable(fn), "fn", "a function of clips", type(fn).__name__, kind=TypeError)
    shaped = jax.ShapeDtypeStruct(clips.shape, clips.dtype)
    try:
        out = jax.eval_shape(fn, shaped)
    except _UNTRACEABLE as error:
        got = "one that leaves JAX"
        raise TypeError(
            message("fn", "a function in JAX, with gradients", got, ONLY_ASK)
        ) from error
    is_array = hasattr(out, "shape") and hasattr(out, "dtype")
    expect(is_array, "fn", "probabilities of shape (B, C)", type(out).__name__)
    known = is_concrete(clips) and is_concrete(targets)
    scores = checked_probabilities(jax.jit(fn)(clips) if known else fn(clips), len(clips), targets)
    return jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]


def expect_gradients(gradient: Any, *arrays: Array) -> None:
    """Trace a gradient of fn; refuse functions that have none, saying what remains possible.

    Raises:
      TypeError: it cannot be traced, e.g. because fn calls back to the host.
    """
    try:
        jax.eval_shape(gradient, *arrays)
    except _UNTRACEABLE as error:
        got = "one that leaves JAX"
        raise TypeError(
            message("fn", "a function in JAX, with gradients", got, ONLY_ASK)
        ) from error
    except ValueError as error:
        if "callback" not in str(error):
            raise
        got = "one that calls back to the host"
        raise TypeError(message("fn", "a function with gradients", got, ONLY_ASK)) from error
