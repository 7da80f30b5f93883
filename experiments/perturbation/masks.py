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
CORE, NO_CORE, DIFFERENCE = "core", "no core", "difference loss"
MAIN = (CORE, NO_CORE, DIFFERENCE)
_SALIENCY_AREAS = (0.05, AREA, 0.2)  # of the masks whose sum is a map
_WEIGHTS = perturbation.published_weights()
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        CORE: {"areas": _SALIENCY_AREAS, "core": Core()},
        NO_CORE: {"areas": _SALIENCY_AREAS},
        DIFFERENCE: {"difference": True},
        "core, a cylinder": {"core": Core("cylinder")},
        "no dropout": {"core": Core(), "dropout": 0.0},
        "start of ones": {"core": Core(), "start": "ones"},
        "published weights": {"core": Core(), "weights": _WEIGHTS},
        "delete": {"core": Core(), "mode": "delete"},
        "dual": {"core": Core(), "mode": "dual"},
    }
)
"""Options of `perturbation.step` by variant, `areas` being (AREA,) by default. The variants of
`MAIN` are measured on all clips, the others on some."""


def index_of(name: str, area: float) -> int | None:
    """Index of the mask of an area among those of a variant; None where there is none."""
    areas = VARIANTS[name].get("areas", (AREA,))
    return areas.index(area) if area in areas else None


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

    def find(self, name: str, i: int, clip: jax.Array, target: int) -> Masks:
        """Masks of clip i by a variant, computed and written where they are not stored."""
        path = self.folder / f"{name.replace(',', '').replace(' ', '_')}-{i:03d}.npz"
        mark = self.mark(name)
        stored = read_masks(path, mark)
        if stored is not None:
            return stored
        start = time.perf_counter()
        options = {"areas": (AREA,), **VARIANTS[name]}
        if "start" in options:
            small = perturbation.Masking().generator(clip.shape[1:3]).small_shape
            options["start"] = jnp.ones((len(options["areas"]), len(clip), *small), clip.dtype)
        key = jax.random.fold_in(jax.random.key(self.seed), i)
        found = perturbation.step(
            self.fn, clip, target, iterations=self.iterations, key=key, **options
        )
        masks, probability = jax.device_get((found.masks, found.probability))
        result = Masks(masks, probability, time.perf_counter() - start)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, mark=mark, **result._asdict())
        return result

    def mark(self, name: str) -> str:
        """Digest of everything that the masks depend on, without the clip."""
        run = {**self.about, "seed": self.seed, "iterations": self.iterations}
        text = f"{json.dumps(run, sort_keys=True)} {VARIANTS[name]!r} {ej.__version__}"
        return hashlib.sha256(text.encode()).hexdigest()


def read_masks(path: Path, mark: str) -> Masks | None:
    """Masks of a file; None where it is absent, damaged or has another mark."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            found = Masks(file["masks"], file["probability"], float(file["seconds"]))
            return found if str(file["mark"]) == mark else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
