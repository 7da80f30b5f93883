"""All methods on one clip, and what all metrics say of their maps."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_key, expect_shape
from esv_jax.gradients.derivatives import class_weights, expect_input, expect_scores
from esv_jax.maps.evaluation_record import ClipScores
from esv_jax.maps.measures import METRICS, Switching, Units, evidence_of, measure
from esv_jax.maps.methods import METHODS, compiled, expect_network
from esv_jax.maps.programs import probabilities
from esv_jax.maps.settings import MapSettings, Network
from esv_jax.metrics import per_voxel

OwnMethod: TypeAlias = Callable[[Array, Array, Array], Any]
"""(clip (t, h, w, c), target (), key) -> a map, as `metrics.per_voxel` takes it."""

Methods: TypeAlias = Iterable[str] | Mapping[str, str | OwnMethod]
"""Names of `METHODS`; or names of the caller's, each with one of those or a function."""

OnMap: TypeAlias = Callable[[str, np.ndarray], Any]
"""Called with a method and its map."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Methods and metrics applied to every clip; see `make_judge`.

    Attributes:
      network: see `Network`.
      functions: of the methods, by name.
      metrics: names.
      switching: of the curves.
    """

    network: Network
    functions: Mapping[str, OwnMethod]
    metrics: tuple[str, ...]
    switching: Switching

    @property
    def methods(self) -> tuple[str, ...]:
        """Names."""
        return tuple(self.functions)

    def __call__(
        self,
        clip: Any,
        target: int | Array,
        *,
        key: Array,
        evidence: Any = None,
        evidence_frames: Any = None,
        on_map: OnMap | None = None,
    ) -> ClipScores:
        """Scores of all methods by all metrics on one clip.

        Args:
          clip: (t, h, w, c), floating point, as the network takes it.
          target: a class, 0..C-1.
          key: `jax.random.key(seed)`; each method that draws gets one folded with its name.
          evidence: (t, h, w) bool, where it lies. evidence_frames: (t,) bool, the frames that show
            it, by default those with a voxel of it.
          on_map: called with the name of each method and its map, (t, h, w).
        Raises:
          ValueError: shapes, values that are not finite, a target out of range, metrics without the
            evidence that they need. TypeError: arguments of another kind.
        """
        clip = expect_input(clip)
        expect_shape("clip", clip, (None,) * 4, "(t, h, w, c)")
        one = class_weights(target, expect_scores(self.network.logits, clip)).ndim == 1
        expect(one, "target", "one class", f"shape {np.shape(target)}")
        key = expect_key("key", key)
        known = evidence_of(self.metrics, clip.shape[:3], evidence, evidence_frames)
        maps, seconds, warnings = [], [], {}
        for m, (name, fn) in enumerate(self.functions.items()):
            own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            start = time.perf_counter()
            found = np.asarray(fn(clip, jnp.asarray(target), own_key))
            seconds.append(time.perf_counter() - start)
            n_bad = np.size(found) - np.count_nonzero(np.isfinite(found))
            if n_bad:
                warnings[m] = f"{name}: {n_bad} of {found.size} values are not finite; no scores"
            found = np.asarray(per_voxel(np.where(np.isfinite(found), found, 0), clip.shape))
            maps.append(found)
            if on_map is not None:
                on_map(name, np.full_like(found, np.nan) if n_bad else found)
        scores = measure(
            self.metrics,
            probabilities(self.network),
            clip,
            jnp.stack(list(map(jnp.asarray, maps))),
            int(target),
            known,
            self.switching,
        )
        scores[:, list(warnings)] = np.nan
        return ClipScores(scores, np.array(seconds), tuple(warnings.values()))


def make_judge(
    network: Network,
    *,
    methods: Methods,
    metrics: Iterable[str],
    settings: MapSettings | None = None,
    steps: int = 16,
    remove: Any = "blur",
    units: Units = "pixels",
    grid: int = 8,
    n_supervoxels: int = 200,
) -> Judge:
    """A function of one clip that applies methods to it and takes metrics of their maps.

    For sets that are read clip by clip; `evaluate` is this for arrays. Programs are compiled at
    the first clip and kept.

    Args:
      See `evaluate`.
    Raises:
      ValueError: no methods or metrics, unknown ones, one twice, numbers out of range.
      TypeError: arguments of another kind.
    """
    expect_network(network)
    for name, value in (("methods", methods), ("metrics", metrics)):
        is_list = isinstance(value, Iterable) and not isinstance(value, str)
        expect(is_list, name, "a list of names", repr(value), kind=TypeError)
    functions: dict[str, OwnMethod] = {}
    named = methods.items() if isinstance(methods, Mapping) else ((name, name) for name in methods)
    for name, method in named:
        expect(name not in functions, "methods", "each name once", f"{name!r} again")
        functions[name] = _function(method, network, settings)
    names = tuple(metrics)
    for name in names:
        expect_choice("metrics", name, METRICS)
        expect(names.count(name) == 1, "metrics", "each name once", f"{name!r} again")
    for kind, given in (("methods", functions), ("metrics", names)):
        expect(len(given) > 0, kind, "at least one", "none")
    switching = Switching(steps, remove, units, grid, n_supervoxels)
    return Judge(network, functions, names, switching)


def _function(method: str | OwnMethod, network: Network, settings: MapSettings | None) -> OwnMethod:
    if isinstance(method, str):
        expect_choice("methods", method, METHODS)
        return compiled(method, network, settings)
    kind = type(method).__name__
    expect(callable(method), "methods", "names, or functions by name", kind, kind=TypeError)
    return method
