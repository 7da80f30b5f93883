"""Attributions from about n scores of the model: elements alone, and left out of the whole."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_int, is_concrete, message
from esv_jax.games.protocol import Game
from esv_jax.games.scoring import expect_scorable, score
from esv_jax.inputs import checked_inputs


def leave_one_out(game: Game, x: Any, prior: Any) -> Array:
    """Loss of the whole sequence's score without each element: f(X) - f(X without i).

    Args:
      game: the model to explain, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, as for `explain`. At most 20 elements
        of a `MultiScale` game, whose scores are built from those of all parts.
      prior: scores of the empty sequence, (C,).
    Returns:
      (n, C), in units of the scores; > 0 where the element supports the class. They do not add up
      to the evidential score.
    Raises:
      ValueError: a sequence too long (take fewer elements), shapes that disagree, values that are
        not finite. TypeError: not floating point.
    Cost: n + 1 evaluations, or one pass over 2**n subsequences of a `MultiScale` game.
    """
    return occlusion(game, x, prior, width=1)


def leave_one_in(game: Game, x: Any, prior: Any) -> Array:
    """Score of each element alone: f({i}) - prior.

    Args:
      game, x, prior: as for `leave_one_out`, but of any length also for `MultiScale`: the score
        of a single element is that of the first head.
    Returns:
      (n, C), in units of the scores.
    Raises: as `leave_one_out`.
    Cost: n evaluations.
    """
    x, prior, _ = checked_inputs(game, x, prior)
    alone = np.eye(x.shape[0], dtype=bool)
    return _finite(score(game, x, alone, prior) - prior[None])


def occlusion(game: Game, x: Any, prior: Any, width: int) -> Array:
    """Loss of the whole sequence's score without a window of elements, averaged over windows.

    The n - width + 1 windows of consecutive elements; element i has the mean of
    f(X) - f(X without the window) over those that hold it: fewer of them near the ends.

    Args:
      game, x, prior: as for `leave_one_out`.
      width: elements in a window, 1..n. One is `leave_one_out`; n removes everything, and every
        element has f(X) - prior.
    Returns:
      (n, C), in units of the scores, of a whole window rather than of one element.
    Raises: as `leave_one_out`; ValueError, TypeError: a width out of range, or no integer.
    Cost: n - width + 2 evaluations, or one pass over 2**n subsequences of a `MultiScale` game.
    """
    width = expect_int("width", width, 1)
    x, prior, _ = checked_inputs(game, x, prior)
    n = x.shape[0]
    expect(width <= n, "width", f"at most the {n} elements of x", width)
    expect_scorable(game, n)
    start, i = np.arange(n - width + 1)[:, None], np.arange(n)[None, :]
    hidden = (start <= i) & (i < start + width)  # (windows, n)
    scores = score(game, x, np.concatenate([np.ones((1, n), bool), ~hidden]), prior)
    share = jnp.asarray(hidden.T / hidden.sum(0)[:, None], scores.dtype)  # (n, windows)
    return _finite(jnp.matmul(share, scores[:1] - scores[1:], precision="highest"))


def _finite(values: Array) -> Array:
    """Refuse values that are not finite."""
    if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        raise ValueError(message("game", "finite scores of every subsequence", "NaN or infinity"))
    return values
