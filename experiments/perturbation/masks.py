"""Masks of clips by several variants of STEP, stored so that a stopped run continues."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import perturbation
from esv_jax.files import atomic_path
from esv_jax.perturbation import Core
from esv_jax.perturbation.descent import published_weights

AREA = 0.1
"""Area of the masks in the claims, as a share of a clip."""
CORE, NO_CORE, DIFFERENCE = "core", "no core", "difference loss"
MAIN = (CORE, NO_CORE, DIFFERENCE)
_SALIENCY_AREAS = (0.05, AREA, 0.2)  # of the masks whose sum is a map
_WEIGHTS = published_weights()
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


def find_masks(
    fn: Callable[[jax.Array], jax.Array],
    name: str,
    clip: jax.Array,
    target: int,
    *,
    iterations: int,
    key: jax.Array,
) -> Masks:
    """Masks of a clip by a variant; `fn` maps clips (B, t, h, w, c) to probabilities."""
    start = time.perf_counter()
    options = {"areas": (AREA,), **VARIANTS[name]}
    if "start" in options:
        small = perturbation.Masking().generator(clip.shape[1:3]).small_shape
        options["start"] = jnp.ones((len(options["areas"]), len(clip), *small), clip.dtype)
    found = perturbation.step(fn, clip, target, iterations=iterations, key=key, **options)
    masks, probability = jax.device_get((found.masks, found.probability))
    return Masks(masks, probability, time.perf_counter() - start)


def stored_masks(path: Path, mark: str, find: Callable[[], Masks]) -> Masks:
    """Masks of a file; new ones, which are stored, where it is absent, damaged or has another mark.

    Args:
      mark: digest of everything that the masks depend on.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            found = Masks(file["masks"], file["probability"], float(file["seconds"]))
            if str(file["mark"]) == mark:
                return found
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    found = find()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mark=mark, **found._asdict())
    return found
