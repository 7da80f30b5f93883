"""Trains the small 3D network that comes with the package on synthetic videos.

A `ClipCNN` sees 16 frames of a clip at once. Every step renders fresh clips and takes one frame of
each of 16 equal segments. No clip is used twice, and held-out clips come from another key.

Claim: on held-out clips its accuracy from the 16 frames at segment centres is at least 95 %. The
clips have lengths 20, 32 and 57, of which only 32 occurs in training.

    python -m experiments.synthetic_clips
    python -m experiments.synthetic_clips --install   # also replaces the model in the package
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esv_jax as ej
from esv_jax.models.clip_model import STRIDES, ClipCNN, ClipModel, clip_model_digest
from experiments.synthetic_training import (
    Study,
    TrainSettings,
    accuracies,
    clips_to_train_on,
    held_out_clips,
    optimise,
    run_command,
)

N = 16  # frames taken of every clip


@dataclasses.dataclass(frozen=True)
class Settings(TrainSettings):
    """Settings of one run; they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_clips")
    """Folder for the results; files of an earlier run are replaced."""
    widths: tuple[int, int, int, int] = (32, 64, 64, 96)
    """Channels after each convolution."""


def train(settings: Settings) -> tuple[ClipModel, list[float]]:
    """The trained model, and the mean loss of each tenth of the training."""
    names = ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    network = ClipCNN(n_classes=len(names), widths=settings.widths)
    params = network.init(jax.random.key(settings.seed), jnp.zeros((1, N, 64, 64, 3)))

    def loss(params: Any, clips: jax.Array, labels: jax.Array) -> jax.Array:
        logits = logits_by_patches(params, clips.astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    batches = clips_to_train_on(settings.n_steps, settings.batch_size, settings.seed, N)
    params, tenths = optimise(loss, params, batches, settings)
    known = {"n_classes": len(names), "widths": list(settings.widths)}
    return ClipModel("clip_cnn", known, params, names, N), tenths


def logits_by_patches(params: Any, clips: jax.Array) -> jax.Array:
    """Logits of `ClipCNN`, with convolutions as products of patches and weights.

    On a CPU its gradient takes a ninth of the time of strided convolutions.
    """
    x = clips
    layers = params["params"]
    for i, strides in enumerate(STRIDES):
        kernel = layers[f"conv_{i}"]["kernel"]
        patches = _patches(x, kernel.shape[:3], strides)
        bias = layers[f"conv_{i}"]["bias"][None, None, None, None]
        x = jax.nn.relu(patches @ kernel.reshape(-1, kernel.shape[-1]) + bias)
    dense = layers["dense"]
    return x.reshape(x.shape[0], -1) @ dense["kernel"] + dense["bias"][None]


def _patches(x: jax.Array, kernel: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """Patches of a convolution with padding "SAME", (B, t, h, w, numbers)."""
    counts, pads = [], []
    for size, k, stride in zip(x.shape[1:4], kernel, strides, strict=True):
        n = -(-size // stride)
        short = max((n - 1) * stride + k - size, 0)
        counts.append(n)
        pads.append((short // 2, short - short // 2))
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    parts = []
    for tap in np.ndindex(*kernel):
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(tap, counts, strides, strict=True)]
        begin, end = (0, *tap, 0), (x.shape[0], *stop, x.shape[4])
        parts.append(jax.lax.slice(x, begin, end, (1, *strides, 1)))
    return jnp.concatenate(parts, -1)


def accuracy(model: ClipModel, t: int, settings: TrainSettings) -> dict[str, Any]:
    """Accuracy on held-out clips of t frames, also of pairs."""
    videos = held_out_clips(settings.n_test, t, model.n_frames, settings.test_seed)
    score = jax.jit(jax.vmap(lambda clip: model.logits(clip.astype(jnp.float32) / 255)))
    parts = [score(videos.clips[k : k + 50]).argmax(-1) for k in range(0, len(videos), 50)]
    return accuracies(np.concatenate(parts), videos)


STUDY = Study(
    name="synthetic_clips",
    about=__doc__,
    quantity="accuracy from 16 frames",
    lengths=(20, 32, 57),
    train=train,
    accuracy=accuracy,
    save=ej.models.save_clip_model,
    load=ej.models.load_clip_model,
    digest=clip_model_digest,
)
main = partial(run_command, STUDY, Settings)

if __name__ == "__main__":
    sys.exit(main())
