"""Trains the small video model that comes with the package on synthetic videos.

A frame network and multi-scale heads are trained end to end: every step renders new clips, takes
8 frames of each, one from each of 8 equal segments, and evaluates every head on one random
subsequence of its length. No clip is used twice, and held-out clips come from another key.

Claim: on held-out clips the accuracy of f^ms from the 8 frames at segment centres is at least 95 %.
The clips have lengths 8, 20, 32 and 57, of which only 32 occurs in training.

    python -m experiments.synthetic_world
    python -m experiments.synthetic_world --install   # also replaces the model in the package
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
from esv_jax.models import FrameEncoder, TrainedModel, VideoModel
from esv_jax.models.evaluation import draw_subsequences
from esv_jax.models.frame_encoder import FrameCNN
from esv_jax.models.heads import HeadStack
from esv_jax.models.trainable import MultiScaleHeads
from esv_jax.models.video_model import video_model_digest
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

N = 8  # frames taken of every clip
TEST_LENGTHS = (8, 20, 32, 57)
CLAIMED = 0.95
KIND = Kind(
    ej.models.save_video_model,
    ej.models.load_video_model,
    video_model_digest,
    ASSETS / "synthetic_world.safetensors",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run; they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_world")
    """Folder for the results; files of an earlier run are replaced."""
    seed: int = 0
    """Seed of initial weights, subsequences, dropout, and of the clips to train on."""
    test_seed: int = 10_000
    """Seed of the held-out clips."""
    n_steps: int = 1500
    """Steps of training."""
    batch_size: int = 64
    """Fresh clips in a step."""
    feature_dim: int = 64
    """Features of a frame, D."""
    hidden_dim: int = 96
    """Hidden width of each head, H."""
    dropout: float = 0.1
    """Chance that a hidden activation of a head is dropped in training."""
    learning_rate: float = 2e-3
    """Highest learning rate of AdamW, after a warm-up; then a cosine down to 0."""
    weight_decay: float = 1e-3
    """AdamW's decay."""
    n_test: int = 250
    """Held-out clips of each length."""
    install: bool = False
    """Replace the model in the package by this one."""

    def __post_init__(self) -> None:
        """Checks the counts; the library checks the rest."""
        for name in ("n_steps", "batch_size", "feature_dim", "hidden_dim", "n_test"):
            expect_int(name, getattr(self, name), minimum=1)


def main(args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(
        Settings, lambda s: table(run(s)), module="synthetic_world", about=__doc__, args=args
    )


def run(settings: Settings) -> dict[str, Any]:
    """Trains, measures, writes `model.safetensors` and `summary.json`."""
    claim = ("accuracy of f^ms from 8 frames", CLAIMED)
    return train_and_report("synthetic_world", settings, KIND, train, accuracy, TEST_LENGTHS, claim)


def train(settings: Settings) -> tuple[VideoModel, list[float]]:
    """The trained model, and the mean loss of each tenth of the training."""
    names = ej.data.SYNTHETIC_VIDEO_CLASSES
    network = FrameCNN(feature_dim=settings.feature_dim)
    heads = MultiScaleHeads(
        n_max=N, hidden_dim=settings.hidden_dim, n_classes=len(names), dropout=settings.dropout
    )
    cnn_key, heads_key, steps_key = jax.random.split(jax.random.key(settings.seed), 3)
    params = {
        "encoder": network.init(cnn_key, jnp.zeros((1, 64, 64, 3))),
        "heads": heads.init(
            heads_key, jnp.zeros((N, 1, N, settings.feature_dim)), jnp.ones((N, 1, N), bool)
        ),
    }
    sizes = jnp.arange(1, N + 1)

    def loss(params: Any, clips: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        draw_key, dropout_key = jax.random.split(key)
        b = len(labels)
        frames = clips.reshape(b * N, *clips.shape[2:]).astype(jnp.float32) / 255
        features = network.apply(params["encoder"], frames).reshape(b, N, -1)

        def draw(x: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array]:
            positions, mask = draw_subsequences(sizes, jnp.asarray(N), N, N, key=one)
            return x[positions], mask

        draws = jax.vmap(draw, out_axes=1)(features, jax.random.split(draw_key, b))
        logits = heads.apply(params["heads"], *draws, train=True, rngs={"dropout": dropout_key})
        wanted = jnp.broadcast_to(labels[None], logits.shape[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()

    clips = clips_to_train_on(settings.n_steps, settings.batch_size, settings.seed, N)
    batches = ((*batch, jax.random.fold_in(steps_key, i)) for i, batch in enumerate(clips))
    params, tenths = optimise(loss, params, batches, settings)
    stack = heads.fold(params["heads"])
    return _video_model(settings, network, params["encoder"], stack, names), tenths


def _video_model(
    settings: Settings, network: FrameCNN, variables: Any, heads: HeadStack, names: tuple[str, ...]
) -> VideoModel:
    encoder = FrameEncoder(
        name="frame_cnn",
        settings={"feature_dim": network.feature_dim, "widths": list(network.widths)},
        variables=variables,
    )
    prior = np.full(len(names), 1 / len(names))  # C successive clips have every class once
    return VideoModel(encoder, TrainedModel(heads=heads, prior=prior, class_names=names))


def held_out(
    model: VideoModel, n: int, t: int, seed: int
) -> tuple[ej.data.SyntheticVideos, np.ndarray]:
    """Clips of t frames cut down to the 8 at segment centres, and their features (V, 8, D)."""
    frames = ej.data.segment_centres(t, N)
    key = jax.random.fold_in(jax.random.key(seed), t)
    videos = ej.data.synthetic_videos(n, key=key, n_frames=t, frames=frames)
    flat = videos.clips.reshape(-1, *videos.clips.shape[2:])
    return videos, model.encoder(flat).reshape(n, N, -1)


def accuracy(model: VideoModel, t: int, settings: Settings) -> dict[str, Any]:
    """Accuracy of the exact f^ms of 8 frames on clips of t frames, also of pairs."""
    videos, features = held_out(model, settings.n_test, t, settings.test_seed)
    trained = model.trained
    batch = ej.explain_batch(
        ej.MultiScale(trained.heads), features, prior=trained.prior, estimator=ej.Exact()
    )
    return accuracies(np.asarray(batch.scores).argmax(-1), videos)


if __name__ == "__main__":
    sys.exit(main())
