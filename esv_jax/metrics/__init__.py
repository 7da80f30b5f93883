"""Evaluation of attributions: agreement, discarding, insertion and deletion, localisation.

For element values: `relative_error`, `discard_curve`, `position_statistics` and others. For voxel
maps: `insertion`, `deletion`, `pointing_hits`, `mass_inside`, `temporal_grounding`. For metrics
themselves: `metric_reliability`, `krippendorff_alpha`.
"""

from esv_jax.metrics.accuracy import (
    lad_slope,
    method_agreement,
    pearson,
    relative_error,
    smoothness,
)
from esv_jax.metrics.curves import deletion, insertion, insertion_deletion
from esv_jax.metrics.discard import DiscardCurve, discard_curve
from esv_jax.metrics.pointing import (
    mask_coverage,
    mass_inside,
    pointing_game,
    pointing_hits,
    temporal_grounding,
)
from esv_jax.metrics.reliability import krippendorff_alpha, method_ranks, metric_reliability
from esv_jax.metrics.statistics import (
    bootstrap_interval,
    position_statistics,
    support_statistics,
)
from esv_jax.metrics.voxels import per_voxel

__all__ = [
    "DiscardCurve",
    "bootstrap_interval",
    "deletion",
    "discard_curve",
    "insertion",
    "insertion_deletion",
    "krippendorff_alpha",
    "lad_slope",
    "mask_coverage",
    "mass_inside",
    "method_agreement",
    "method_ranks",
    "metric_reliability",
    "pearson",
    "per_voxel",
    "pointing_game",
    "pointing_hits",
    "position_statistics",
    "relative_error",
    "smoothness",
    "support_statistics",
    "temporal_grounding",
]
