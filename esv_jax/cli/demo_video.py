"""`esv-jax demo`: from MP4 files it renders to the frames that carried the decision."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from esv_jax import data, models, results
from esv_jax.attribution import Attribution
from esv_jax.batching import explain_batch
from esv_jax.cli.printing import progress, say, signed, table
from esv_jax.cli.video_figures import draw_video
from esv_jax.games import make_game

_N_FRAMES, _FPS, _EXPLAINED = 48, 12.0, 8


def demo_video(out: Path, seed: int, n_videos: int) -> None:
    """Render videos, explain 8 frames of each exactly and all frames of one by sampling.

    Args:
      out: folder for videos/, results.nc, strip and overlay.
      seed: of the videos and of the sampling.
      n_videos: how many.
    """
    started = time.perf_counter()
    video_key, sample_key = jax.random.split(jax.random.key(seed))
    made = data.synthetic_videos(n_videos, key=video_key, n_frames=_N_FRAMES)
    say(f"Rendering {n_videos} videos of {_N_FRAMES} frames to {out}/videos")
    files = data.write_synthetic_videos(out / "videos", made, _FPS)
    model = models.load_synthetic_world()
    trained = model.trained
    game = make_game(trained.heads)

    index = data.segment_centres(_N_FRAMES, _EXPLAINED)
    features = []
    with progress(n_videos, "Encoding", "video") as bar:
        for file in files:
            features.append(model.encoder(data.decode_frames(file)))
            bar.update(1)
    say(f"Explaining {_EXPLAINED} frames of each exactly, of one video all {_N_FRAMES} by sampling")
    exact = explain_batch(game, np.stack(features), prior=trained.prior)
    results.save(
        out / "results.nc",
        [exact[i] for i in range(n_videos)],
        uids=list(made.uids),
        class_names=trained.class_names,
        labels=made.labels.tolist(),
        element_index=[index.tolist()] * n_videos,
        settings={
            "command": "demo",
            "seed": seed,
            "estimator": "Exact()",
            "model_digest": models.video_model_digest(model),
        },
        overwrite=True,
    )
    own = np.take_along_axis(np.asarray(exact.values), made.labels[:, None, None], 2)[..., 0]
    scores = np.take_along_axis(np.asarray(exact.scores), made.labels[:, None], 1)[:, 0]
    evidence = made.evidence_frames[:, index]  # (N, 8)
    i = _clearest(scores, evidence)
    _show(out, made, exact, i, files[i], index, float(scores[i]), own[i], evidence[i])

    every = model.encoder(data.decode_frames(files[i], n=None))
    sampled = explain_batch(
        game, every[None], prior=trained.prior, key=sample_key, uids=[made.uids[i]]
    )[0]
    label, name = int(made.labels[i]), made.class_names[made.labels[i]]
    draw_video(files[i], sampled, label, np.arange(_N_FRAMES), name, out / "all_frames", "mp4")
    accuracy = (np.argmax(exact.scores, -1) == made.labels).mean()
    say(f"Right on {accuracy:.0%} of the videos. {_ranks(own, evidence)}")
    say(f"Videos, results and pictures in {out}/ ({time.perf_counter() - started:.0f} s)")


def _clearest(scores: np.ndarray, evidence: np.ndarray) -> int:
    """The surest video that has frames without evidence before and after those with it."""
    within = evidence.any(1) & ~evidence[:, 0] & ~evidence[:, -1]
    return int(np.argmax(np.where(within, scores, scores - 1)))


def _ranks(own: np.ndarray, evidence: np.ndarray) -> str:
    pairs = [
        (values[shown][:, None] > values[~shown][None, :]).ravel()
        for values, shown in zip(own, evidence, strict=True)
    ]
    share = np.concatenate(pairs)
    if not len(share):
        return ""
    return f"A frame with evidence ranks above one without in {share.mean():.0%} of pairs."


def _show(
    out: Path,
    made: data.SyntheticVideos,
    exact: Attribution,
    i: int,
    file: Path,
    index: np.ndarray,
    score: float,
    own: np.ndarray,
    evidence: np.ndarray,
) -> None:
    label = int(made.labels[i])
    name, prior = made.class_names[label], float(exact.prior[label])
    say(f"\n{file.name}, '{name}':")
    say(f"score {score:.3f} = prior {prior:.3f} + sum of ESVs {own.sum():+.3f}")
    rows = [
        (int(frame), "evidence" if shows else "-", signed(value))
        for frame, shows, value in zip(index, evidence, own, strict=True)
    ]
    table("", ["frame", "shows", "exact ESV"], rows)
    draw_video(file, exact[i], label, index, name, out / "esv", "mp4")
