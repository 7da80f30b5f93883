"""Measures of attributions: agreement, elements discarded, voxels switched, evidence found.

Of elements: `relative_error`, `discard_curve`, `position_statistics` and others. Of voxels:
`insertion`, `deletion`, `pointing_hits`, `mass_inside`, `temporal_grounding`. Of measures
themselves: `metric_reliability`, `krippendorff_alpha`.
"""

from esv_jax.metrics.agreement import lad_slope, pearson, relative_error
from esv_jax.metrics.bootstrap import Interval, bootstrap_interval
from esv_jax.metrics.curve_records import InsertionDeletion, PerturbationCurve
from esv_jax.metrics.curves import deletion, insertion, insertion_deletion
from esv_jax.metrics.discard import (
    DiscardAreas,
    DiscardCurve,
    DiscardIntervals,
    discard_curve,
)
from esv_jax.metrics.grounding import temporal_grounding
from esv_jax.metrics.krippendorff import krippendorff_alpha
from esv_jax.metrics.methods import MethodAgreement, Smoothness, method_agreement, smoothness
from esv_jax.metrics.pointing import (
    PointingGame,
    mask_coverage,
    mass_inside,
    pointing_game,
    pointing_hits,
)
from esv_jax.metrics.positions import Positions, PositionStatistics, position_statistics
from esv_jax.metrics.reliability import input_weights, method_ranks, metric_reliability
from esv_jax.metrics.support import SupportStatistics, support_statistics
from esv_jax.metrics.voxels import per_voxel

__all__ = [
    "DiscardAreas",
    "DiscardCurve",
    "DiscardIntervals",
    "InsertionDeletion",
    "Interval",
    "MethodAgreement",
    "PerturbationCurve",
    "PointingGame",
    "PositionStatistics",
    "Positions",
    "Smoothness",
    "SupportStatistics",
    "bootstrap_interval",
    "deletion",
    "discard_curve",
    "input_weights",
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
