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
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esv_jax as ej
from esv_jax.models import TrainedModel
from esv_jax.models.evaluation import draw_subsequences
from esv_jax.models.frame_encoder import FrameCNN, FrameEncoder
from esv_jax.models.trainable import MultiScaleHeads
from esv_jax.models.video_model import VideoModel, video_model_digest
from experiments.harness import check_counts
from experiments.synthetic_training import (
    Study,
    TrainSettings,
    accuracies,
    clips_to_train_on,
    held_out_clips,
    optimise,
    run_command,
)

N = 8  # frames taken of every clip


@dataclasses.dataclass(frozen=True)
class Settings(TrainSettings):
    """Settings of one run; they determine its numbers on one backend."""

    out: Path = Path("results/synthetic_world")
    """Folder for the results; files of an earlier run are replaced."""
    batch_size: int = 64
    """Fresh clips in a step."""
    learning_rate: float = 2e-3
    """Highest learning rate of AdamW, after a warm-up; then a cosine down to 0."""
    n_test: int = 250
    """Held-out clips of each length."""
    feature_dim: int = 64
    """Features of a frame, D."""
    hidden_dim: int = 96
    """Hidden width of each head, H."""
    dropout: float = 0.1
    """Chance that a hidden activation of a head is dropped in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "feature_dim", "hidden_dim")


def train(settings: Settings) -> tuple[VideoModel, list[float]]:
    """The trained model, and the mean loss of each tenth of the training."""
    names = ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
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
    known = {"feature_dim": network.feature_dim, "widths": list(network.widths)}
    encoder = FrameEncoder(name="frame_cnn", settings=known, variables=params["encoder"])
    prior = np.full(len(names), 1 / len(names))  # C successive clips have every class once
    trained = TrainedModel(heads=heads.fold(params["heads"]), prior=prior, class_names=names)
    return VideoModel(encoder, trained), tenths


def held_out(
    model: VideoModel, n: int, t: int, seed: int
) -> tuple[ej.data.synthetic_video.SyntheticVideos, ej.Attribution]:
    """Held-out clips of t frames, and exact ESVs of the 8 at segment centres, on the host."""
    videos = held_out_clips(n, t, N, seed)
    features = model.encoder(videos.clips.reshape(-1, *videos.clips.shape[2:])).reshape(n, N, -1)
    game, prior = ej.MultiScale(model.trained.heads), model.trained.prior
    found = ej.explain_batch(game, features, prior=prior, estimator=ej.Exact())
    return videos, jax.device_get(found)


def accuracy(model: VideoModel, t: int, settings: TrainSettings) -> dict[str, Any]:
    """Accuracy of the exact f^ms of 8 frames on clips of t frames, also of pairs."""
    videos, batch = held_out(model, settings.n_test, t, settings.test_seed)
    return accuracies(np.asarray(batch.scores).argmax(-1), videos)


STUDY = Study(
    name="synthetic_world",
    about=__doc__,
    quantity="accuracy of f^ms from 8 frames",
    lengths=(8, 20, 32, 57),
    train=train,
    accuracy=accuracy,
    save=ej.models.save_video_model,
    load=ej.models.load_video_model,
    digest=video_model_digest,
)
main = partial(run_command, STUDY, Settings)

if __name__ == "__main__":
    sys.exit(main())
