"""Measures of attributions: agreement, discarding of elements, positions, smoothness."""

from esv_jax.metrics.agreement import lad_slope, pearson, relative_error
from esv_jax.metrics.bootstrap import Interval, bootstrap_interval
from esv_jax.metrics.discard import (
    DiscardAreas,
    DiscardCurve,
    DiscardIntervals,
    discard_curve,
)
from esv_jax.metrics.methods import MethodAgreement, Smoothness, method_agreement, smoothness
from esv_jax.metrics.positions import Positions, PositionStatistics, position_statistics
from esv_jax.metrics.support import SupportStatistics, support_statistics

__all__ = [
    "DiscardAreas",
    "DiscardCurve",
    "DiscardIntervals",
    "Interval",
    "MethodAgreement",
    "PositionStatistics",
    "Positions",
    "Smoothness",
    "SupportStatistics",
    "bootstrap_interval",
    "discard_curve",
    "lad_slope",
    "method_agreement",
    "pearson",
    "position_statistics",
    "relative_error",
    "smoothness",
    "support_statistics",
]
