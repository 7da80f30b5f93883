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
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esv_jax as ej
from esv_jax.checks import expect_int
from esv_jax.models import ClipModel
from esv_jax.models.clip_model import STRIDES, ClipCNN, clip_model_digest
from experiments.harness import command
from experiments.synthetic_training import (
    ASSETS,
    Kind,
    accuracies,
    clips_to_train_on,
    optimise,
    table,
    train_and_report,
)

N = 16  # frames taken of every clip
TEST_LENGTHS = (20, 32, 57)
CLAIMED = 0.95
KIND = Kind(
    ej.models.save_clip_model,
    ej.models.load_clip_model,
    clip_model_digest,
    ASSETS / "synthetic_clips.safetensors",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_clips")
    """Folder for the results; files of an earlier run are replaced."""
    seed: int = 0
    """Seed of initial weights and of the clips to train on."""
    test_seed: int = 10_000
    """Seed of the held-out clips."""
    n_steps: int = 1500
    """Steps of training."""
    batch_size: int = 32
    """Fresh clips in a step."""
    widths: tuple[int, int, int, int] = (32, 64, 64, 96)
    """Channels after each convolution."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW, after a warm-up; then a cosine down to 0."""
    weight_decay: float = 1e-3
    """AdamW's decay."""
    n_test: int = 300
    """Held-out clips of each length."""
    install: bool = False
    """Replace the model in the package by this one."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        for name in ("n_steps", "batch_size", "n_test"):
            expect_int(name, getattr(self, name), minimum=1)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(
        Settings, lambda s: table(run(s)), module="synthetic_clips", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Trains, measures, writes `model.safetensors` and `summary.json`."""
    claim = ("accuracy from 16 frames", CLAIMED)
    return train_and_report("synthetic_clips", settings, KIND, train, accuracy, TEST_LENGTHS, claim)


def train(settings: Settings) -> tuple[ClipModel, list[float]]:
    """The trained model, and the mean loss of each tenth of the training."""
    names = ej.data.SYNTHETIC_VIDEO_CLASSES
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


def held_out(
    model: ClipModel, n: int, t: int, seed: int
) -> tuple[ej.data.SyntheticVideos, np.ndarray]:
    """Clips of t frames cut down to those at segment centres, and logits of each (V, C)."""
    frames = ej.data.segment_centres(t, model.n_frames)
    key = jax.random.fold_in(jax.random.key(seed), t)
    videos = ej.data.synthetic_videos(n, key=key, n_frames=t, frames=frames)
    score = jax.jit(jax.vmap(lambda clip: model.logits(clip.astype(jnp.float32) / 255)))
    parts = [score(videos.clips[start : start + 50]) for start in range(0, n, 50)]
    return videos, np.concatenate(parts)


def accuracy(model: ClipModel, t: int, settings: Settings) -> dict[str, Any]:
    """Accuracy on clips of t frames, also of pairs."""
    videos, logits = held_out(model, settings.n_test, t, settings.test_seed)
    return accuracies(logits.argmax(-1), videos)


if __name__ == "__main__":
    sys.exit(main())
