"""`esv-jax demo`: from MP4 files it renders to the frames that carried the decision."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from esv_jax import data, models, results
from esv_jax.attribution import Attribution
from esv_jax.cli.printing import progress, say, signed, table
from esv_jax.cli.video_figures import draw_video
from esv_jax.explanations import explain_batch
from esv_jax.files import make_folder
from esv_jax.games import make_game
from esv_jax.maps import element_values

_N_FRAMES, _FPS, _EXPLAINED = 48, 12.0, 8
_BESIDE = ("integrated_gradients", "grad_cam", "leave_one_out")  # stored with these 8
_ALSO = (4, 16)  # numbers of frames that the dashboard can change to


def demo_video(out: Path, seed: int, n_videos: int) -> None:
    """Render videos, explain 8 frames of each exactly and all frames of one by sampling.

    Args:
      out: folder for videos/, results.nc, the results of other numbers of frames, strip, overlay.
      seed: of the videos and of the sampling.
      n_videos: how many.
    """
    started = time.perf_counter()
    video_key, sample_key = jax.random.split(jax.random.key(seed))
    made = data.synthetic_videos(n_videos, key=video_key, n_frames=_N_FRAMES)
    say(f"Rendering {n_videos} videos of {_N_FRAMES} frames to {out}/videos")
    files = data.write_synthetic_videos(out / "videos", made, _FPS)
    model = models.load_synthetic_world()
    with progress(n_videos, "Encoding", "video") as bar:
        features = []
        for file in files:
            features.append(model.encoder(data.decode_frames(file, n=None)))
            bar.update(1)
    encoded = np.stack(features)
    say(f"Explaining {_EXPLAINED} frames of each exactly, of one video all {_N_FRAMES} by sampling")
    exact = _explained(out, made, model, encoded, _EXPLAINED, seed, _BESIDE)
    for n in _ALSO:
        make_folder(out / f"{n}-frames")
        _explained(out / f"{n}-frames", made, model, encoded, n, seed)
    index = data.segment_centres(_N_FRAMES, _EXPLAINED)
    own = np.take_along_axis(np.asarray(exact.values), made.labels[:, None, None], 2)[..., 0]
    scores = np.take_along_axis(np.asarray(exact.scores), made.labels[:, None], 1)[:, 0]
    evidence = made.evidence_frames[:, index]  # (N, 8)
    i = _clearest(scores, evidence)
    _show(out, made, exact, i, files[i], index, float(scores[i]), own[i], evidence[i])

    sampled = explain_batch(
        make_game(model.trained.heads),
        encoded[i][None],
        prior=model.trained.prior,
        key=sample_key,
        uids=[made.uids[i]],
    )[0]
    label, name = int(made.labels[i]), made.class_names[made.labels[i]]
    draw_video(files[i], sampled, label, np.arange(_N_FRAMES), name, out / "all_frames", "mp4")
    accuracy = (np.argmax(exact.scores, -1) == made.labels).mean()
    say(f"Right on {accuracy:.0%} of the videos. {_ranks(own, evidence)}")
    say(f"Videos, results and pictures in {out}/ ({time.perf_counter() - started:.0f} s)")
    say(f"Look through them: esv-jax dashboard {out}")


def _explained(
    out: Path,
    made: data.SyntheticVideos,
    model: models.VideoModel,
    encoded: np.ndarray,
    n: int,
    seed: int,
    methods: tuple[str, ...] = (),
) -> Attribution:
    """Exact values of n frames of each video, saved with those of other methods."""
    trained = model.trained
    game, index = make_game(trained.heads), data.segment_centres(_N_FRAMES, n)
    chosen = np.ascontiguousarray(encoded[:, index])
    exact = explain_batch(game, chosen, prior=trained.prior)
    others = [element_values(methods, game, features, trained.prior) for features in chosen]
    results.save(
        out / "results.nc",
        [exact[i] for i in range(len(chosen))],
        uids=list(made.uids),
        class_names=trained.class_names,
        labels=made.labels.tolist(),
        element_index=[index.tolist()] * len(chosen),
        settings={
            "command": "demo",
            "seed": seed,
            "frames": n,
            "estimator": "Exact()",
            "model_digest": models.video_model_digest(model),
        },
        methods={name: [values[name] for values in others] for name in methods},
        overwrite=True,
    )
    return exact


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
