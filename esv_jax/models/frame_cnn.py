"""A small convolutional network that turns one frame into features, alone and of any size.

    frame (h, w, 3) -> 64 x 64 in 0..1 -> patches of 4 x 4 pixels, a linear layer and ReLU each
        -> three convolutions with ReLU -> one linear layer -> (D,)

Strides take the place of pooling, and nothing is normalised: all layers are linear or ReLUs, with
places kept apart to the end, for where things are is what motion is read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax import checks

_PATCH = 4  # pixels along a side
_STRIDES = (2, 1, 2)  # of the convolutions


class FrameCNN(nn.Module):
    """Features of single frames.

    Attributes:
      feature_dim: D.
      widths: channels of the patches and after each of the three convolutions.
    """

    feature_dim: int = 64
    widths: tuple[int, int, int, int] = (40, 64, 64, 64)

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Features of B frames.

        Args:
          frames: (B, 64, 64, 3), floating point, 0..1, as `prepare_frames` gives them.
        Returns:
          (B, D), not rectified.
        """
        x = nn.relu(self._linear("patch", _patches(frames), self.widths[0]))  # (B, 16, 16, .)
        for i, (width, stride) in enumerate(zip(self.widths[1:], _STRIDES, strict=True)):
            x = nn.relu(self._convolution(f"conv_{i}", x, width, stride))
        return self._linear("dense", x.reshape(x.shape[0], -1), self.feature_dim)

    def _linear(self, name: str, x: jax.Array, width: int) -> jax.Array:
        shape = (x.shape[-1], width)
        w = self.param(f"{name}_w", nn.initializers.he_normal(), shape, x.dtype)
        b = self.param(f"{name}_b", nn.initializers.zeros, (width,), x.dtype)
        return x @ w + b.reshape((1,) * (x.ndim - 1) + (width,))

    def _convolution(self, name: str, x: jax.Array, width: int, stride: int) -> jax.Array:
        shape = (3, 3, x.shape[-1], width)
        w = self.param(f"{name}_w", nn.initializers.he_normal(), shape, x.dtype)
        b = self.param(f"{name}_b", nn.initializers.zeros, (width,), x.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (stride,) * 2, "SAME", dimension_numbers=layout)
        return y + b[None, None, None]


def _patches(frames: jax.Array) -> jax.Array:
    """Squares of 4 x 4 pixels as vectors, (B, h / 4, w / 4, 48)."""
    b, h, w, channels = frames.shape
    x = frames.reshape(b, h // _PATCH, _PATCH, w // _PATCH, _PATCH, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // _PATCH, w // _PATCH, -1)


def prepare_frames(frames: Any, size: int = 64) -> jax.Array:
    """Frames as networks take them: the short side scaled to `size`, the middle square, 0..1.

    Args:
      frames: (n, h, w, 3) uint8 of any size.
      size: side of the result in pixels.
    Returns:
      (n, size, size, 3) float32. Frames of this size are divided by 255 and nothing else.
    Raises:
      TypeError: not uint8. ValueError: another shape.
    """
    frames = jnp.asarray(frames)
    if frames.dtype != jnp.uint8:
        got, way_out = f"dtype {frames.dtype}", "Frames in 0..1 times 255, rounded, say."
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


def build_frame_cnn(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The functions of the encoder "frame_cnn": `prepare_frames`, and what applies a `FrameCNN`.

    Args:
      settings: `feature_dim` and `widths` of `FrameCNN`.
    """
    module = FrameCNN(int(settings["feature_dim"]), tuple(settings["widths"]))
    return jax.jit(prepare_frames), jax.jit(module.apply)
