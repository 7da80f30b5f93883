"""The game of a trained or imported model."""

from __future__ import annotations

from esv_jax.games.average_consensus import AverageConsensus
from esv_jax.games.multi_scale import MultiScale
from esv_jax.links import Link
from esv_jax.models.heads import HeadStack
from esv_jax.models.tsn import TsnHead


def make_game(heads: HeadStack | TsnHead, link: Link = "softmax") -> MultiScale | AverageConsensus:
    """`MultiScale` of a stack of heads, `AverageConsensus` of a TSN head.

    Args:
      heads: e.g. `load_model(path).heads`.
      link: "softmax" (default) or "identity".
    Raises:
      TypeError: for anything else. ValueError: on another link.
    """
    if isinstance(heads, TsnHead):
        return AverageConsensus(heads.w, heads.b, input_relu=heads.input_relu, link=link)
    return MultiScale(heads, link)
