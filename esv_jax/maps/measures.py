"""Metrics by name: maps of one clip in, a score each out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax import metrics
from esv_jax.checks import expect, expect_choice, expect_int, expect_shape
from esv_jax.data.segments import supervoxels

Units = Literal["pixels", "patches", "supervoxels"]
UNITS: tuple[Units, ...] = get_args(Units)
AREA = 0.1
"""Share of a clip in which "coverage" looks for the evidence."""


class Metric(NamedTuple):
    """One metric.

    Attributes:
      higher_is_better: whether high scores are good.
      takes: what it compares maps with: curves, by the order of switching, or the evidence.
      fn: curves -> (M,), or (maps, evidence) -> (M,).
    """

    higher_is_better: bool
    takes: Literal["most_first", "least_first", "evidence", "evidence_frames"]
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
            True, "evidence", lambda maps, masks: metrics.mask_coverage(maps, masks, AREA)
        ),
        "temporal_grounding": Metric(True, "evidence_frames", metrics.temporal_grounding),
    }
)
"""What there is, by name; see `evaluate`."""


@dataclass(frozen=True)
class Switching:
    """Settings of the switching of voxels for curves.

    Attributes:
      steps, remove: see `metrics.insertion`.
      units: what is switched as one: "pixels", each on its own; "patches", cells of a grid x grid
        in each frame; "supervoxels", regions over several frames, `n_supervoxels` to begin with.
    Raises:
      ValueError, TypeError: values out of range, or of another kind.
    """

    steps: int = 16
    remove: Any = "blur"
    units: Units = "pixels"
    grid: int = 8
    n_supervoxels: int = 200

    def __post_init__(self) -> None:
        """Refuse what no curve could use."""
        expect_choice("units", self.units, UNITS)
        for name in ("steps", "grid", "n_supervoxels"):
            expect_int(name, getattr(self, name), 1)

    def of(self, clip: Array) -> dict[str, Any]:
        """The options of `metrics.insertion_deletion` for a clip."""
        options: dict[str, Any] = {"steps": self.steps, "remove": self.remove}
        if self.units == "patches":
            options["grid"] = self.grid
        if self.units == "supervoxels":
            segments = supervoxels(np.asarray(clip), self.n_supervoxels)
            options |= {"segments": segments, "supervoxels": True}
        return options


class Evidence(NamedTuple):
    """Evidence of a clip: voxels (t, h, w) and frames (t,), bool, or None."""

    voxels: np.ndarray | None
    frames: np.ndarray | None


def evidence_of(
    names: Sequence[str], shape: tuple[int, ...], evidence: Any, evidence_frames: Any
) -> Evidence:
    """The evidence in a clip of `shape` (t, h, w), or in clips (V, t, h, w), as metrics need it.

    Frames, where they are not given, are those with a voxel of evidence.

    Raises:
      ValueError: a metric without what it needs, other shapes. TypeError: not bool.
    """
    batch = "V, " if len(shape) == 4 else ""
    voxels = _bool("evidence", evidence, shape, f"({batch}t, h, w)")
    frames = _bool("evidence_frames", evidence_frames, shape[:-2], "(V, t)" if batch else "(t,)")
    if frames is None and voxels is not None:
        frames = np.asarray(voxels.any((-2, -1)))
    given = {"evidence": voxels, "evidence_frames": frames}
    for name in names:
        takes = METRICS[name].takes
        there = takes not in given or given[takes] is not None
        expect(there, takes, f"where it lies, for the metric {name!r}", "None")
    return Evidence(voxels, frames)


def _bool(name: str, value: Any, shape: tuple[int, ...], letters: str) -> np.ndarray | None:
    if value is None:
        return None
    value = np.asarray(value)
    is_bool = value.dtype == np.bool_
    expect(is_bool, name, "bool", f"dtype {value.dtype}", "Compare it.", kind=TypeError)
    expect_shape(name, value, shape, f"{letters} = {shape}")
    return value


def measure(
    names: Sequence[str],
    fn: Callable[[Array], Array],
    clip: Array,
    maps: Array,
    target: int,
    evidence: Evidence,
    switching: Switching,
) -> np.ndarray:
    """Scores (metrics, M) float64 of M maps (M, t, h, w) of one clip; NaN where undefined.

    Args:
      fn: clips (B, t, h, w, c) -> probabilities (B, C), compiled.
    """
    taken = {METRICS[name].takes for name in names}
    given: dict[str, tuple[Any, ...]] = {}
    orders = [order for order in ("most_first", "least_first") if order in taken]
    if orders:
        clips = jnp.broadcast_to(clip, (len(maps), *clip.shape))
        targets = np.full(len(maps), target)
        options = switching.of(clip)
        for order in orders:
            found = metrics.insertion_deletion(fn, clips, maps, targets, order=order, **options)
            given[order] = (found,)
    if evidence.voxels is not None:
        given["evidence"] = (maps, np.broadcast_to(evidence.voxels, maps.shape))
    if evidence.frames is not None:
        given["evidence_frames"] = (maps, np.broadcast_to(evidence.frames, maps.shape[:2]))
    rows = [METRICS[name].fn(*given[METRICS[name].takes]) for name in names]
    return np.stack([np.asarray(row, np.float64) for row in rows])
