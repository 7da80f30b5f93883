"""The layers that both backbones are made of, channels last, as they act in evaluation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5  # of every batch norm, in both published networks


def precision_of(dtype: Any) -> jax.lax.Precision | None:
    """Full products in float32; accelerators shorten them by default. Others as they come."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


class BatchNorm(nn.Module):
    """Batch norm by running averages: (x - mean) / sqrt(var + EPSILON) * scale + bias.

    Computed in float32 whatever comes in, and returned in the dtype that came.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., c) -> (..., c)."""
        width = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width).value
        var = self.variable("batch_stats", "var", jnp.ones, width).value
        gain = scale * jax.lax.rsqrt(var + EPSILON)
        over_places = (1,) * (x.ndim - 1) + width
        gain, shift = gain.reshape(over_places), (bias - mean * gain).reshape(over_places)
        return (x.astype(jnp.float32) * gain + shift).astype(x.dtype)


def conv_norm(
    x: jax.Array,
    features: int,
    size: int,
    names: tuple[str, str],
    *,
    stride: int = 1,
    use_bias: bool = False,
    relu: bool = True,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Convolution, batch norm by running averages and, if asked, ReLU: (B, h, w, c) -> features.

    The kernel is `size` square, and the border is padded by size // 2 zeros on every side.
    Called while a module is set up; the two layers become its children.

    Args:
      names: the layers' names in the public state dicts, convolution and batch norm.
    """
    conv = nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=use_bias,
        dtype=dtype,
        precision=precision_of(dtype),
        name=names[0],
    )
    x = BatchNorm(name=names[1])(conv(x))
    return nn.relu(x) if relu else x


def pool_and_project(x: jax.Array, n_outputs: int | None, dtype: Any) -> jax.Array:
    """Mean over the positions of (B, h, w, c), then the last layer where there is one: float32."""
    # Fused with what comes before, JAX 0.12 makes NaN of this mean in bfloat16 on CPUs.
    x = x if x.dtype == jnp.float32 else jax.lax.optimization_barrier(x)
    x = x.astype(jnp.float32).mean(axis=(1, 2))  # (B, c)
    if n_outputs is None:
        return x
    last = nn.Dense(n_outputs, dtype=dtype, precision=precision_of(dtype), name="last_linear")
    return last(x).astype(jnp.float32)
