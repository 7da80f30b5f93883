"""Games: a model together with a rule for the scores of subsequences."""

from esv_jax.games.average_consensus import AverageConsensus
from esv_jax.games.black_box import BlackBox, probe_sensitivity
from esv_jax.games.multi_scale import MultiScale, direct_logits
from esv_jax.games.protocol import ScaleGame, SubsetGame
from esv_jax.games.variable_length import VariableLength

__all__ = [
    "AverageConsensus",
    "BlackBox",
    "MultiScale",
    "ScaleGame",
    "SubsetGame",
    "VariableLength",
    "direct_logits",
    "probe_sensitivity",
]
