"""Curves of probabilities as voxels are switched, as records that cross `jit` and `vmap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from esv_jax.records import register_record


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """Probabilities of a target as voxels are switched; reads as its curve.

    Attributes:
      curve: (..., steps + 1); point 0 is the start, the last one has every voxel switched.
    """

    curve: Array

    @property
    def auc(self) -> Array:
        """Area under the curve over the share of voxels switched, by trapezoids, (...)."""
        return (self.curve[..., 1:] + self.curve[..., :-1]).mean(-1) / 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the curve."""
        return self.curve.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.curve, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.curve)

    def __getitem__(self, index: Any) -> Array:
        return self.curve[index]

    def __iter__(self) -> Iterator[Array]:
        return iter(self.curve)


@register_record
@dataclasses.dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """Both curves of V clips.

    Attributes:
      insertion, deletion: curves (V, steps + 1), areas (V,).
    """

    insertion: PerturbationCurve
    deletion: PerturbationCurve

    @property
    def difference(self) -> Array:
        """(V,) area of insertion minus that of deletion: high where maps are right."""
        return self.insertion.auc - self.deletion.auc
