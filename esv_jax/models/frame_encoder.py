"""Frame encoders by name: networks that see one frame at a time, with their preprocessing.

A name stands for a builder. It is what files hold in place of code, so that a model can be read
wherever its encoder is registered.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from esv_jax import checks
from esv_jax.data.preprocessing import preprocess
from esv_jax.models import backbones
from esv_jax.models.frame_cnn import build_frame_cnn

Prepare = Callable[[Any], jax.Array]
"""uint8 frames (n, h, w, 3) of any size to what the network takes, (n, ...)."""
Apply = Callable[[Any, jax.Array], jax.Array]
"""Variables and prepared frames to features (n, D)."""
EncoderBuilder = Callable[[Mapping[str, Any]], tuple[Prepare, Apply]]
"""Settings, as JSON holds them, to the two functions of an encoder, compiled where it pays."""

_BATCH = 64  # frames encoded at a time


def _build_backbone_encoder(name: str, settings: Mapping[str, Any]) -> tuple[Prepare, Apply]:
    """A published backbone; `settings["n_outputs"]` is the width of its last layer, or None."""
    module = backbones.build_backbone(name, settings["n_outputs"])
    preprocessing = backbones.BACKBONES[name].preprocessing
    return lambda frames: jax.numpy.asarray(preprocess(frames, preprocessing)), jax.jit(
        module.apply
    )


_BUILDERS: dict[str, EncoderBuilder] = {
    "frame_cnn": build_frame_cnn,
    **{name: functools.partial(_build_backbone_encoder, name) for name in backbones.BACKBONES},
}


def register_frame_encoder(name: str, builder: EncoderBuilder) -> None:
    """Make an encoder known by name, so that models with it can be used, saved and loaded.

    Args:
      name: what files call it, e.g. "resnet50".
      builder: gives the encoder's two functions for some settings.
    Raises:
      ValueError: the name stands for another builder.
    """
    known = _BUILDERS.setdefault(name, builder)
    checks.expect(known is builder, "name", "a name that is not taken", repr(name))


@dataclass(frozen=True, eq=False)
class FrameEncoder:
    """A network that sees one frame at a time.

    Attributes:
      name: under which its builder is registered, e.g. "frame_cnn".
      settings: what the builder needs beside the variables; plain values, as JSON holds them.
      variables: its weights, nested dicts of arrays.
    """

    name: str
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse an encoder that nobody has registered."""
        checks.expect_choice("encoder", self.name, _BUILDERS)

    @property
    def prepare(self) -> Prepare:
        """From uint8 frames of any size to what `apply` takes."""
        return _functions(self.name, json.dumps(dict(self.settings)))[0]

    @property
    def apply(self) -> Apply:
        """From variables and prepared frames to features; differentiable in both."""
        return _functions(self.name, json.dumps(dict(self.settings)))[1]

    def __call__(self, frames: Any) -> np.ndarray:
        """Features of frames, each on its own.

        Args:
          frames: (n, h, w, 3) uint8, n >= 1, of any size.
        Returns:
          (n, D) float32 on the host.
        Cost: 64 frames at a time; the first call for a size of frames compiles.
        """
        frames = np.asarray(frames)
        checks.expect_shape("frames", frames, (None, None, None, 3), "(n, h, w, 3)")
        n = len(frames)
        checks.expect(n >= 1, "frames", "at least one frame", "none")
        batch = min(_BATCH, 1 << (n - 1).bit_length())  # few shapes, so few programs
        parts = []
        for start in range(0, n, batch):
            part = frames[start : start + batch]
            padded = np.pad(part, [(0, batch - len(part)), *[(0, 0)] * 3], mode="edge")
            features = self.apply(self.variables, self.prepare(padded))
            parts.append(np.asarray(features, np.float32)[: len(part)])
        return np.concatenate(parts)


@functools.lru_cache(maxsize=32)
def _functions(name: str, settings: str) -> tuple[Prepare, Apply]:
    return _BUILDERS[name](json.loads(settings))
