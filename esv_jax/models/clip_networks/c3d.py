"""C3D: eight convolutions of 3 x 3 x 3, five poolings, three dense layers.

Source: Tran et al. (2015), Learning Spatiotemporal Features with 3D Convolutional Networks,
figure 3. Layers are named as in the usual PyTorch state dicts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esv_jax.models.backbones.layers import precision_of

_STAGES = (
    (("conv1", 64),),
    (("conv2", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)


class C3D(nn.Module):
    """C3D in evaluation: clips (B, 16, 112, 112, 3) to logits (B, C); dropout is off.

    The first dense layer fixes the size of the clip: 512 x 1 x 4 x 4 numbers go in, from 16 frames
    of 112 x 112.

    Attributes:
      n_classes: C, 487 of Sports-1M, 101 of UCF-101.
      dtype: of the arithmetic; parameters are float32.
    """

    n_classes: int = 487
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """Logits of preprocessed clips."""
        kind = {"dtype": self.dtype, "precision": precision_of(self.dtype)}
        x = clips.astype(self.dtype)
        for stage, convolutions in enumerate(_STAGES):
            for name, width in convolutions:
                x = nn.relu(nn.Conv(width, (3, 3, 3), padding=1, name=name, **kind)(x))
            window = (1 if stage == 0 else 2, 2, 2)
            edge = (0, 1) if stage == 4 else (0, 0)  # 7 x 7 places come to 4 x 4
            border = ((0, 0), (edge[1], edge[1]), (edge[1], edge[1]))
            x = nn.max_pool(x, window, strides=window, padding=border)
        x = x.transpose(0, 4, 1, 2, 3).reshape(x.shape[0], -1)  # channels first, as weights have it
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(4096, name=name, **kind)(x))
        return nn.Dense(self.n_classes, name="fc8", **kind)(x).astype(jnp.float32)
