"""Baseline attributions of elements: by position alone, or from about n scores of the model."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_int
from esv_jax.games.few_scores import expect_scorable, score
from esv_jax.games.protocol import Game
from esv_jax.inputs import checked_inputs, finite_values

__all__ = ["centre_out", "edges_in", "leave_one_in", "leave_one_out"]


def centre_out(n: int) -> Array:
    """Scores (n,), highest at the centre and falling linearly to both ends.

    1 - |2 i - (n - 1)| / n, in 1/n..1.

    Args:
      n: elements, >= 1.
    Raises:
      ValueError: n < 1. TypeError: n that is not an integer.
    """
    n = expect_int("n", n, 1)
    return jnp.asarray((n - np.abs(2 * np.arange(n) - (n - 1))) / n, jnp.float32)


def edges_in(n: int) -> Array:
    """Scores (n,), highest at both ends and falling linearly to the centre.

    (|2 i - (n - 1)| + 1) / n, in 1/n..1: the reverse order of `centre_out`.

    Args and raises: see `centre_out`.
    """
    n = expect_int("n", n, 1)
    return jnp.asarray((np.abs(2 * np.arange(n) - (n - 1)) + 1) / n, jnp.float32)


def leave_one_out(game: Game, x: ArrayLike, *, prior: ArrayLike) -> Array:
    """Drop of the whole sequence's score without each element: f(X) - f(X without i).

    Args:
      game: the model to explain, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, as for `explain`. At most 20 elements
        of a `MultiScale` game, whose scores need those of all subsequences.
      prior: scores of the empty sequence, (C,).
    Returns:
      (n, C), in units of the scores; > 0 where the element supports the class. The sum over
      elements is not the evidential score.
    Raises:
      ValueError: a sequence too long, shapes that disagree, values that are not finite.
      TypeError: not floating point.
    Cost: n + 1 evaluations, or one pass over 2**n subsequences of a `MultiScale` game.
    """
    return occlusion(game, x, prior=prior, width=1)


def leave_one_in(game: Game, x: ArrayLike, *, prior: ArrayLike) -> Array:
    """Score of each element alone: f({i}) - prior.

    Args:
      game, x, prior: as for `leave_one_out`, but of any length for a `MultiScale` game too.
    Returns:
      (n, C), in units of the scores.
    Raises: as `leave_one_out`.
    Cost: n evaluations.
    """
    sequence, checked_prior, _ = checked_inputs(game, x, prior)
    alone = np.eye(sequence.shape[0], dtype=bool)
    return finite_values(score(game, sequence, alone, prior=checked_prior) - checked_prior[None])


def occlusion(game: Game, x: ArrayLike, *, prior: ArrayLike, width: int) -> Array:
    """Drop of the whole sequence's score without a window of elements, averaged over windows.

    The value of element i is the mean of f(X) - f(X without the window) over those of the
    n - width + 1 windows of consecutive elements that contain i.

    Args:
      game, x, prior: as for `leave_one_out`.
      width: elements in a window, 1..n.
    Returns:
      (n, C), in units of the scores, of a whole window rather than of one element.
    Raises: as `leave_one_out`; ValueError, TypeError: a width out of range, or not an integer.
    Cost: n - width + 2 evaluations, or one pass over 2**n subsequences of a `MultiScale` game.
    """
    width = expect_int("width", width, 1)
    sequence, checked_prior, _ = checked_inputs(game, x, prior)
    n = sequence.shape[0]
    expect(width <= n, "width", f"at most the {n} elements of x", width)
    expect_scorable(game, n)
    start, i = np.arange(n - width + 1)[:, None], np.arange(n)[None, :]
    hidden = (start <= i) & (i < start + width)  # (windows, n)
    members = np.concatenate([np.ones((1, n), bool), ~hidden])
    scores = score(game, sequence, members, prior=checked_prior)
    share = jnp.asarray(hidden.T / hidden.sum(0)[:, None], scores.dtype)  # (n, windows)
    return finite_values(jnp.matmul(share, scores[:1] - scores[1:], precision="highest"))
