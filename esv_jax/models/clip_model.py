"""Classifiers of whole clips: 3D networks by name, with preprocessing, weights and class names.

A `VideoModel` encodes frames one by one; a `ClipModel` takes all frames of a clip at once. Clips
are (B, t, h, w, 3), channels last; the networks return logits (B, C).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.errors import ScopeParamShapeError
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, message
from esv_jax.data.preprocessing import Preprocessing, preprocess
from esv_jax.files import JSONObject
from esv_jax.models.frame_encoder import prepare_frames
from esv_jax.models.networks import C3D, R2Plus1D18
from esv_jax.models.state_dicts import (
    PublishedNetwork,
    last_width,
    plain_names,
    recognise_network,
    variable_shapes,
    variables_from_state,
)
from esv_jax.models.tensor_files import (
    ASSETS,
    PathLike,
    TensorFormat,
    Tensors,
    Variables,
    digest_of,
    from_half,
    tensors_of,
    to_half,
)

_FORMAT = TensorFormat("esv_jax.clip_model", "a model written by save_clip_model")
_SIDE = 64  # of the frames of a ClipCNN
_KERNELS = ((3, 5, 5), (3, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 4, 4), (2, 2, 2), (2, 1, 1), (2, 2, 2))
"""Strides of the convolutions of a `ClipCNN`."""


# Networks


class ClipCNN(nn.Module):
    """A small 3D network: four convolutions with strides and ReLUs, one linear layer.

    Like `FrameCNN` it has no normalisation, and positions stay apart up to the linear layer,
    which fixes the size of the clip to that of initialisation.

    Attributes:
      n_classes: C.
      widths: channels after each of the four convolutions.
    """

    n_classes: int
    widths: tuple[int, int, int, int] = (32, 64, 64, 96)

    @nn.compact
    def __call__(self, clips: Array) -> Array:
        """Logits (B, C) of clips (B, t, h, w, 3), floating point, 0..1.

        Raises:
          ValueError: another shape.
        """
        fits = clips.ndim == 5 and clips.shape[-1] == 3
        expect(fits, "clips", "shape (B, t, h, w, 3)", clips.shape)
        x, init = clips, nn.initializers.he_normal()
        for i, (width, kernel, strides) in enumerate(
            zip(self.widths, _KERNELS, STRIDES, strict=True)
        ):
            x = nn.relu(nn.Conv(width, kernel, strides, kernel_init=init, name=f"conv_{i}")(x))
        return nn.Dense(self.n_classes, name="dense")(x.reshape(x.shape[0], -1))


_KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))  # mean, deviation
_R2PLUS1D = Preprocessing(128, 112, 1.0, "RGB", *_KINETICS)
_C3D = Preprocessing(128, 112, 255.0, "BGR", (90.0, 98.0, 102.0))
CLIP_NETWORKS: Mapping[str, PublishedNetwork] = MappingProxyType(
    {
        "r2plus1d_18": PublishedNetwork(R2Plus1D18, _R2PLUS1D, "stem.0.weight", "fc", n_frames=16),
        "c3d": PublishedNetwork(C3D, _C3D, "conv5b.weight", "fc8", n_frames=16),
    }
)
"""Published 3D networks by name."""

NETWORKS = ("clip_cnn", *CLIP_NETWORKS)
"""Names of the networks that a `ClipModel` can have."""


def clip_network_from_state_dict(name: str, state: Tensors) -> tuple[nn.Module, Variables]:
    """The module and its variables from the weights of a public PyTorch model.

        state = ej.checkpoints.load_torch("r2plus1d_18.pth")
        module, variables = clip_network_from_state_dict("r2plus1d_18", state)
        logits = module.apply(variables, clips)

    Args:
      name: "r2plus1d_18" (torchvision's layout) or "c3d" (`conv1` ... `conv5b`, `fc6` ... `fc8`),
        as returned by `state_dicts.recognise_network`.
      state: {name: array} as PyTorch has it. Leading `module.`, `model.` and similar are removed;
        counters of batches may be absent.
    Returns:
      The Linen module, with as many classes as the last layer has, and
      {"params": ..., "batch_stats": ...} of float32 arrays.
    Raises:
      ValueError: an unknown name, unknown or missing entries, wrong shapes, values that are not
      finite; the entries are named. TypeError: arrays that are not floating-point.
    """
    expect_choice("name", name, CLIP_NETWORKS)
    network, plain = CLIP_NETWORKS[name], plain_names(state)
    module = network.module(n_classes=last_width(plain, network.last) or 1)
    side = network.preprocessing.crop
    shapes = variable_shapes(module, (1, network.n_frames, side, side, 3))
    return module, variables_from_state(shapes, plain)


# Models


@dataclass(frozen=True, eq=False)
class ClipModel:
    """A classifier of clips.

        clip = model.prepare(frames)                     # of uint8 frames (t, h, w, 3)
        lrp(model.logits, clip, target, composite=preset("epsilon_plus", *model.bounds))

    Attributes:
      network: its architecture, one of `NETWORKS`.
      settings: of the architecture: `n_classes`, of "clip_cnn" also `widths`.
      variables: weights, nested dicts of arrays.
      class_names: C names.
      n_frames: frames of a clip, at the centres of as many segments of a video.
      about: provenance, e.g. seed and accuracy; plain values, as JSON holds them.
    """

    network: str
    settings: JSONObject
    variables: Variables
    class_names: tuple[str, ...]
    n_frames: int = 16
    about: JSONObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an unknown network and a wrong number of names."""
        expect_choice("network", self.network, NETWORKS)
        n = int(self.settings["n_classes"])
        expect(len(self.class_names) == n, "class_names", f"{n}", len(self.class_names))

    @property
    def module(self) -> nn.Module:
        """The Linen module, (B, t, h, w, 3) -> (B, C)."""
        return _module(self.network, json.dumps(dict(self.settings)))

    @property
    def _preprocessing(self) -> Preprocessing | None:
        """Preprocessing of a published network; None for a `ClipCNN`."""
        published = CLIP_NETWORKS.get(self.network)
        return None if published is None else published.preprocessing

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest possible value of a prepared clip, (3,) each, by channel."""
        if self._preprocessing is not None:
            return self._preprocessing.bounds
        return np.zeros(3, np.float32), np.ones(3, np.float32)

    def prepare(self, frames: ArrayLike) -> Array:
        """Preprocess frames for the network.

        Args:
          frames: (t, h, w, 3) uint8 of any size.
        Returns:
          (t, s, s, 3) float32: the short side scaled, the centre square, within `bounds`.
        Raises:
          TypeError: not uint8. ValueError: another shape.
        """
        if self._preprocessing is not None:
            return jnp.asarray(preprocess(frames, self._preprocessing))
        return prepare_frames(frames, _SIDE)

    def pictures(self, clip: ArrayLike) -> np.ndarray:
        """Prepared frames (..., s, s, 3), also perturbed ones, as pictures: uint8, RGB."""
        low, high = self.bounds
        scaled = ((np.asarray(clip) - low) / (high - low)).clip(0, 1)
        is_bgr = self._preprocessing is not None and self._preprocessing.channels == "BGR"
        return np.rint(255 * scaled).astype(np.uint8)[..., :: -1 if is_bgr else 1]

    def shown(self, frames: ArrayLike) -> np.ndarray:
        """The part of frames that the network processes, as pictures (t, s, s, 3) uint8, RGB."""
        return self.pictures(self.prepare(frames))

    def logits(self, clip: Array) -> Array:
        """Logits (C,) of one prepared clip (t, s, s, 3), in JAX: differentiable, compilable.

        Raises:
          ValueError: a clip of another size than the weights are for.
        """
        try:
            logits: Array = self.module.apply(self.variables, clip[None])
        except ScopeParamShapeError as error:
            expected = f"shape ({self.n_frames}, s, s, 3), as prepare() gives it"
            raise ValueError(message("clip", expected, clip.shape)) from error
        return logits[0]


@functools.lru_cache(maxsize=32)
def _module(network: str, settings: str) -> nn.Module:
    values = json.loads(settings)
    n_classes = int(values["n_classes"])
    if network in CLIP_NETWORKS:
        return CLIP_NETWORKS[network].module(n_classes=n_classes)
    return ClipCNN(n_classes=n_classes, widths=tuple(values["widths"]))


def load_synthetic_clips() -> ClipModel:
    """The 3D network that comes with the package, trained on `data.synthetic_videos`.

    A `ClipCNN` on 16 frames of 64 x 64; `about` holds its training settings and accuracy.
    Nothing is downloaded.
    """
    return load_clip_model(ASSETS / "synthetic_clips.safetensors")


def clip_model_from_state_dict(
    state: Tensors, class_names: Sequence[str] | None = None
) -> ClipModel:
    """A published 3D network from its PyTorch weights, recognised by their names.

    Args:
      state: {name: array}, as returned by `checkpoints.load_torch`.
      class_names: C names; default the numbers "0".."C-1".
    Raises:
      ValueError, TypeError: as `clip_network_from_state_dict`; a wrong number of names.
    """
    name = recognise_network(state, CLIP_NETWORKS)
    module, variables = clip_network_from_state_dict(name, state)
    n = int(getattr(module, "n_classes"))  # noqa: B009  # of every network, unknown to nn.Module
    names = tuple(map(str, range(n))) if class_names is None else tuple(class_names)
    return ClipModel(name, {"n_classes": n}, variables, names, CLIP_NETWORKS[name].n_frames)


# Files


def save_clip_model(path: PathLike, model: ClipModel, *, half: bool = False) -> Path:
    """Write a model to one file and return its path; arguments as of `save_video_model`.

    Raises:
      ValueError, OSError: a path that cannot be written to.
    """
    tensors = tensors_of(model.variables)
    tensors = to_half(tensors) if half else tensors
    names = ("network", "settings", "class_names", "n_frames", "about")
    header = {name: getattr(model, name) for name in names}
    return _FORMAT.write(path, tensors, header, _model(header, tensors)[1])


def load_clip_model(path: PathLike) -> ClipModel:
    """Read a model written by `save_clip_model`; runs no code of the file.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged or foreign file, an unknown network.
    """
    return _FORMAT.read(path, _model)


def clip_model_digest(model: ClipModel) -> str:
    """SHA-256 of network, settings and weights: 64 hexadecimal digits."""
    settings = json.dumps(dict(model.settings), sort_keys=True)
    return digest_of(tensors_of(model.variables), f"{model.network}:{settings};")


def _model(header: JSONObject, tensors: Tensors) -> tuple[ClipModel, str]:
    """The model that header and arrays describe, in single precision, and its digest."""
    flat = {name: jnp.asarray(array) for name, array in from_half(tensors).items()}
    model = ClipModel(
        variables=traverse_util.unflatten_dict(flat, sep="."),
        class_names=tuple(header["class_names"]),
        n_frames=int(header["n_frames"]),
        **{name: header[name] for name in ("network", "settings", "about")},
    )
    return model, clip_model_digest(model)
