"""Subsequences of a sequence: codes, membership, the lattice of all of them, samples, plans."""

from esv_jax.subsequences.codes import (
    membership,
    padded_index,
    parents,
    popcount,
    scale_offsets,
    scale_ordered_codes,
)
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.lattice import MAX_ELEMENTS, Lattice, make_lattice
from esv_jax.subsequences.samples import Samples, SubsequencePlan

__all__ = [
    "MAX_ELEMENTS",
    "Lattice",
    "Samples",
    "SubsequencePlan",
    "grow_samples",
    "make_lattice",
    "membership",
    "padded_index",
    "parents",
    "popcount",
    "scale_offsets",
    "scale_ordered_codes",
]
