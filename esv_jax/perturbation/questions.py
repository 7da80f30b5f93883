"""Checks of a function of clips before it is explained by perturbations."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import Array

from esv_jax.checks import ScoresOf, is_concrete, message, traceable
from esv_jax.metrics.voxels import checked_probabilities, scores_of_targets

FORWARD_ONLY = (
    "Methods that need only forward passes still work: metrics.insertion and deletion, and"
    " explain(BlackBox(fn), clip)."
)


def clean_probabilities(fn: ScoresOf, clips: Array, targets: Array) -> Array:
    """p(target) of N clips as they are, (N,).

    Raises:
      TypeError: fn is no function in JAX, or returns no floating-point numbers.
      ValueError: fn does not return (N, C), or values that are no probabilities; a target that is
        no class. Values are checked where they are concrete, not while tracing.
    """
    fn.traced(clips, FORWARD_ONLY)
    known = is_concrete(clips) and is_concrete(targets)
    scores = checked_probabilities(_compiled(fn, clips) if known else fn(clips), targets)
    return scores_of_targets(scores, targets)


@functools.partial(jax.jit, static_argnums=0)
def _compiled(fn: ScoresOf, clips: Array) -> Any:
    return fn(clips)


def expect_gradients(gradient: Any, *arrays: Array) -> None:
    """Trace a gradient of fn; refuse functions that have none, saying what remains possible.

    Raises:
      TypeError: it cannot be traced, e.g. because fn calls back to the host.
    """
    try:
        with traceable(FORWARD_ONLY):
            jax.eval_shape(gradient, *arrays)
    except ValueError as error:
        if "callback" not in str(error):
            raise
        got = "one that calls back to the host"
        raise TypeError(message("fn", "a function with gradients", got, FORWARD_ONLY)) from error
