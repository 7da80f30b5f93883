"""Subsequences of a sequence: codes, membership, the lattice of all of them, samples, plans."""

from esv_jax.subsequences.samples import SubsequencePlan

__all__ = ["SubsequencePlan"]
