"""Metrics of attribution maps by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import metrics
from esv_jax.checks import expect, expect_choice, expect_int, expect_shape
from esv_jax.data.segments import supervoxels
from esv_jax.metrics.curves import InsertionDeletion
from esv_jax.metrics.voxels import Order, Remove

Units = Literal["pixels", "patches", "supervoxels"]
UNITS: tuple[Units, ...] = get_args(Units)
COVERAGE_AREA = 0.1
"""Share of the highest voxels among which "coverage" counts the evidence."""

Input: TypeAlias = Literal["most_first", "least_first", "evidence", "evidence_frames"]


class Metric(NamedTuple):
    """A metric of `METRICS`.

    Attributes:
      higher_is_better: high scores are good.
      takes: its input: curves in one order of switching, or maps with their evidence.
      fn: curves -> (M,), or (maps, evidence) -> (M,).
    """

    higher_is_better: bool
    takes: Input
    fn: Callable[..., Array]


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "insertion": Metric(True, "most_first", lambda curves: curves.insertion.auc),
        "deletion": Metric(False, "most_first", lambda curves: curves.deletion.auc),
        "insertion_minus_deletion": Metric(True, "most_first", lambda curves: curves.difference),
        "insertion_least_first": Metric(False, "least_first", lambda curves: curves.insertion.auc),
        "deletion_least_first": Metric(True, "least_first", lambda curves: curves.deletion.auc),
        "pointing": Metric(True, "evidence", metrics.pointing_hits),
        "mass": Metric(True, "evidence", metrics.mass_inside),
        "coverage": Metric(
            True, "evidence", lambda maps, masks: metrics.mask_coverage(maps, masks, COVERAGE_AREA)
        ),
        "temporal_grounding": Metric(True, "evidence_frames", metrics.temporal_grounding),
    }
)
"""Metrics by name; see `evaluate`."""


@dataclass(frozen=True)
class CurveSettings:
    """Settings of insertion and deletion curves; see `evaluate`."""

    steps: int = 16
    remove: Remove = "blur"
    units: Units = "pixels"
    grid: int = 8
    n_supervoxels: int = 200

    def __post_init__(self) -> None:
        """Check ranges."""
        expect_choice("units", self.units, UNITS)
        for name in ("steps", "grid", "n_supervoxels"):
            expect_int(name, getattr(self, name), 1)

    def curves(
        self, fn: Callable[[Array], Array], clip: Array, maps: Array, target: int, order: Order
    ) -> InsertionDeletion:
        """Curves of M maps (M, t, h, w) of one clip (t, h, w, c)."""
        segments = None
        if self.units == "supervoxels":
            segments = supervoxels(np.asarray(clip), self.n_supervoxels)
        return metrics.insertion_deletion(
            fn,
            jnp.broadcast_to(clip, (len(maps), *clip.shape)),
            maps,
            np.full(len(maps), target),
            self.steps,
            self.remove,
            order=order,
            grid=self.grid if self.units == "patches" else None,
            segments=segments,
            supervoxels=segments is not None,
        )


class Evidence(NamedTuple):
    """Evidence of a clip: voxels (t, h, w) and frames (t,), bool, or None."""

    voxels: np.ndarray | None
    frames: np.ndarray | None


def checked_evidence(
    names: Sequence[str],
    shape: tuple[int, ...],
    evidence: ArrayLike | None,
    evidence_frames: ArrayLike | None,
) -> Evidence:
    """The evidence in a clip of `shape` (t, h, w), or in clips (V, t, h, w), for the metrics.

    Frames default to those with a voxel of evidence.
    """
    batch = len(shape) == 4
    letters = ("(V, t, h, w)", "(V, t)") if batch else ("(t, h, w)", "(t,)")
    voxels = _checked_bool("evidence", evidence, shape, letters[0])
    frames = _checked_bool("evidence_frames", evidence_frames, shape[:-2], letters[1])
    if frames is None and voxels is not None:
        frames = np.asarray(voxels.any((-2, -1)))
    given = {"evidence": voxels, "evidence_frames": frames}
    for name in names:
        takes = METRICS[name].takes
        missing = takes in given and given[takes] is None
        expect(not missing, takes, f"an array, for the metric {name!r}", "None")
    return Evidence(voxels, frames)


def _checked_bool(
    name: str, value: ArrayLike | None, shape: tuple[int, ...], letters: str
) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value)
    is_bool = array.dtype == np.bool_
    expect(is_bool, name, "bool", f"dtype {array.dtype}", "Compare it.", kind=TypeError)
    expect_shape(name, array, shape, f"{letters} = {shape}")
    return array


def map_scores(
    names: Sequence[str],
    fn: Callable[[Array], Array],
    clip: Array,
    maps: Array,
    target: int,
    evidence: Evidence,
    settings: CurveSettings,
) -> np.ndarray:
    """Scores (metrics, M) float64 of M maps (M, t, h, w) of one clip; NaN where undefined."""
    inputs: dict[Input, tuple[object, ...]] = {}
    orders: tuple[Order, ...] = ("most_first", "least_first")
    for order in orders:
        if any(METRICS[name].takes == order for name in names):
            inputs[order] = (settings.curves(fn, clip, maps, target, order),)
    if evidence.voxels is not None:
        inputs["evidence"] = (maps, np.broadcast_to(evidence.voxels, maps.shape))
    if evidence.frames is not None:
        inputs["evidence_frames"] = (maps, np.broadcast_to(evidence.frames, maps.shape[:2]))
    rows = [METRICS[name].fn(*inputs[METRICS[name].takes]) for name in names]
    return np.stack([np.asarray(row, np.float64) for row in rows])
