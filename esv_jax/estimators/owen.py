"""Owen values: elements that come in groups, credited group by group and then within."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.games.chosen import Chosen, chosen_logits
from esv_jax.games.protocol import Game
from esv_jax.links import apply_link
from esv_jax.subsequences import membership


def n_owen_terms(sizes: np.ndarray) -> int:
    """Subsequences behind the Owen values of groups of the given sizes (g,).

    The 2**g unions of groups, and with every union of the other groups the proper parts of one.
    """
    g = len(sizes)
    return 2**g + sum(2 ** (g - 1) * (2 ** int(b) - 2) for b in sizes)


def owen_terms(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which subsequences the Owen values of (n,) labelled elements need, and their weights.

        owen[i] = sum over H, S of u(|H|) v(|S|) [f(H + S + i) - f(H + S)]

    H runs through the unions of h groups without i's, S through the parts of i's group without i;
    u(h) = 1 / (g binomial(g - 1, h)) and, for a group of b elements, v(s) = 1 / (b
    binomial(b - 1, s)). Source: Owen (1977).

    Args:
      labels: (n,) int, the group of each element, 0..g - 1, each used.
    Returns:
      member (m, n) bool and weight (n, m) float64, m = `n_owen_terms`; row 0 is empty, row
      2**g - 1 the whole. Values are the product of weight with the scores.
    Cost: n * m numbers on the host.
    """
    n, g = len(labels), int(labels.max()) + 1
    groups = membership(np.arange(2**g), g)  # (2**g, g)
    size = groups.sum(1)
    between = _shares(g)  # u
    member = [groups[:, labels]]
    weight = np.zeros((n, 2**g))
    inner_weights = []
    for k in range(g):
        mine = np.flatnonzero(labels == k)
        within = _shares(len(mine))  # v
        # Where i's group is all in, i left it last; where it is all out, i joins it first.
        weight[mine] = np.where(
            groups[:, k],
            between[np.maximum(size - 1, 0)] * within[-1],
            -between[np.minimum(size, g - 1)] * within[0],
        )
        parts = membership(np.arange(1, 2 ** len(mine) - 1), len(mine))  # (P, b), proper
        others = np.flatnonzero(~groups[:, k])  # unions without the group
        rows = np.repeat(groups[others][:, labels], len(parts), axis=0)
        rows[:, mine] = np.tile(parts, (len(others), 1))
        member.append(rows)
        s = parts.sum(1)
        joined = np.where(parts.T, within[s - 1], -within[np.minimum(s, len(mine) - 1)])  # (b, P)
        inner = np.zeros((n, len(rows)))
        inner[mine] = (joined[:, None, :] * between[size[others]][None, :, None]).reshape(
            len(mine), -1
        )
        inner_weights.append(inner)
    return np.concatenate(member), np.concatenate([weight, *inner_weights], axis=1)


def owen_from(
    game: Game, x: Array, prior: Array, chosen: Chosen, weight: Array, whole: int
) -> tuple[Array, Array]:
    """Owen values (n, C) and the scores (C,) of the whole sequence.

    Args:
      game: what is explained. x: (n, ...). prior: (C,).
      chosen: `choose_rows` of the rows of `owen_terms`, further rows if any weighing nothing.
      weight: (n, m), from `owen_terms`. whole: the row of the whole sequence.
    Cost: see `chosen_logits`; m * C numbers of memory and n * m * C multiply-adds beyond it.
    """
    scores = apply_link(game.link, chosen_logits(game, x, chosen))
    scores = scores.at[0].set(prior)
    return jnp.matmul(weight.astype(prior.dtype), scores, precision="highest"), scores[whole]


def _shares(k: int) -> np.ndarray:
    """Shapley's weights among k: 1 / (k binomial(k - 1, s)) for s = 0..k - 1."""
    return np.array([1 / (k * math.comb(k - 1, s)) for s in range(k)])
