"""Masks of clips by several variants of STEP, stored so that a stopped run continues."""

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
"""Area of the masks in the claims, as a share of a clip."""
SALIENCY_AREAS = (0.05, AREA, 0.2)
"""Areas of the masks whose sum is a map."""

CORE, NO_CORE, DIFFERENCE = "core", "no core", "difference loss"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of STEP.

    Attributes:
      areas: areas of the masks. options: options of `perturbation.step`.
      from_ones: starts from masks of ones, as published.
    """

    areas: tuple[float, ...] = (AREA,)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    from_ones: bool = False


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        CORE: Variant(SALIENCY_AREAS, {"core": Core()}),
        NO_CORE: Variant(SALIENCY_AREAS),
        DIFFERENCE: Variant(options={"difference": True}),
        "core, a cylinder": Variant(options={"core": Core("cylinder")}),
        "no dropout": Variant(options={"core": Core(), "dropout": 0.0}),
        "start of ones": Variant(options={"core": Core()}, from_ones=True),
        "published weights": Variant(
            options={"core": Core(), "weights": perturbation.published_weights()}
        ),
        "delete": Variant(options={"core": Core(), "mode": "delete"}),
        "dual": Variant(options={"core": Core(), "mode": "dual"}),
    }
)
"""Variants by name: the first three are measured on all clips, the others on some."""
MAIN = (CORE, NO_CORE, DIFFERENCE)


class Masks(NamedTuple):
    """Masks (A, t, h, w) of a clip, final probabilities (A,), and seconds of the search."""

    masks: np.ndarray
    probability: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class MaskStore:
    """Masks of the clips of one run.

    Attributes:
      folder: folder of the files, one for each variant and clip.
      model: the network. fn: clips (B, t, h, w, c) -> probabilities, always the same object.
      seed, iterations: arguments of `perturbation.step`; clip i has one key in all variants.
      about: everything that the clips depend on, as JSON.
    """

    folder: Path
    model: ClipModel
    fn: Callable[[jax.Array], jax.Array]
    seed: int
    iterations: int
    about: Mapping[str, Any]

    def find(self, name: str, i: int, frames: np.ndarray, target: int) -> Masks:
        """Masks of clip i by a variant, computed and written where they are not stored."""
        path = self.folder / f"{name.replace(',', '').replace(' ', '_')}-{i:03d}.npz"
        mark = self._mark(name)
        stored = _read(path, mark)
        if stored is not None:
            return stored
        start = time.perf_counter()
        variant = VARIANTS[name]
        clip = self.model.prepare(frames)
        options = dict(variant.options)
        if variant.from_ones:
            t, h, w = clip.shape[:3]
            small = perturbation.Masking().generator((h, w)).small_shape
            options["start"] = jnp.ones((len(variant.areas), t, *small), clip.dtype)
        found = perturbation.step(
            self.fn,
            clip,
            target,
            areas=variant.areas,
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
        """Digest of everything that the masks depend on, without the clip."""
        run = {**self.about, "seed": self.seed, "iterations": self.iterations}
        text = f"{json.dumps(run, sort_keys=True)} {VARIANTS[name]!r} {ej.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, mark: str) -> Masks | None:
    """Masks of a file; None where it is absent, damaged or has another mark."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            if str(file["mark"]) != mark:
                return None
            return Masks(file["masks"], file["probability"], float(file["seconds"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
