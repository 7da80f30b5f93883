"""Weights and results of other programs, read without running any code of their files.

    load_torch          the state dict of a PyTorch checkpoint as NumPy arrays
    load_pickle         plain values and arrays of a result pickle
    import_play_fair    a folder of play-fair as a model; `read_play_fair` adds a report

Classes and functions that a file names are replaced by constructors of this package, or by inert
`unpickle.Unknown` records.
"""

from esv_jax.checkpoints.archives import load_torch
from esv_jax.checkpoints.play_fair import import_play_fair, read_play_fair
from esv_jax.checkpoints.result_pickles import load_pickle
from esv_jax.checkpoints.unpickle import CheckpointError

__all__ = [
    "CheckpointError",
    "import_play_fair",
    "load_pickle",
    "load_torch",
    "read_play_fair",
]
