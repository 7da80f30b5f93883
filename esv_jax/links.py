"""From logits to scores: what is applied to f^ms(X') before Shapley differences are taken."""

from __future__ import annotations

from typing import Literal

import jax
from jax import Array

Link = Literal["softmax", "identity"]
LINKS: tuple[Link, ...] = ("softmax", "identity")


def apply_link(link: Link, logits: Array) -> Array:
    """Scores (..., C) of logits (..., C), in the units of the prior.

    Args:
      link: "softmax" gives class probabilities; "identity" leaves logits as they are, and the
        prior is then in logit units.
      logits: (..., C), floating point.
    """
    return jax.nn.softmax(logits, axis=-1) if link == "softmax" else logits
