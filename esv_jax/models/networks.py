"""Published video networks as Linen modules in evaluation mode, channels last.

    BNInception   backbone of the paper's TRN. Ioffe & Szegedy (2015), figure 5, as in the public
                  PyTorch ports of the Caffe model: convolutions with biases, max pools that round
                  their size up, a max pool in the last block
    ResNet50      backbone of the paper's TSN. He et al. (2015), table 1, as in torchvision: the
                  3 x 3 convolution of a block halves the resolution, not the first
    C3D           Tran et al. (2015), Learning Spatiotemporal Features with 3D Convolutional
                  Networks, figure 3
    R2Plus1D18    Tran et al. (2018), A Closer Look at Spatiotemporal Convolutions, as
                  in torchvision

Children are named as in the public state dicts, with "_" for "." (see `state_dicts.torch_name`).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

_EPSILON = 1e-5  # of every batch norm


class BatchNorm(nn.Module):
    """Batch norm by running averages: (x - mean) / sqrt(var + 1e-5) * scale + bias.

    Computed in float32 and returned in the dtype of the input.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., c) -> (..., c)."""
        width = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width).value
        var = self.variable("batch_stats", "var", jnp.ones, width).value
        gain = scale * jax.lax.rsqrt(var + _EPSILON)
        shape = (1,) * (x.ndim - 1) + width
        gain, shift = gain.reshape(shape), (bias - mean * gain).reshape(shape)
        return (x.astype(jnp.float32) * gain + shift).astype(x.dtype)


def _precision(dtype: DTypeLike) -> jax.lax.Precision | None:
    """Full products in float32, which accelerators shorten by default."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


class _Network(nn.Module, kw_only=True):  # type: ignore[call-arg]
    """A module whose arithmetic has a dtype, float32 or bfloat16; parameters stay float32."""

    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def conv_norm(
        self,
        x: Array,
        features: int,
        kernel: tuple[int, ...],
        names: tuple[str, str],
        strides: int | tuple[int, ...] = 1,
        use_bias: bool = False,
        relu: bool = True,
    ) -> Array:
        """Convolution, batch norm and, if requested, ReLU: (B, ..., c) -> (B, ..., features).

        Padded with size // 2 zeros on every side, so that only strides change the size. `names`
        are those of the two children.
        """
        conv = nn.Conv(
            features,
            kernel,
            strides=strides,
            padding=[(size // 2, size // 2) for size in kernel],
            use_bias=use_bias,
            dtype=self.dtype,
            precision=_precision(self.dtype),
            name=names[0],
        )
        x = BatchNorm(name=names[1])(conv(x))
        return nn.relu(x) if relu else x

    @nn.nowrap
    def dense(self, x: Array, width: int, name: str) -> Array:
        """A linear layer."""
        return nn.Dense(width, dtype=self.dtype, precision=_precision(self.dtype), name=name)(x)


class _Backbone(_Network):
    """A network from images to features.

    Attributes:
      n_outputs: width F of the last layer; None leaves it out: F is that of the pooled channels.
    """

    n_outputs: int | None = 256

    @nn.nowrap
    def pool_and_project(self, x: Array) -> Array:
        """Mean over the positions of (B, h, w, c), then the last layer if there is one: float32."""
        # Fused with its producer, JAX 0.12 makes NaN of this mean in bfloat16 on CPUs.
        x = x if x.dtype == jnp.float32 else jax.lax.optimization_barrier(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2))  # (B, c)
        if self.n_outputs is None:
            return x
        return self.dense(x, self.n_outputs, "last_linear").astype(jnp.float32)


# BN-Inception


class Widths(NamedTuple):
    """Output channels of a block's branches; a block with `one` or `pool` 0 lacks that layer.

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


_BLOCKS = {
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
_MAX_POOLED = "inception_5b"  # the other blocks of full resolution average


def _halving_max_pool(x: Array) -> Array:
    """Maxima of 3 x 3 windows with stride 2: (B, h, w, c) -> (B, h // 2, w // 2, c).

    The last window of an even side extends beyond the edge by one row; sides are at least 3.
    """
    over = [(0, 1 - side % 2) for side in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=over)


class _Inception(_Network):
    @nn.nowrap
    def layer(self, x: Array, name: str, features: int, size: int, stride: int = 1) -> Array:
        """A convolution with bias and its batch norm."""
        return self.conv_norm(x, features, (size, size), (name, f"{name}_bn"), stride, True)


class InceptionBlock(_Inception):
    """Branches side by side, concatenated over channels: 1 x 1, 3 x 3, double 3 x 3, pooling.

    Without the 1 x 1 branch the block halves the resolution: its last convolutions have stride 2,
    and its pooling branch is a max pool of the input.

    Attributes:
      widths: channels of the branches.
      max_pooled: whether the pooling of a full-resolution block takes maxima instead of means.
    """

    widths: Widths
    max_pooled: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, c) -> (B, h', w', sum of the branches)."""
        width, layer = self.widths, self.layer
        halves = width.one == 0
        stride = 2 if halves else 1
        three = layer(x, "3x3_reduce", width.reduce, 1)
        three = layer(three, "3x3", width.three, 3, stride)
        double = layer(x, "double_3x3_reduce", width.double_reduce, 1)
        double = layer(double, "double_3x3_1", width.double, 3)
        double = layer(double, "double_3x3_2", width.double, 3, stride)
        if halves:
            return jnp.concatenate([three, double, _halving_max_pool(x)], axis=-1)
        border = ((1, 1), (1, 1))
        if self.max_pooled:
            pooled = nn.max_pool(x, (3, 3), padding=border)
        else:  # zeros beyond the border are counted
            pooled = nn.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), border) / 9
        one, pooled = layer(x, "1x1", width.one, 1), layer(pooled, "pool_proj", width.pool, 1)
        return jnp.concatenate([one, three, double, pooled], axis=-1)


class BNInception(_Backbone, _Inception):
    """BN-Inception: images (B, h, w, 3) to features (B, F) float32; 1024 pooled channels."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Features of preprocessed images: BGR in 0..255 minus the means, 224 x 224."""
        x = self.layer(x.astype(self.dtype), "conv1_7x7_s2", 64, 7, stride=2)
        x = self.layer(_halving_max_pool(x), "conv2_3x3_reduce", 64, 1)
        x = _halving_max_pool(self.layer(x, "conv2_3x3", 192, 3))
        for name, widths in _BLOCKS.items():
            x = InceptionBlock(widths, name == _MAX_POOLED, dtype=self.dtype, name=name)(x)
        return self.pool_and_project(x)


# ResNet-50


class Bottleneck(_Network):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut, summed.

    Attributes:
      width: channels in between; the output has four times as many.
      stride: of the 3 x 3 convolution and of the shortcut.
      projects: whether the shortcut is a 1 x 1 convolution instead of the input itself.
    """

    width: int
    stride: int = 1
    projects: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, c) -> (B, h / stride, w / stride, 4 width)."""
        out, stride = 4 * self.width, self.stride
        y = self.conv_norm(x, self.width, (1, 1), ("conv1", "bn1"))
        y = self.conv_norm(y, self.width, (3, 3), ("conv2", "bn2"), stride)
        y = self.conv_norm(y, out, (1, 1), ("conv3", "bn3"), relu=False)
        if self.projects:
            names = ("downsample_0", "downsample_1")
            x = self.conv_norm(x, out, (1, 1), names, stride, relu=False)
        return nn.relu(x + y)


class ResNet50(_Backbone):
    """ResNet-50: images (B, h, w, 3) to features (B, F) float32; 2048 pooled channels."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Features of preprocessed images: standardised RGB, 224 x 224."""
        x = self.conv_norm(x.astype(self.dtype), 64, (7, 7), ("conv1", "bn1"), 2)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, n_blocks in enumerate((3, 4, 6, 3)):
            for i in range(n_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = Bottleneck(64 * 2**stage, stride, i == 0, dtype=self.dtype, name=name)(x)
        return self.pool_and_project(x)


# C3D

_C3D_STAGES = (
    (("conv1", 64),),
    (("conv2", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)


class C3D(_Network):
    """C3D: clips (B, 16, 112, 112, 3) to logits (B, C); dropout is off.

    The first dense layer fixes the size of the clip: its 512 x 1 x 4 x 4 inputs come from 16 frames
    of 112 x 112.

    Attributes:
      n_classes: C, 487 of Sports-1M, 101 of UCF-101.
    """

    n_classes: int

    @nn.compact
    def __call__(self, clips: Array) -> Array:
        """Logits of preprocessed clips."""
        x, how = clips.astype(self.dtype), {"precision": _precision(self.dtype)}
        for stage, convolutions in enumerate(_C3D_STAGES):
            for name, width in convolutions:
                conv = nn.Conv(width, (3, 3, 3), padding=1, name=name, dtype=self.dtype, **how)
                x = nn.relu(conv(x))
            window = (1 if stage == 0 else 2, 2, 2)
            edge = (1, 1) if stage == 4 else (0, 0)  # 7 x 7 positions become 4 x 4
            x = nn.max_pool(x, window, strides=window, padding=((0, 0), edge, edge))
        x = x.transpose(0, 4, 1, 2, 3).reshape(x.shape[0], -1)  # weights have channels first
        x = nn.relu(self.dense(x, 4096, "fc6"))
        x = nn.relu(self.dense(x, 4096, "fc7"))
        return self.dense(x, self.n_classes, "fc8").astype(jnp.float32)


# R(2+1)D-18


def factored_width(inputs: int, outputs: int) -> int:
    """Channels between the two convolutions that have as many weights as one of 3 x 3 x 3."""
    return inputs * outputs * 27 // (inputs * 9 + 3 * outputs)


class FactoredBlock(_Network):
    """Two convolutions, each factored into space and time, beside a shortcut, summed.

    Attributes:
      width: output channels.
      stride: of the first convolutions in space and in time.
    """

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, t, h, w, c) -> (B, t / stride, h / stride, w / stride, width)."""
        inputs, out = x.shape[-1], self.width
        between = factored_width(inputs, out)
        y = x
        for conv, s in (("conv1", self.stride), ("conv2", 1)):
            names = (f"{conv}_0_0", f"{conv}_0_1")
            y = self.conv_norm(y, between, (1, 3, 3), names, (1, s, s))
            names = (f"{conv}_0_3", f"{conv}_1")
            y = self.conv_norm(y, out, (3, 1, 1), names, (s, 1, 1), relu=conv == "conv1")
        if self.stride > 1 or inputs != out:
            names = ("downsample_0", "downsample_1")
            x = self.conv_norm(x, out, (1, 1, 1), names, (self.stride,) * 3, relu=False)
        return nn.relu(x + y)


class R2Plus1D18(_Network):
    """R(2+1)D-18: clips (B, t, h, w, 3) to logits (B, C).

    Total strides are 8 in time and 16 in space; clips may have any size.

    Attributes:
      n_classes: C, 400 of Kinetics.
    """

    n_classes: int

    @nn.compact
    def __call__(self, clips: Array) -> Array:
        """Logits of preprocessed clips."""
        x = clips.astype(self.dtype)
        x = self.conv_norm(x, 45, (1, 7, 7), ("stem_0", "stem_1"), (1, 2, 2))
        x = self.conv_norm(x, 64, (3, 1, 1), ("stem_3", "stem_4"))
        for stage, width in enumerate((64, 128, 256, 512)):
            for i in range(2):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = FactoredBlock(width, stride, dtype=self.dtype, name=name)(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2, 3))
        return self.dense(x, self.n_classes, "fc").astype(jnp.float32)
