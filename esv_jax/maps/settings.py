"""Settings of the methods, and their requirements on a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jax import Array

from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.perturbation.regularisers import Core
from esv_jax.relevance.composites import PRESETS


class Network(Protocol):
    """Protocol of models for maps: a `ClipModel`, or any object with logits.

    Where it has `bounds`, the lowest and the highest value of its clips by channel, relevance uses
    them. Grad-CAM also asks for its Linen `module` and `variables`.
    """

    def logits(self, clip: Array) -> Array:
        """Logits (C,) of one clip (t, h, w, c), in JAX."""


@dataclass(frozen=True)
class MapSettings:
    """Settings of all methods; those that a method does not have leave it alone.

    Attributes:
      composite: of everything made by LRP: the name of a preset, see `relevance.preset`. With the
        network's `bounds` the first layer has the z-box rule.
      sigma: of "selective": how many standard deviations a change has to exceed, >= 0.
      layer: of "grad_cam": whose outputs are looked at; by default the last convolution of a
        `ClipModel`.
      integration_steps: of "integrated_gradients": points on the way from zeros.
      noise_samples: of "smooth_grad": noisy clips.
      noise: of "smooth_grad": standard deviation, as a share of what the clip's values span.
      window: of "occlusion": frames, rows and columns covered at once; by default a quarter of
        each, so that every clip has some 7 x 7 x 7 windows.
      stride: of "occlusion": how far windows are apart; by default half a window.
      areas: of "step": shares of the clip that its masks keep.
      iterations: of "step": updates of the masks.
      core: of "step": the shape of the regions that its masks are made of.
      evaluations: of "esv_x_spatial": clips put to the network, at least two for each frame.
    Raises:
      ValueError, TypeError: values out of range, or of another kind.
    """

    composite: str = "epsilon_plus"
    sigma: float = 2.0
    layer: str | None = None
    integration_steps: int = 50
    noise_samples: int = 20
    noise: float = 0.15
    window: tuple[int, int, int] | None = None
    stride: tuple[int, int, int] | None = None
    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    iterations: int = 800
    core: Core = Core()
    evaluations: int = 256

    def __post_init__(self) -> None:
        """Refuse what no method could use."""
        expect_choice("composite", self.composite, PRESETS)
        for name in ("integration_steps", "noise_samples", "iterations", "evaluations"):
            expect_int(name, getattr(self, name), 1)
        for name in ("sigma", "noise"):
            expect(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        for name in ("window", "stride", "areas"):
            value = getattr(self, name)
            is_tuple = value is None or isinstance(value, tuple)
            expect(is_tuple, name, "a tuple", type(value).__name__, kind=TypeError)
        shares = all(0 < area < 1 for area in self.areas) and len(self.areas) > 0
        expect(shares, "areas", "shares between 0 and 1", self.areas)
