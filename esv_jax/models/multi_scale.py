"""Trainable heads of every scale: a Linen module over the stacked parameters.

One head module is lifted over the scale axis with `nn.vmap`, so a single forward pass evaluates,
and a single backward pass trains, the heads of all scales. What comes out of training is a
`HeadStack` with batch norm and standardisation folded in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax.models.heads import HeadStack, HiddenLayer


class BatchNorm(nn.Module):
    """Batch norm over the rows that are there; a batch without any leaves the averages alone.

    With B rows x (B, H): `gain * (x - mean) / sqrt(var + epsilon) + shift`, the moments taken
    from the batch in training and from running averages otherwise.
    Source: Ioffe & Szegedy (2015).
    """

    train: bool
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array) -> jax.Array:
        """Normalise x (B, H), counting only the rows with `there` (B,) True."""
        width = (x.shape[-1],)
        gain = self.param("gain", nn.initializers.ones, width, x.dtype)
        shift = self.param("shift", nn.initializers.zeros, width, x.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width, x.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, width, x.dtype)
        mean, var = running_mean.value, running_var.value
        if self.train:
            count = jnp.maximum(there.sum(), 1).astype(x.dtype)
            rows = there[:, None]
            mean = jnp.where(rows, x, 0).sum(axis=0) / count
            var = jnp.where(rows, jnp.square(x - mean[None]), 0).sum(axis=0) / count
            if not self.is_initializing():
                kept = jnp.where(there.any(), self.momentum, 1.0).astype(x.dtype)
                running_mean.value = kept * running_mean.value + (1 - kept) * mean
                running_var.value = kept * running_var.value + (1 - kept) * var
        return (x - mean[None]) * (gain * jax.lax.rsqrt(var + self.epsilon))[None] + shift[None]


class ScaleHead(nn.Module):
    """The head of one scale on padded subsequences; `MultiScaleHeads` lifts it over scales."""

    hidden_dim: int
    n_classes: int
    n_hidden_layers: int
    input_relu: bool
    dropout: float
    batch_norm: bool
    train: bool

    @nn.compact
    def __call__(self, scale: jax.Array, elements: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits (B, C) of B subsequences (B, n_max, D) of `scale` elements each."""
        n_rows, n_max, feature_dim = elements.shape
        dtype = elements.dtype

        def first_layer(key: jax.Array) -> jax.Array:
            # The fan-in is what this scale sees, not the padded width.
            gain = jnp.sqrt(2 / (scale * feature_dim).astype(dtype))
            w1 = gain * jax.random.normal(key, (n_max, feature_dim, self.hidden_dim), dtype)
            return jnp.where((jnp.arange(n_max) < scale)[:, None, None], w1, 0)

        zeros = nn.initializers.zeros
        there = mask.any(axis=-1)  # (B,)
        x = nn.relu(elements) if self.input_relu else elements
        x = jnp.where(mask[:, :, None], x, 0).reshape(n_rows, n_max * feature_dim)
        w1 = self.param("w1", first_layer)
        h = x @ w1.reshape(n_max * feature_dim, self.hidden_dim)
        h = h + self.param("b1", zeros, (self.hidden_dim,), dtype)[None]
        h = self._activate(0, h, there)
        for i in range(1, self.n_hidden_layers):
            shape = (self.hidden_dim, self.hidden_dim)
            h = h @ self.param(f"w_hidden_{i}", nn.initializers.he_normal(), shape, dtype)
            h = h + self.param(f"b_hidden_{i}", zeros, (self.hidden_dim,), dtype)[None]
            h = self._activate(i, h, there)
        shape = (self.hidden_dim, self.n_classes)
        w2 = self.param("w2", nn.initializers.lecun_normal(), shape, dtype)
        return h @ w2 + self.param("b2", zeros, (self.n_classes,), dtype)[None]

    def _activate(self, i: int, h: jax.Array, there: jax.Array) -> jax.Array:
        if self.batch_norm:
            h = BatchNorm(train=self.train, name=f"norm_{i}")(h, there)
        return nn.Dropout(self.dropout, deterministic=not self.train)(nn.relu(h))


class MultiScaleHeads(nn.Module):
    """Heads of scales 1..n_max; every parameter has a leading scale axis.

    Attributes:
      n_max: largest scale that has its own head.
      hidden_dim: hidden width H.
      n_classes: classes C.
      n_hidden_layers: hidden layers of each head, at least 1.
      input_relu: whether features pass a ReLU before the first layer.
      dropout: chance that a hidden activation is dropped in training.
      batch_norm: whether each hidden layer is normalised before its ReLU.
    """

    n_max: int
    hidden_dim: int
    n_classes: int
    n_hidden_layers: int = 1
    input_relu: bool = False
    dropout: float = 0.0
    batch_norm: bool = False

    @nn.compact
    def __call__(self, elements: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of B subsequences of every scale.

        Args:
          elements: (n_max, B, n_max, D). `elements[s - 1, b]` is a subsequence of s elements in
            temporal order, then padding.
          mask: (n_max, B, n_max) bool, True where an element is there. A row without any is a
            subsequence that does not exist: batch norm leaves it out.
          train: drop and normalise as in training; needs the rng "dropout" where dropout > 0.
        Returns:
          (n_max, B, C).
        """
        lifted = nn.vmap(
            ScaleHead,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            axis_size=self.n_max,
        )
        head = lifted(
            hidden_dim=self.hidden_dim,
            n_classes=self.n_classes,
            n_hidden_layers=self.n_hidden_layers,
            input_relu=self.input_relu,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            train=train,
            name="heads",
        )
        return head(jnp.arange(1, self.n_max + 1), elements, mask)

    @nn.nowrap
    def sizes(self, length: jax.Array) -> jax.Array:
        """Elements of the subsequence each head is trained on, (n_max,); 0 where s > length."""
        scales = jnp.arange(1, self.n_max + 1)
        return jnp.where(scales <= length, scales, 0)

    @nn.nowrap
    def fold(
        self,
        variables: Mapping[str, Any],
        mean: jax.Array | None = None,
        std: jax.Array | None = None,
    ) -> HeadStack:
        """The heads as plain linear layers, ready to be explained.

        Args:
          variables: "params", and "batch_stats" with batch norm.
          mean: (D,), what was taken from the features before training.
          std: (D,), what they were then divided by. Given together with `mean`, and only
            without `input_relu`: the ReLU stands between the two and the first layer.
        Returns:
          A stack whose logits on raw features are those of this module, train=False, on
          standardised ones.
        """
        params = variables["params"]["heads"]
        stats = variables.get("batch_stats", {}).get("heads", {})
        w1, b1 = self._fold_norm(0, params["w1"], params["b1"], params, stats)
        if mean is not None and std is not None:
            if self.input_relu:
                raise ValueError("mean, std: cannot be folded through input_relu.")
            w1 = w1 / std[None, None, :, None]
            b1 = b1 - jnp.einsum("spdh,d->sh", w1, mean, precision="highest")
        hidden = []
        for i in range(1, self.n_hidden_layers):
            w, b = params[f"w_hidden_{i}"], params[f"b_hidden_{i}"]
            hidden.append(HiddenLayer(*self._fold_norm(i, w, b, params, stats)))
        return HeadStack(
            w1=w1,
            b1=b1,
            hidden=tuple(hidden),
            w2=params["w2"],
            b2=params["b2"],
            input_relu=self.input_relu,
        )

    @nn.nowrap
    def _fold_norm(
        self, i: int, w: jax.Array, b: jax.Array, params: Mapping[str, Any], stats: Mapping
    ) -> tuple[jax.Array, jax.Array]:
        """Weights w (n_max, .., H) and bias b (n_max, H) followed by batch norm i, as one layer."""
        if not self.batch_norm:
            return w, b
        norm, moments = params[f"norm_{i}"], stats[f"norm_{i}"]
        gain = norm["gain"] * jax.lax.rsqrt(moments["var"] + BatchNorm.epsilon)  # (n_max, H)
        spread = jnp.expand_dims(gain, tuple(range(1, w.ndim - 1)))
        return w * spread, (b - moments["mean"]) * gain + norm["shift"]
