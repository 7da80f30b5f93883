"""A small 3D network that sees a whole clip at once: convolutions over space and time, and ReLUs.

    clip (t, 64, 64, 3) in 0..1 -> four convolutions with ReLU, each with strides in place of
    pooling -> one linear layer over all places -> (C,)

Nothing is normalised and places are kept apart to the end, as in `FrameCNN`.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from esv_jax.checks import expect

KERNELS = ((3, 5, 5), (3, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 4, 4), (2, 2, 2), (2, 1, 1), (2, 2, 2))


class ClipCNN(nn.Module):
    """Logits of clips.

    The linear layer fixes the size of the clip, to what the network was initialised with.

    Attributes:
      n_classes: C.
      widths: channels after each of the four convolutions.
    """

    n_classes: int
    widths: tuple[int, int, int, int] = (32, 64, 64, 96)

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """Logits of B clips.

        Args:
          clips: (B, t, h, w, 3), floating point, 0..1.
        Returns:
          (B, C).
        Raises:
          ValueError: another shape.
        """
        fits = clips.ndim == 5 and clips.shape[-1] == 3
        expect(fits, "clips", "shape (B, t, h, w, 3)", clips.shape)
        x = clips
        init = nn.initializers.he_normal()
        for i, width in enumerate(self.widths):
            kernel, strides = KERNELS[i], STRIDES[i]
            x = nn.relu(nn.Conv(width, kernel, strides, kernel_init=init, name=f"conv_{i}")(x))
        return nn.Dense(self.n_classes, name="dense")(x.reshape(x.shape[0], -1))
