"""BN-Inception, the backbone of the paper's TRN.

Source: Ioffe & Szegedy (2015), figure 5, as the public PyTorch ports of the Caffe model have it:
convolutions with biases, max pools that round their size up, a max pool in the last block.
Layers are named as in these state dicts (`inception_3a_1x1_bn`); a block is one child here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax.models.backbones.layers import conv_norm, pool_and_project


class Widths(NamedTuple):
    """Channels out of the branches of a block; a block with `one` or `pool` 0 lacks that layer.

    Attributes:
      one: of the 1 x 1 convolution.
      reduce, three: of the 1 x 1 before the 3 x 3, and of the 3 x 3.
      double_reduce, double: of the 1 x 1 before the two 3 x 3, and of both of these.
      pool: of the 1 x 1 after the pooling.
    """

    one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    pool: int


BLOCKS = {
    "inception_3a": Widths(64, 64, 64, 64, 96, 32),
    "inception_3b": Widths(64, 64, 96, 64, 96, 64),
    "inception_3c": Widths(0, 128, 160, 64, 96, 0),
    "inception_4a": Widths(224, 64, 96, 96, 128, 128),
    "inception_4b": Widths(192, 96, 128, 96, 128, 128),
    "inception_4c": Widths(160, 128, 160, 128, 160, 128),
    "inception_4d": Widths(96, 128, 192, 160, 192, 128),
    "inception_4e": Widths(0, 128, 192, 192, 256, 0),
    "inception_5a": Widths(352, 192, 320, 160, 224, 128),
    "inception_5b": Widths(352, 192, 320, 192, 224, 128),
}
MAX_POOLED = "inception_5b"  # the other blocks of full resolution average


def max_pool_rounding_up(x: jax.Array) -> jax.Array:
    """Largest of 3 x 3 windows at every second place: (B, h, w, c) -> (B, h // 2, w // 2, c).

    The last window of an even side hangs over the edge by one, where nothing is counted; sides
    are at least 3.
    """
    over = [(0, 1 - side % 2) for side in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=over)


def mean_pool(x: jax.Array) -> jax.Array:
    """Means of 3 x 3 windows at every place of (B, h, w, c), zeros beyond the border counted."""
    return nn.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), ((1, 1), (1, 1))) / 9


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of 3 x 3 windows at every place of (B, h, w, c)."""
    return nn.max_pool(x, (3, 3), padding=((1, 1), (1, 1)))


class InceptionBlock(nn.Module):
    """Branches side by side, concatenated over channels: 1 x 1, 3 x 3, double 3 x 3, pooling.

    Without the 1 x 1 branch the block halves the resolution: its last convolutions take every
    second place, and its input passes through a max pool into the output as it is.

    Attributes:
      widths: channels of the branches.
      max_pooled: whether the pooling of a full-resolution block takes maxima instead of means.
      dtype: of the arithmetic.
    """

    widths: Widths
    max_pooled: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, c) -> (B, h', w', sum of the branches)."""
        width = self.widths
        halves = width.one == 0

        def layer(x: jax.Array, name: str, features: int, size: int, last: bool) -> jax.Array:
            names, stride = (name, f"{name}_bn"), 2 if halves and last else 1
            return conv_norm(
                x, features, size, names, stride=stride, use_bias=True, dtype=self.dtype
            )

        three = layer(x, "3x3_reduce", width.reduce, 1, False)
        three = layer(three, "3x3", width.three, 3, True)
        double = layer(x, "double_3x3_reduce", width.double_reduce, 1, False)
        double = layer(double, "double_3x3_1", width.double, 3, False)
        double = layer(double, "double_3x3_2", width.double, 3, True)
        if halves:
            return jnp.concatenate([three, double, max_pool_rounding_up(x)], axis=-1)
        pooled = max_pool(x) if self.max_pooled else mean_pool(x)
        branches = [
            layer(x, "1x1", width.one, 1, False),
            three,
            double,
            layer(pooled, "pool_proj", width.pool, 1, False),
        ]
        return jnp.concatenate(branches, axis=-1)


class BNInception(nn.Module):
    """BN-Inception in evaluation: images (B, h, w, 3) to features (B, F) float32.

    Attributes:
      n_outputs: width F of the last layer; None leaves it out, F = 1024 pooled channels.
      dtype: of the arithmetic, float32 or bfloat16; parameters stay float32.
    """

    n_outputs: int | None = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Features of preprocessed images: BGR in 0..255 less the means, 224 x 224."""

        def layer(x: jax.Array, name: str, features: int, size: int, stride: int = 1) -> jax.Array:
            names = (name, f"{name}_bn")
            return conv_norm(
                x, features, size, names, stride=stride, use_bias=True, dtype=self.dtype
            )

        x = layer(x.astype(self.dtype), "conv1_7x7_s2", 64, 7, stride=2)
        x = layer(max_pool_rounding_up(x), "conv2_3x3_reduce", 64, 1)
        x = max_pool_rounding_up(layer(x, "conv2_3x3", 192, 3))
        for name, widths in BLOCKS.items():
            x = InceptionBlock(widths, name == MAX_POOLED, self.dtype, name=name)(x)
        return pool_and_project(x, self.n_outputs, self.dtype)
