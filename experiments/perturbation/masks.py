"""Masks of clips in several ways, kept on disk as they come, so that a run that is cut goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from esv_jax import perturbation
from esv_jax.files import atomic_path
from esv_jax.models import ClipModel
from esv_jax.perturbation import Core

AREA = 0.1
"""Share of a clip that the masks have which claims are about."""
SALIENCY_AREAS = (0.05, AREA, 0.2)
"""Areas of the masks whose sum is a map."""

CORE, NO_CORE, DIFFERENCE = "core", "no core", "difference loss"


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of finding masks.

    Attributes:
      areas: of the masks.
      options: of `perturbation.step`.
      from_ones: whether masks are ones at the start, as published.
    """

    areas: tuple[float, ...] = (AREA,)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    from_ones: bool = False


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        CORE: Way(SALIENCY_AREAS, {"core": Core()}),
        NO_CORE: Way(SALIENCY_AREAS),
        DIFFERENCE: Way(options={"difference": True}),
        "core, a cylinder": Way(options={"core": Core("cylinder")}),
        "no dropout": Way(options={"core": Core(), "dropout": 0.0}),
        "start of ones": Way(options={"core": Core()}, from_ones=True),
        "published weights": Way(
            options={"core": Core(), "weights": perturbation.published_weights()}
        ),
        "delete": Way(options={"core": Core(), "mode": "delete"}),
        "dual": Way(options={"core": Core(), "mode": "dual"}),
    }
)
"""Ways by name: the first three are measured on all clips, the others on some."""
MAIN = (CORE, NO_CORE, DIFFERENCE)


class Masks(NamedTuple):
    """Masks (A, t, h, w) of a clip, the probability (A,) at their end, and seconds they took."""

    masks: np.ndarray
    probability: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class MaskStore:
    """Masks of the clips of one run.

    Attributes:
      folder: where they are kept, one file for each way and clip.
      model: the network, and `fn`: clips (B, t, h, w, c) -> probabilities, always the same object.
      seed, iterations: of `perturbation.step`; clip i has the same key in all ways.
      about: all that the clips depend on, as JSON holds it.
    """

    folder: Path
    model: ClipModel
    fn: Callable[[jax.Array], jax.Array]
    seed: int
    iterations: int
    about: Mapping[str, Any]

    def find(self, name: str, i: int, frames: np.ndarray, target: int) -> Masks:
        """Masks of clip i found this way: read where they are known, found and written if not."""
        path = self.folder / f"{name.replace(',', '').replace(' ', '_')}-{i:03d}.npz"
        mark = self._mark(name)
        known = _read(path, mark)
        if known is not None:
            return known
        start = time.perf_counter()
        way = WAYS[name]
        clip = self.model.prepare(frames)
        options = dict(way.options)
        if way.from_ones:
            t, h, w = clip.shape[:3]
            small = perturbation.Masking().generator((h, w)).small_shape
            options["start"] = jnp.ones((len(way.areas), t, *small), clip.dtype)
        found = perturbation.step(
            self.fn,
            clip,
            target,
            areas=way.areas,
            iterations=self.iterations,
            key=jax.random.fold_in(jax.random.key(self.seed), i),
            **options,
        )
        masks, probability = jax.device_get((found.masks, found.probability))
        result = Masks(masks, probability, time.perf_counter() - start)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, mark=mark, **result._asdict())
        return result

    def _mark(self, name: str) -> str:
        """A digest of all that these masks depend on, beside the clip's number."""
        run = {**self.about, "seed": self.seed, "iterations": self.iterations}
        text = f"{json.dumps(run, sort_keys=True)} {WAYS[name]!r} {ej.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, mark: str) -> Masks | None:
    """Masks of a file, where there is one with this mark."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            if str(file["mark"]) != mark:
                return None
            return Masks(file["masks"], file["probability"], float(file["seconds"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
