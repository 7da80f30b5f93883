"""ResNet-50, the backbone of the paper's TSN.

Source: He et al. (2015), table 1, as torchvision has it: a block halves the resolution in its
3 x 3 convolution, not in its first. Layers are named as in that state dict, `layer1.0.conv1` being
the child `conv1` of the child `layer1_0`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax.models.backbones.layers import conv_norm, pool_and_project

STAGES = (3, 4, 6, 3)  # bottlenecks of each resolution


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a short cut, summed.

    Attributes:
      width: channels in between; four times as many come out.
      stride: of the 3 x 3 convolution and of the short cut.
      projects: whether the short cut is a 1 x 1 convolution instead of the input itself.
      dtype: of the arithmetic.
    """

    width: int
    stride: int = 1
    projects: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, c) -> (B, h / stride, w / stride, 4 width)."""
        kind = {"dtype": self.dtype}
        out = 4 * self.width
        y = conv_norm(x, self.width, 1, ("conv1", "bn1"), **kind)
        y = conv_norm(y, self.width, 3, ("conv2", "bn2"), stride=self.stride, **kind)
        y = conv_norm(y, out, 1, ("conv3", "bn3"), relu=False, **kind)
        if self.projects:
            names = ("downsample_0", "downsample_1")
            x = conv_norm(x, out, 1, names, stride=self.stride, relu=False, **kind)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50 in evaluation: images (B, h, w, 3) to features (B, F) float32.

    Attributes:
      n_outputs: width F of the last layer; None leaves it out, F = 2048 pooled channels.
      dtype: of the arithmetic, float32 or bfloat16; parameters stay float32.
    """

    n_outputs: int | None = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Features of preprocessed images: standardised RGB, 224 x 224."""
        x = x.astype(self.dtype)
        x = conv_norm(x, 64, 7, ("conv1", "bn1"), stride=2, dtype=self.dtype)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, n_blocks in enumerate(STAGES):
            for i in range(n_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = Bottleneck(64 * 2**stage, stride, i == 0, self.dtype, name=name)(x)
        return pool_and_project(x, self.n_outputs, self.dtype)
