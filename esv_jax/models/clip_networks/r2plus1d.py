"""R(2+1)D-18: residual blocks whose convolutions are one over space and one over time.

Source: Tran et al. (2018), A Closer Look at Spatiotemporal Convolutions, as torchvision has it.
Layers are named as in that state dict, with "_" for ".": `layer1.0.conv1.0.3` is the child
`conv1_0_3` of the child `layer1_0`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax.models.backbones.layers import BatchNorm, precision_of

_WIDTHS = (64, 128, 256, 512)
_BLOCKS = 2  # of each width


def factored_width(inputs: int, outputs: int) -> int:
    """Channels between the two convolutions that have as many weights as one of 3 x 3 x 3."""
    return inputs * outputs * 27 // (inputs * 9 + 3 * outputs)


class Block(nn.Module):
    """Two factored convolutions beside a short cut, summed.

    Attributes:
      width: channels that come out. stride: of the first convolutions in space and in time.
      dtype: of the arithmetic.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, t, h, w, c) -> (B, t / stride, h / stride, w / stride, width)."""
        inputs, s, kind = x.shape[-1], self.stride, {"dtype": self.dtype}
        between = factored_width(inputs, self.width)
        y = x
        for place, stride in ((1, s), (2, 1)):
            name = f"conv{place}"
            y = conv_norm(y, between, (1, 3, 3), (1, stride, stride), f"{name}_0", 0, **kind)
            y = _conv(y, self.width, (3, 1, 1), (stride, 1, 1), f"{name}_0_3", **kind)
            y = BatchNorm(name=f"{name}_1")(y)
            y = nn.relu(y) if place == 1 else y
        if s > 1 or inputs != self.width:
            names = "downsample"
            x = conv_norm(x, self.width, (1, 1, 1), (s, s, s), names, 0, relu=False, **kind)
        return nn.relu(x + y)


class R2Plus1D18(nn.Module):
    """R(2+1)D-18 in evaluation: clips (B, t, h, w, 3) to logits (B, C).

    Any size that strides of 8 in time and 16 in space leave something of.

    Attributes:
      n_classes: C, 400 of Kinetics.
      dtype: of the arithmetic; parameters are float32.
    """

    n_classes: int = 400
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """Logits of preprocessed clips."""
        kind = {"dtype": self.dtype}
        x = clips.astype(self.dtype)
        x = conv_norm(x, 45, (1, 7, 7), (1, 2, 2), "stem", 0, **kind)
        x = conv_norm(x, 64, (3, 1, 1), (1, 1, 1), "stem", 3, **kind)
        for stage, width in enumerate(_WIDTHS):
            for place in range(_BLOCKS):
                stride = 2 if stage > 0 and place == 0 else 1
                x = Block(width, stride, self.dtype, name=f"layer{stage + 1}_{place}")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        last = nn.Dense(self.n_classes, precision=precision_of(self.dtype), name="fc", **kind)
        return last(x).astype(jnp.float32)


def conv_norm(
    x: jax.Array,
    width: int,
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    name: str,
    place: int,
    *,
    relu: bool = True,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Convolution, batch norm and, if asked, ReLU: children `<name>_<place>` and the next."""
    x = _conv(x, width, kernel, strides, f"{name}_{place}", dtype=dtype)
    x = BatchNorm(name=f"{name}_{place + 1}")(x)
    return nn.relu(x) if relu else x


def _conv(
    x: jax.Array,
    width: int,
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    name: str,
    *,
    dtype: Any,
) -> jax.Array:
    """A convolution without bias, padded so that stride alone changes the size."""
    conv = nn.Conv(
        width,
        kernel,
        strides=strides,
        padding=[(size // 2, size // 2) for size in kernel],
        use_bias=False,
        dtype=dtype,
        precision=precision_of(dtype),
        name=name,
    )
    return conv(x)
