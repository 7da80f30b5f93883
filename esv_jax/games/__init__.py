"""What is explained: a model together with a rule for the scores of subsequences."""

from esv_jax.games.average_consensus import AverageConsensus
from esv_jax.games.black_box import BlackBox, Sensitivity, probe_sensitivity, run_to_end
from esv_jax.games.grouped import Grouped, group_elements
from esv_jax.games.multi_scale import MultiScale, direct_logits
from esv_jax.games.of_heads import make_game
from esv_jax.games.protocol import Cost, Game, Tile
from esv_jax.games.rowwise import fold_rows, sample_rows
from esv_jax.games.variable_length import VariableLength

__all__ = [
    "AverageConsensus",
    "BlackBox",
    "Cost",
    "Game",
    "Grouped",
    "MultiScale",
    "Sensitivity",
    "Tile",
    "VariableLength",
    "direct_logits",
    "fold_rows",
    "group_elements",
    "make_game",
    "probe_sensitivity",
    "run_to_end",
    "sample_rows",
]
