"""Element values of a sequence of features by other methods, for comparison with ESVs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.baselines import leave_one_in, leave_one_out
from esv_jax.checks import expect_array, expect_choice
from esv_jax.games.protocol import Game
from esv_jax.games.scoring import compiled
from esv_jax.gradients import (
    grad_cam,
    gradient_x_input,
    integrated_gradients,
    per_element,
    score_function,
)
from esv_jax.gradients.derivatives import expect_finite_result, expect_input

ElementMethod: TypeAlias = Callable[[Game, Array, Array], Array]
"""A game, a sequence (n, D) and its prior (C,) -> values (n, C)."""


def _integrated_gradients(game: Game, x: Array, prior: Array) -> Array:
    found = integrated_gradients(score_function(game), x, steps=50)
    return per_element(found, "sum", class_axis=True)


def _gradient_x_input(game: Game, x: Array, prior: Array) -> Array:
    found = gradient_x_input(score_function(game, "identity"), x)
    return per_element(found, "sum", class_axis=True)


_BY_GRADIENT: dict[str, ElementMethod] = {
    "integrated_gradients": _integrated_gradients,
    "gradient_x_input": _gradient_x_input,
    "grad_cam": lambda game, x, prior: grad_cam(score_function(game, "identity"), x),
}
ELEMENT_METHODS: Mapping[str, ElementMethod] = MappingProxyType(
    {
        **_BY_GRADIENT,
        "leave_one_out": lambda game, x, prior: leave_one_out(game, x, prior=prior),
        "leave_one_in": lambda game, x, prior: leave_one_in(game, x, prior=prior),
    }
)
"""Methods by name: Integrated Gradients from zeros in 50 steps, gradient x input, signed Grad-CAM
with the features as activations, and those of `baselines`."""


def element_values(
    names: Sequence[str], game: Game, x: ArrayLike, *, prior: ArrayLike
) -> dict[str, np.ndarray]:
    """Values (n, C) of a sequence by other methods, for all classes.

    `integrated_gradients`, `leave_one_out` and `leave_one_in` explain scores and have their units;
    `gradient_x_input` and `grad_cam` explain logits, which do not saturate.

    Args:
      names: of `ELEMENT_METHODS`.
      game: in JAX, e.g. `MultiScale(heads)`.
      x: (n, D) features, floating point. prior: (C,) scores of the empty sequence.
    Returns:
      Values by name, in the order of `names`.
    Raises:
      ValueError: an unknown name, a sequence too long for a method, numbers that are not finite in
      x or in a method's values. TypeError: a game that JAX cannot differentiate, x that is not
      floating point.
    Cost: that of the methods; for Integrated Gradients 50 C gradients. Compiled once per length.
    """
    for name in names:
        expect_choice("methods", name, ELEMENT_METHODS)
    x, prior = expect_input(x), jnp.asarray(expect_array("prior", prior))
    found = {}
    for name in names:
        method = ELEMENT_METHODS[name]
        if name in _BY_GRADIENT:  # the others call compiled scores
            score_function(game)  # raises TypeError for games without a gradient
            make = functools.partial(_BY_GRADIENT.__getitem__, name)
            method = compiled(game, ("element method", name), make)
        found[name] = np.asarray(expect_finite_result(name, method(game, x, prior)))
    return found
