"""Subsequences of a sequence: codes, membership, the lattice of all of them, samples, plans."""

from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.lattice import (
    MAX_ELEMENTS,
    Lattice,
    make_lattice,
    membership,
    parents,
    scale_ordered_codes,
)
from esv_jax.subsequences.samples import Samples, SubsequencePlan, Unseen

__all__ = [
    "MAX_ELEMENTS",
    "Lattice",
    "Samples",
    "SubsequencePlan",
    "Unseen",
    "grow_samples",
    "make_lattice",
    "membership",
    "parents",
    "scale_ordered_codes",
]
