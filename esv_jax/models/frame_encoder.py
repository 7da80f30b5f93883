"""Frame encoders: networks on single frames, with their preprocessing, registered by name.

A name stands for a builder. Files hold the name in place of code, so a model can be read wherever
its encoder is registered. Registered are the published backbones and "frame_cnn", a small network:

    frame (h, w, 3) -> 64 x 64 in 0..1 -> patches of 4 x 4 pixels, a linear layer and ReLU each
        -> three convolutions with ReLU -> one linear layer -> (D,)

It uses strides instead of pooling and no normalisation: all layers are linear or ReLUs, and
positions stay apart up to the last layer, because motion is read from positions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import checks
from esv_jax.data.preprocessing import preprocess
from esv_jax.files import JSONObject
from esv_jax.models import backbones
from esv_jax.models.tensor_files import Variables

Prepare: TypeAlias = Callable[[ArrayLike], Array]
"""uint8 frames (n, h, w, 3) of any size to the network's input, (n, ...)."""
Apply: TypeAlias = Callable[[Variables, Array], Array]
"""Variables and prepared frames to features (n, D)."""
EncoderBuilder: TypeAlias = Callable[[JSONObject], tuple[Prepare, Apply]]
"""Settings to the two functions of an encoder."""

_BATCH = 64  # frames encoded at a time
_PATCH = 4  # pixels along a side
_STRIDES = (2, 1, 2)  # of the convolutions


@dataclass(frozen=True, eq=False)
class FrameEncoder:
    """A network on single frames.

    Attributes:
      name: of its builder in the registry, e.g. "frame_cnn".
      settings: arguments of the builder; plain values, as JSON holds them.
      variables: its weights, nested dicts of arrays.
    """

    name: str
    settings: JSONObject
    variables: Variables

    def __post_init__(self) -> None:
        """Refuse an encoder that is not registered."""
        checks.expect_choice("encoder", self.name, _BUILDERS)

    @property
    def prepare(self) -> Prepare:
        """Function from uint8 frames of any size to the input of `apply`."""
        return _functions(self.name, json.dumps(dict(self.settings)))[0]

    @property
    def apply(self) -> Apply:
        """Function from variables and prepared frames to features; differentiable in both."""
        return _functions(self.name, json.dumps(dict(self.settings)))[1]

    def __call__(self, frames: ArrayLike) -> np.ndarray:
        """Features of frames, each on its own.

        Args:
          frames: (n, h, w, 3) uint8, n >= 1, of any size.
        Returns:
          (n, D) float32 on the host.
        Cost: 64 frames at a time; the first call for a size of frames compiles.
        """
        frames = np.asarray(frames)
        checks.expect_shape("frames", frames, (None, None, None, 3), "(n, h, w, 3)")
        n = len(frames)
        checks.expect(n >= 1, "frames", "at least one frame", "none")
        batch = min(_BATCH, 1 << (n - 1).bit_length())  # few shapes, so few programs
        parts = []
        for start in range(0, n, batch):
            part = frames[start : start + batch]
            padded = np.pad(part, [(0, batch - len(part)), *[(0, 0)] * 3], mode="edge")
            features = self.apply(self.variables, self.prepare(padded))
            parts.append(np.asarray(features, np.float32)[: len(part)])
        return np.concatenate(parts)


@functools.lru_cache(maxsize=32)
def _functions(name: str, settings: str) -> tuple[Prepare, Apply]:
    return _BUILDERS[name](json.loads(settings))


def register_frame_encoder(name: str, builder: EncoderBuilder) -> None:
    """Register an encoder, so that models with it can be used, saved and loaded.

    Args:
      name: its name in files, e.g. "resnet50".
      builder: returns the encoder's two functions for some settings.
    Raises:
      ValueError: the name stands for another builder.
    """
    known = _BUILDERS.setdefault(name, builder)
    checks.expect(known is builder, "name", "a name that is not taken", repr(name))


class FrameCNN(nn.Module):
    """Features of single frames.

    Attributes:
      feature_dim: D.
      widths: channels of the patches and after each of the three convolutions.
    """

    feature_dim: int = 64
    widths: tuple[int, int, int, int] = (40, 64, 64, 64)

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        """Features (B, D), not rectified, of frames (B, 64, 64, 3) of `prepare_frames`."""
        b, h, w, channels = frames.shape
        x = frames.reshape(b, h // _PATCH, _PATCH, w // _PATCH, _PATCH, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // _PATCH, w // _PATCH, -1)
        x = nn.relu(self._linear("patch", x, self.widths[0]))  # (B, 16, 16, .)
        for i, (width, stride) in enumerate(zip(self.widths[1:], _STRIDES, strict=True)):
            x = nn.relu(self._convolution(f"conv_{i}", x, width, stride))
        return self._linear("dense", x.reshape(b, -1), self.feature_dim)

    def _linear(self, name: str, x: Array, width: int) -> Array:
        w, b = self._weights(name, (x.shape[-1], width), x)
        return x @ w + b.reshape((1,) * (x.ndim - 1) + (width,))

    def _convolution(self, name: str, x: Array, width: int, stride: int) -> Array:
        w, b = self._weights(name, (3, 3, x.shape[-1], width), x)
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (stride,) * 2, "SAME", dimension_numbers=layout)
        return y + b[None, None, None]

    def _weights(self, name: str, shape: tuple[int, ...], x: Array) -> tuple[Array, Array]:
        w = self.param(f"{name}_w", nn.initializers.he_normal(), shape, x.dtype)
        return w, self.param(f"{name}_b", nn.initializers.zeros, shape[-1:], x.dtype)


def prepare_frames(frames: ArrayLike, size: int = 64) -> Array:
    """Scale the short side of frames to `size`, crop the centre square, divide by 255.

    Args:
      frames: (n, h, w, 3) uint8 of any size.
      size: side of the result in pixels.
    Returns:
      (n, size, size, 3) float32 in 0..1. Frames of this size are only divided by 255.
    Raises:
      TypeError: not uint8. ValueError: another shape.
    """
    frames = jnp.asarray(frames)
    if frames.dtype != jnp.uint8:
        got, way_out = f"dtype {frames.dtype}", "Multiply frames in 0..1 by 255 and round."
        raise TypeError(checks.message("frames", "uint8 frames in 0..255", got, way_out))
    checks.expect_shape("frames", frames, (None, None, None, 3), "(n, h, w, 3)")
    n, h, w, _ = frames.shape
    checks.expect(h > 0 and w > 0, "frames", "frames with pixels", frames.shape)
    shape = (n, max(size, round(h * size / min(h, w))), max(size, round(w * size / min(h, w))), 3)
    x = frames.astype(jnp.float32) / 255
    if shape != x.shape:
        x = jax.image.resize(x, shape, "linear", antialias=True)
    top, left = (shape[1] - size) // 2, (shape[2] - size) // 2
    return x[:, top : top + size, left : left + size]


def _build_frame_cnn(settings: JSONObject) -> tuple[Prepare, Apply]:
    """`prepare_frames` and a `FrameCNN`; settings `feature_dim` and `widths`."""
    module = FrameCNN(int(settings["feature_dim"]), tuple(settings["widths"]))
    return jax.jit(prepare_frames), jax.jit(module.apply)


def _build_backbone(name: str, settings: JSONObject) -> tuple[Prepare, Apply]:
    """A published backbone; setting `n_outputs`, the width of its last layer, or None."""
    module = backbones.build_backbone(name, settings["n_outputs"])
    preprocessing = backbones.BACKBONES[name].preprocessing
    return lambda frames: jnp.asarray(preprocess(frames, preprocessing)), jax.jit(module.apply)


_BUILDERS: dict[str, EncoderBuilder] = {
    "frame_cnn": _build_frame_cnn,
    **{name: functools.partial(_build_backbone, name) for name in backbones.BACKBONES},
}
