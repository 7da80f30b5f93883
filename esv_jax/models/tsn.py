"""Average consensus: one linear layer per element, averaged over the elements that are there.

    f(X) = mean over x in X of (x @ w + b)

Source: Wang et al. (2016), TSN; on features, with an optional ReLU first, as Price & Damen
(2020) explain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct


class TsnHead(struct.PyTreeNode):
    """An average-consensus model on features.

    Attributes:
      w: (D, C).
      b: (C,).
      input_relu: whether features pass a ReLU before the layer.
    """

    w: jax.Array
    b: jax.Array
    input_relu: bool = struct.field(pytree_node=False, default=False)

    @property
    def feature_dim(self) -> int:
        """Feature width D."""
        return self.w.shape[0]

    @property
    def n_classes(self) -> int:
        """Classes C."""
        return self.w.shape[1]


def tsn_logits(head: TsnHead, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Logits of one sequence, the mean over its elements.

    Args:
      head: the model.
      x: (n, D).
      mask: (n,) bool, True where an element is there; at least one is.
    Returns:
      (C,).
    """
    x = jnp.where(mask[:, None], x, 0)
    x = jax.nn.relu(x) if head.input_relu else x
    mean = x.sum(axis=0) / jnp.maximum(mask.sum(), 1).astype(x.dtype)  # linear: average first
    return jnp.matmul(mean, head.w, precision="highest") + head.b


class Tsn(nn.Module):
    """The trainable average-consensus head, called like `MultiScaleHeads` with one "scale".

    Attributes:
      n_classes: classes C.
      n_max: elements drawn from each sequence for a training step (fewer where it has fewer).
      input_relu: whether features pass a ReLU before the layer.
      dropout: chance that a feature is dropped in training.
    """

    n_classes: int
    n_max: int = 8
    input_relu: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, elements: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of B padded subsequences.

        Args:
          elements: (1, B, p, D), elements, then padding.
          mask: (1, B, p) bool, True where an element is there.
          train: drop features; needs the rng "dropout" where dropout > 0.
        Returns:
          (1, B, C).
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
    def sizes(self, length: jax.Array) -> jax.Array:
        """Elements of the subsequence the head is trained on, (1,)."""
        return jnp.minimum(length, self.n_max)[None]

    @nn.nowrap
    def fold(
        self,
        variables: Mapping[str, Any],
        mean: jax.Array | None = None,
        std: jax.Array | None = None,
    ) -> TsnHead:
        """The head as a plain record that takes raw features.

        Args:
          variables: "params".
          mean: (D,), what was taken from the features before training.
          std: (D,), what they were then divided by. Given together with `mean`, and only
            without `input_relu`: the ReLU stands between the two and the layer.
        """
        w, b = variables["params"]["w"], variables["params"]["b"]
        if mean is not None and std is not None:
            if self.input_relu:
                raise ValueError("mean, std: cannot be folded through input_relu.")
            w = w / std[:, None]
            b = b - jnp.matmul(mean, w, precision="highest")
        return TsnHead(w=w, b=b, input_relu=self.input_relu)
