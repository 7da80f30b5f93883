"""Linen modules that train the heads of every scale at once, or an average-consensus head.

`MultiScaleHeads` lifts one head module over the scale axis with `nn.vmap`, so that a single pass
trains all scales. After training, `fold` returns a plain record (`HeadStack`, `TsnHead`) with
batch norm and standardisation folded into its linear layers.
"""

from __future__ import annotations

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from esv_jax.models.heads import HeadStack, HiddenLayer, TsnHead
from esv_jax.models.tensor_files import Variables


class BatchNorm(nn.Module):
    """Batch norm over the rows that exist; a batch without any leaves the averages unchanged.

    With B rows x (B, H): `gain * (x - mean) / sqrt(var + epsilon) + shift`, the moments taken
    from the batch in training and from running averages otherwise.
    Source: Ioffe & Szegedy (2015).
    """

    train: bool
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, present: Array) -> Array:
        """Normalise x (B, H), counting only the rows with `present` (B,) True."""
        width = (x.shape[-1],)
        gain = self.param("gain", nn.initializers.ones, width, x.dtype)
        shift = self.param("shift", nn.initializers.zeros, width, x.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width, x.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, width, x.dtype)
        mean, var = running_mean.value, running_var.value
        if self.train:
            count = jnp.maximum(present.sum(), 1).astype(x.dtype)
            rows = present[:, None]
            mean = jnp.where(rows, x, 0).sum(axis=0) / count
            var = jnp.where(rows, jnp.square(x - mean[None]), 0).sum(axis=0) / count
            if not self.is_initializing():
                kept = jnp.where(present.any(), self.momentum, 1.0).astype(x.dtype)
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
    def __call__(self, scale: Array, elements: Array, mask: Array) -> Array:
        """Logits (B, C) of B subsequences (B, n_max, D) of `scale` elements each."""
        n_rows, n_max, feature_dim = elements.shape
        dtype = elements.dtype

        def first_layer(key: Array) -> Array:
            # The fan-in is that of this scale, not of the padded width.
            gain = jnp.sqrt(2 / (scale * feature_dim).astype(dtype))
            w1 = gain * jax.random.normal(key, (n_max, feature_dim, self.hidden_dim), dtype)
            return jnp.where((jnp.arange(n_max) < scale)[:, None, None], w1, 0)

        zeros = nn.initializers.zeros
        present = mask.any(axis=-1)  # (B,)
        x = nn.relu(elements) if self.input_relu else elements
        x = jnp.where(mask[:, :, None], x, 0).reshape(n_rows, n_max * feature_dim)
        w1 = self.param("w1", first_layer)
        h = x @ w1.reshape(n_max * feature_dim, self.hidden_dim)
        h = h + self.param("b1", zeros, (self.hidden_dim,), dtype)[None]
        h = self._activate(0, h, present)
        for i in range(1, self.n_hidden_layers):
            shape = (self.hidden_dim, self.hidden_dim)
            h = h @ self.param(f"w_hidden_{i}", nn.initializers.he_normal(), shape, dtype)
            h = h + self.param(f"b_hidden_{i}", zeros, (self.hidden_dim,), dtype)[None]
            h = self._activate(i, h, present)
        shape = (self.hidden_dim, self.n_classes)
        w2 = self.param("w2", nn.initializers.lecun_normal(), shape, dtype)
        return h @ w2 + self.param("b2", zeros, (self.n_classes,), dtype)[None]

    def _activate(self, i: int, h: Array, present: Array) -> Array:
        if self.batch_norm:
            h = BatchNorm(train=self.train, name=f"norm_{i}")(h, present)
        return nn.Dropout(self.dropout, deterministic=not self.train)(nn.relu(h))


_SHARED = ("hidden_dim", "n_classes", "n_hidden_layers", "input_relu", "dropout", "batch_norm")


class MultiScaleHeads(nn.Module):
    """Heads of scales 1..n_max; every parameter has a leading scale axis.

    Attributes:
      n_max: largest scale that has its own head.
      hidden_dim: hidden width H.
      n_classes: classes C.
      n_hidden_layers: hidden layers of each head, at least 1.
      input_relu: whether features pass a ReLU before the first layer.
      dropout: probability of dropping a hidden activation in training.
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
    def __call__(self, elements: Array, mask: Array, *, train: bool = False) -> Array:
        """Logits of B subsequences of every scale.

        Args:
          elements: (n_max, B, n_max, D). `elements[s - 1, b]` is a subsequence of s elements in
            temporal order, then padding.
          mask: (n_max, B, n_max) bool, False for padding. A row without any True is a
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
        settings = {name: getattr(self, name) for name in _SHARED}
        head = lifted(**settings, train=train, name="heads")
        return head(jnp.arange(1, self.n_max + 1), elements, mask)

    @nn.nowrap
    def sizes(self, length: Array) -> Array:
        """Elements of the subsequence each head is trained on, (n_max,); 0 where s > length."""
        scales = jnp.arange(1, self.n_max + 1)
        return jnp.where(scales <= length, scales, 0)

    @nn.nowrap
    def fold(
        self, variables: Variables, mean: ArrayLike | None = None, std: ArrayLike | None = None
    ) -> HeadStack:
        """The heads as plain linear layers.

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
            w1 = w1 / jnp.asarray(std)[None, None, :, None]
            b1 = b1 - jnp.einsum("spdh,d->sh", w1, mean, precision="highest")
        hidden = []
        for i in range(1, self.n_hidden_layers):
            w, b = params[f"w_hidden_{i}"], params[f"b_hidden_{i}"]
            hidden.append(HiddenLayer(*self._fold_norm(i, w, b, params, stats)))
        return HeadStack(w1, b1, tuple(hidden), params["w2"], params["b2"], self.input_relu)

    @nn.nowrap
    def _fold_norm(
        self, i: int, w: Array, b: Array, params: Variables, stats: Variables
    ) -> tuple[Array, Array]:
        """Weights w (n_max, .., H) and bias b (n_max, H) followed by batch norm i, as one layer."""
        if not self.batch_norm:
            return w, b
        norm, moments = params[f"norm_{i}"], stats[f"norm_{i}"]
        gain = norm["gain"] * jax.lax.rsqrt(moments["var"] + BatchNorm.epsilon)  # (n_max, H)
        spread = jnp.expand_dims(gain, tuple(range(1, w.ndim - 1)))
        return w * spread, (b - moments["mean"]) * gain + norm["shift"]


class Tsn(nn.Module):
    """The trainable average-consensus head, called like `MultiScaleHeads` with one "scale".

    Attributes:
      n_classes: classes C.
      n_max: elements drawn from each sequence for a training step (fewer where it has fewer).
      input_relu: whether features pass a ReLU before the layer.
      dropout: probability of dropping a feature in training.
    """

    n_classes: int
    n_max: int = 8
    input_relu: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, elements: Array, mask: Array, *, train: bool = False) -> Array:
        """Logits (1, B, C) of subsequences (1, B, p, D) with the mask (1, B, p), False for padding.

        With `train` features are dropped, by the rng "dropout" where dropout > 0.
        """
        dtype = elements.dtype
        shape = (elements.shape[-1], self.n_classes)
        w = self.param("w", nn.initializers.lecun_normal(), shape, dtype)
        b = self.param("b", nn.initializers.zeros, (self.n_classes,), dtype)
        x = nn.relu(elements) if self.input_relu else elements
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = x @ w + b[None, None, None]  # (1, B, p, C)
        count = jnp.maximum(mask.sum(axis=-1), 1).astype(dtype)
        return jnp.where(mask[..., None], logits, 0).sum(axis=2) / count[..., None]

    @nn.nowrap
    def sizes(self, length: Array) -> Array:
        """Elements of the subsequence the head is trained on, (1,)."""
        return jnp.minimum(length, self.n_max)[None]

    @nn.nowrap
    def fold(
        self, variables: Variables, mean: ArrayLike | None = None, std: ArrayLike | None = None
    ) -> TsnHead:
        """The head as a plain record on raw features; arguments as of `MultiScaleHeads.fold`."""
        w, b = variables["params"]["w"], variables["params"]["b"]
        if mean is not None and std is not None:
            if self.input_relu:
                raise ValueError("mean, std: cannot be folded through input_relu.")
            w = w / jnp.asarray(std)[:, None]
            b = b - jnp.matmul(jnp.asarray(mean), w, precision="highest")
        return TsnHead(w=w, b=b, input_relu=self.input_relu)


TrainableHeads: TypeAlias = MultiScaleHeads | Tsn
