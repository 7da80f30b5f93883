"""Evaluation of attributions: agreement, discarding, insertion and deletion, localisation.

For element values: `relative_error`, `discard_curve`, `position_statistics` and others. For voxel
maps: `insertion`, `deletion`, `pointing_hits`, `mass_inside`, `temporal_grounding`. For metrics
themselves: `metric_reliability`, `krippendorff_alpha`.
"""

from esv_jax.metrics.accuracy import lad_slope, pearson, relative_error
from esv_jax.metrics.curves import deletion, insertion, insertion_deletion
from esv_jax.metrics.discard import discard_curve
from esv_jax.metrics.pointing import (
    mask_coverage,
    mass_inside,
    pointing_hits,
    temporal_grounding,
)
from esv_jax.metrics.reliability import krippendorff_alpha, metric_reliability
from esv_jax.metrics.statistics import bootstrap_interval, position_statistics
from esv_jax.metrics.voxels import per_voxel

__all__ = [
    "bootstrap_interval",
    "deletion",
    "discard_curve",
    "insertion",
    "insertion_deletion",
    "krippendorff_alpha",
    "lad_slope",
    "mask_coverage",
    "mass_inside",
    "metric_reliability",
    "pearson",
    "per_voxel",
    "pointing_hits",
    "position_statistics",
    "relative_error",
    "temporal_grounding",
]
