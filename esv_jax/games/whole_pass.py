"""f^ms of every subsequence of several short sequences, side by side and without a loop.

Where all elements are in the low, the lattice is one tile. Sequences then take the place of that
tile's tops: heads of one scale are one product for all of them, and so is each step of the
recurrence, whose 0/1 matrices are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.games.recurrence import low_incidence, own_share, parent_share
from esv_jax.models.heads import HeadStack
from esv_jax.subsequences import Lattice


def whole_logits(
    heads: HeadStack, first_layers: Sequence[Array], xs: Array, lattice: Lattice
) -> list[Array]:
    """f^ms (logits) of all 2**n subsequences of V sequences: (binomial(n, s), V, C) by scale s.

    Computes Eq. (9) of Price & Damen (2020) bottom-up; equals their Eq. (8). Scales are 0..n, rows
    in the order of `lattice.low_codes`; the logits of the empty subsequence are 0.

    Args:
      heads: of scales 1..n_max, in the dtype of xs.
      first_layers: `heads.w1` without its padding, (s, D, H) per scale.
      xs: (V, n, D), after the heads' input ReLU where they have one.
      lattice: of n elements, all in the low.
    Cost: per sequence sum over s <= n_max of binomial(n, s) head evaluations, and binomial(2n,
      n - 1) multiply-adds per class for the recurrence. Memory: V * 2**n * C numbers, twice.
    """
    n, (n_videos, _, width) = lattice.n, xs.shape
    member, size, c = lattice.low_member, lattice.low_scale, heads.n_classes
    own, from_parents = (
        own_share(np.arange(n + 1), heads.n_max),
        parent_share(np.arange(n + 1), heads.n_max),
    )
    incidence = low_incidence(lattice)
    elements = jnp.swapaxes(xs, 0, 1)  # (n, V, D)
    done = [jnp.zeros((1, n_videos, c), xs.dtype)]
    for s in range(1, n + 1):
        n_rows = math.comb(n, s)
        logits = jnp.zeros((1, 1, 1), xs.dtype)
        if s <= heads.n_max:
            # Element e can stand at position j only if j <= e <= n - s + j: a window for each j.
            windows = [elements[j : j + n - s + 1].reshape(-1, width) for j in range(s)]
            product = jnp.einsum(
                "jrd,jdh->jrh", jnp.stack(windows), first_layers[s - 1], precision="highest"
            ).reshape(s, n - s + 1, n_videos, heads.hidden_dim)
            element = np.nonzero(member[size == s])[1].reshape(n_rows, s)
            hidden = heads.b1[s - 1][None, None]
            for j in range(s):
                hidden = hidden + product[j][element[:, j] - j]  # (n_rows, V, H)
            hidden = jax.nn.relu(hidden).reshape(-1, heads.hidden_dim)
            for layer in heads.hidden:
                product = jnp.matmul(hidden, layer.w[s - 1], precision="highest")
                hidden = jax.nn.relu(product + layer.b[s - 1][None, :])
            logits = jnp.matmul(hidden, heads.w2[s - 1], precision="highest")
            logits = (logits + heads.b2[s - 1][None, :]) * jnp.asarray(own[s], xs.dtype)
            logits = logits.reshape(n_rows, n_videos, c)
        parents = jnp.matmul(
            jnp.asarray(incidence[s - 1], xs.dtype),
            done[-1].reshape(-1, n_videos * c),
            precision="highest",
        ).reshape(n_rows, n_videos, c)
        done.append(logits + jnp.asarray(from_parents[s], xs.dtype) * parents)
    return done
