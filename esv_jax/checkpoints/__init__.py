"""Weights and results of other programs, read without running anything in their files.

    load_torch          the state dict of a PyTorch checkpoint as arrays; `read_torch` says more
    load_pickle         plain values and arrays of a result pickle
    import_play_fair    a folder of play-fair as a model; `read_play_fair` adds the report

A pickle is a program. Here it is interpreted by a machine that knows an allow-list of names, each
with a constructor of ours; any other name becomes an `Unknown` record, and nothing is called.
"""

from esv_jax.checkpoints.inert import CheckpointError, Unknown
from esv_jax.checkpoints.pickles import load_pickle
from esv_jax.checkpoints.play_fair import PlayFairImport, import_play_fair, read_play_fair
from esv_jax.checkpoints.report import FileRecord, ImportReport
from esv_jax.checkpoints.state_dicts import TorchCheckpoint, load_torch, read_torch

__all__ = [
    "CheckpointError",
    "FileRecord",
    "ImportReport",
    "PlayFairImport",
    "TorchCheckpoint",
    "Unknown",
    "import_play_fair",
    "load_pickle",
    "load_torch",
    "read_play_fair",
    "read_torch",
]
