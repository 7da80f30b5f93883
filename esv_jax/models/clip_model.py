"""A whole classifier of clips: a 3D network by name, its preprocessing, weights and class names.

Where a `VideoModel` encodes frames one by one, a `ClipModel` sees all frames of a clip at once.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.errors import ScopeParamShapeError

from esv_jax import checks
from esv_jax.data.preprocessing import Preprocessing, preprocess
from esv_jax.models.clip_networks import CLIP_NETWORKS, clip_network_from_state_dict
from esv_jax.models.clip_networks.clip_cnn import ClipCNN
from esv_jax.models.clip_networks.registry import recognise_clip_network
from esv_jax.models.frame_cnn import prepare_frames
from esv_jax.models.tensor_files import (
    digest_of,
    halved,
    has_header,
    has_version,
    read_model,
    widened,
    write_tensors,
)

_FORMAT = 1
_HEADER = "esv_jax.clip_model"
_WRITER = "save_clip_model"
_SIDE = 64  # of the frames of a ClipCNN

NETWORKS = ("clip_cnn", *CLIP_NETWORKS)
"""3D networks that a `ClipModel` can have, by name."""


@dataclass(frozen=True, eq=False)
class ClipModel:
    """A classifier that sees a clip at once, with all that explaining it needs.

        clip = model.prepare(frames)                     # of uint8 frames (t, h, w, 3)
        lrp(model.logits, clip, target, composite=preset("epsilon_plus", *model.bounds))

    Attributes:
      network: its architecture, one of `NETWORKS`.
      settings: of the architecture: `n_classes`, of "clip_cnn" also `widths`.
      variables: weights, nested dicts of arrays.
      class_names: C names.
      n_frames: frames of a clip that it takes, at the centres of as many segments of a video.
      about: where it comes from: seed, accuracy and the like; plain values, as JSON holds them.
    """

    network: str
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]
    class_names: tuple[str, ...]
    n_frames: int = 16
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown network and names that do not fit its classes."""
        checks.expect_choice("network", self.network, NETWORKS)
        n = int(self.settings["n_classes"])
        checks.expect(len(self.class_names) == n, "class_names", f"{n}", len(self.class_names))

    @property
    def module(self) -> nn.Module:
        """The Linen module, (B, t, h, w, 3) -> (B, C)."""
        return _module(self.network, json.dumps(dict(self.settings)))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value that a prepared clip can have, (3,) each, by channel."""
        if self._preprocessing is not None:
            return self._preprocessing.bounds
        return np.zeros(3, np.float32), np.ones(3, np.float32)

    def prepare(self, frames: Any) -> jax.Array:
        """Frames as the network takes them.

        Args:
          frames: (t, h, w, 3) uint8 of any size.
        Returns:
          (t, s, s, 3) float32: the short side scaled, the square in the middle, within `bounds`.
        Raises:
          TypeError: not uint8. ValueError: another shape.
        """
        if self._preprocessing is not None:
            return jnp.asarray(preprocess(frames, self._preprocessing))
        return prepare_frames(frames, _SIDE)

    def pictures(self, clip: Any) -> np.ndarray:
        """Prepared frames (..., s, s, 3), also perturbed ones, for people: uint8, RGB."""
        low, high = self.bounds
        scaled = ((np.asarray(clip) - low) / (high - low)).clip(0, 1)
        is_bgr = self._preprocessing is not None and self._preprocessing.channels == "BGR"
        return np.rint(255 * scaled).astype(np.uint8)[..., :: -1 if is_bgr else 1]

    def shown(self, frames: Any) -> np.ndarray:
        """The same frames for people: what of them the network sees, (t, s, s, 3) uint8, RGB."""
        return self.pictures(self.prepare(frames))

    @property
    def _preprocessing(self) -> Preprocessing | None:
        """Preprocessing of a published network; a `ClipCNN` uses `prepare_frames`."""
        known = CLIP_NETWORKS.get(self.network)
        return None if known is None else known.preprocessing

    def logits(self, clip: jax.Array) -> jax.Array:
        """Logits (C,) of one prepared clip (t, s, s, 3), in JAX: differentiable, compilable.

        Raises:
          ValueError: a clip of another size than the weights are for.
        """
        try:
            found: jax.Array = self.module.apply(self.variables, clip[None])
        except ScopeParamShapeError as error:
            expected = f"shape ({self.n_frames}, s, s, 3), as prepare() gives it"
            raise ValueError(checks.message("clip", expected, clip.shape)) from error
        return found[0]


def load_synthetic_clips() -> ClipModel:
    """The 3D network that comes with the package, trained on `data.synthetic_videos`.

    A `ClipCNN` on 16 frames of 64 x 64; `about` says how it was trained and how often it is right.
    Nothing is downloaded.
    """
    place = importlib.resources.files("esv_jax.models") / "assets" / "synthetic_clips.safetensors"
    with importlib.resources.as_file(place) as path:
        return load_clip_model(path)


def clip_model_from_state_dict(
    state: Mapping[str, np.ndarray], class_names: tuple[str, ...] | None = None
) -> ClipModel:
    """A published 3D network from its PyTorch weights; which one is told by their names.

    Args:
      state: {name: array}, as `checkpoints.load_torch` gives it.
      class_names: C names; default the numbers "0".."C-1".
    Raises:
      ValueError, TypeError: as `clip_network_from_state_dict`; names that do not fit.
    """
    name = recognise_clip_network(state)
    module, variables = clip_network_from_state_dict(name, state)
    n = int(getattr(module, "n_classes"))  # noqa: B009  # of every network, unknown to nn.Module
    names = tuple(map(str, range(n))) if class_names is None else tuple(class_names)
    return ClipModel(name, {"n_classes": n}, variables, names, CLIP_NETWORKS[name].n_frames)


def save_clip_model(path: str | os.PathLike[str], model: ClipModel, *, half: bool = False) -> Path:
    """Write a model to one file, replacing a former one only when all is written.

    Args:
      path: the file, e.g. "clips.safetensors"; its folder is made if absent.
      model: what is written.
      half: store weights in half precision; they come back in single precision, rounded.
    Returns:
      The path.
    Raises:
      ValueError, OSError: a folder in the place of a file, a file that cannot be written.
    """
    tensors = _tensors(model)
    tensors = halved(tensors) if half else tensors
    header = {
        "format": _FORMAT,
        "network": model.network,
        "settings": dict(model.settings),
        "class_names": list(model.class_names),
        "n_frames": model.n_frames,
        "about": dict(model.about),
    }
    header["digest"] = clip_model_digest(_model(header, tensors))
    return write_tensors(path, tensors, _HEADER, header)


def load_clip_model(path: str | os.PathLike[str]) -> ClipModel:
    """Read a model written by `save_clip_model`. Nothing in the file is executed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged or foreign file, a network that is not known.
    """

    def build(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[ClipModel, str]:
        model = _model(header, tensors)
        return model, clip_model_digest(model)

    return read_model(path, _HEADER, _WRITER, build, has_version(_FORMAT))


def holds_clip_model(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a model of `save_clip_model`, by its header."""
    return has_header(path, _HEADER)


def clip_model_digest(model: ClipModel) -> str:
    """SHA-256 of network, settings and weights: 64 hexadecimal digits."""
    settings = json.dumps(dict(model.settings), sort_keys=True)
    return digest_of(_tensors(model), f"{model.network}:{settings};")


def _tensors(model: ClipModel) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(dict(model.variables), sep=".")
    return {name: np.ascontiguousarray(array) for name, array in flat.items()}


def _model(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> ClipModel:
    flat = {name: jnp.asarray(array) for name, array in widened(tensors).items()}
    return ClipModel(
        network=header["network"],
        settings=header["settings"],
        variables=traverse_util.unflatten_dict(flat, sep="."),
        class_names=tuple(header["class_names"]),
        n_frames=int(header["n_frames"]),
        about=header["about"],
    )


@functools.lru_cache(maxsize=32)
def _module(network: str, settings: str) -> nn.Module:
    known = json.loads(settings)
    if network in CLIP_NETWORKS:
        return CLIP_NETWORKS[network].module(n_classes=int(known["n_classes"]))
    return ClipCNN(n_classes=int(known["n_classes"]), widths=tuple(known["widths"]))
