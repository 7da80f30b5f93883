"""Measures of attributions: for now, how approximate values agree with exact ones."""

from esv_jax.metrics.agreement import lad_slope, pearson, relative_error

__all__ = ["lad_slope", "pearson", "relative_error"]
