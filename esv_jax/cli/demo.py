"""`esv-jax demo`: explanations of generated data, whose right answer is known."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from esv_jax import data, metrics, models, plots, results
from esv_jax.attribution import Attribution
from esv_jax.batches import explain_batch
from esv_jax.checks import expect
from esv_jax.cli.explain_output import draw_video
from esv_jax.cli.printing import progress, say, signed, table
from esv_jax.estimators import Constructive
from esv_jax.files import expect_writable, make_folder
from esv_jax.games.multi_scale import make_game
from esv_jax.maps import element_values
from esv_jax.models.video_model import VideoModel, video_model_digest

_N_FRAMES, _FPS, _EXPLAINED = 48, 12.0, 8
_BESIDE = ("integrated_gradients", "grad_cam", "leave_one_out")  # stored with these 8
_ALSO = (4, 16)  # numbers of frames that the dashboard can change to
_SAMPLED = 6  # sequences explained by sampling too


@dataclasses.dataclass(frozen=True)
class Demo:
    """Explain videos of a synthetic world, in which the right answer is known.

    Renders MP4 files and explains what each frame contributes to the scores of the included model,
    in less than a minute. Nothing is downloaded.

    Examples: esv-jax demo; esv-jax demo --what sequences
    """

    out: Path = Path("esv-jax-demo")
    """Folder for videos, results and pictures; those of an earlier demo are replaced."""
    what: Literal["video", "sequences"] = "video"
    """Kind of data; "sequences" trains heads on generated sequences first, and compares sampled
    values."""
    seed: int = 0
    """Seed of all random draws."""
    n_videos: int = 24
    """Number of videos to render and explain; the clearest is shown."""
    n_train: int = 1024
    """Number of training sequences of --what sequences."""

    def run(self) -> int:
        """Generate, explain, show."""
        expect(self.n_videos >= 1, "n-videos", "a number >= 1", self.n_videos)
        expect(self.n_train >= 1, "n-train", "a number >= 1", self.n_train)
        make_folder(self.out)
        expect_writable(self.out / "results.nc")
        if self.what == "sequences":
            _demo_sequences(self.out, self.seed, self.n_train)
        else:
            _demo_video(self.out, self.seed, self.n_videos)
        return 0


# Videos


def _demo_video(out: Path, seed: int, n_videos: int) -> None:
    """Render videos, explain 8 frames of each exactly and all frames of one by sampling."""
    started = time.perf_counter()
    video_key, sample_key = jax.random.split(jax.random.key(seed))
    made = data.synthetic_videos(n_videos, key=video_key, n_frames=_N_FRAMES)
    say(f"Rendering {n_videos} videos of {_N_FRAMES} frames to {out}/videos")
    files = data.synthetic_video.write_synthetic_videos(out / "videos", made, _FPS)
    model = models.load_synthetic_world()
    features = []
    with progress(n_videos, "Encoding", "video") as bar:
        for file in files:
            features.append(model.encoder(data.decode_frames(file, n=None)))
            bar.update(1)
    encoded = np.stack(features)
    say(f"Explaining {_EXPLAINED} frames of each exactly, of one video all {_N_FRAMES} by sampling")
    exact = _explain_frames(out, made, model, encoded, _EXPLAINED, seed, _BESIDE)
    for n in _ALSO:
        make_folder(out / f"{n}-frames")
        _explain_frames(out / f"{n}-frames", made, model, encoded, n, seed)
    index = data.segment_centres(_N_FRAMES, _EXPLAINED)
    own, scores = _of_labels(exact, made.labels)
    evidence = made.evidence_frames[:, index]  # (N, 8)
    # The surest video that has frames without evidence before and after those with it.
    within = evidence.any(1) & ~evidence[:, 0] & ~evidence[:, -1]
    i = int(np.argmax(np.where(within, scores, scores - 1)))
    label, name = int(made.labels[i]), made.class_names[made.labels[i]]
    say(f"\n{files[i].name}, '{name}':")
    _say_sum(float(scores[i]), float(exact.prior[label]), own[i])
    rows = [
        (int(frame), "evidence" if has else "-", signed(value))
        for frame, has, value in zip(index, evidence[i], own[i], strict=True)
    ]
    table("", ["frame", "shows", "exact ESV"], rows)
    draw_video(files[i], exact[i], label, index, name, out / "esv", "mp4")
    sampled = explain_batch(
        make_game(model.trained.heads),
        encoded[i][None],
        prior=model.trained.prior,
        key=sample_key,
        uids=[made.uids[i]],
    )[0]
    draw_video(files[i], sampled, label, np.arange(_N_FRAMES), name, out / "all_frames", "mp4")
    accuracy = (np.argmax(exact.scores, -1) == made.labels).mean()
    say(f"Right on {accuracy:.0%} of the videos.")
    ranked = np.concatenate(_ranks(own, evidence))
    if len(ranked):
        say(f"A frame with evidence ranks above one without in {ranked.mean():.0%} of pairs.")
    say(f"Videos, results and pictures in {out}/ ({time.perf_counter() - started:.0f} s)")
    say(f"Look through them: esv-jax dashboard {out}")


def _explain_frames(
    out: Path,
    made: data.synthetic_video.SyntheticVideos,
    model: VideoModel,
    encoded: np.ndarray,
    n: int,
    seed: int,
    methods: tuple[str, ...] = (),
) -> Attribution:
    """Explain n frames of each video exactly; save the values with those of other methods."""
    trained = model.trained
    game, index = make_game(trained.heads), data.segment_centres(_N_FRAMES, n)
    chosen = np.ascontiguousarray(encoded[:, index])
    exact = explain_batch(game, chosen, prior=trained.prior)
    others = [element_values(methods, game, features, prior=trained.prior) for features in chosen]
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
            "model_digest": video_model_digest(model),
        },
        methods={name: [values[name] for values in others] for name in methods},
        overwrite=True,
    )
    return exact


def _of_labels(found: Attribution, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (V, n) and the scores (V,) of each sequence's true class."""
    values = np.take_along_axis(np.asarray(found.values), labels[:, None, None], 2)[..., 0]
    return values, np.take_along_axis(np.asarray(found.scores), labels[:, None], 1)[:, 0]


def _ranks(values: np.ndarray, evidence: np.ndarray) -> list[np.ndarray]:
    """For each sequence, compare every element that has evidence with every one that has none."""
    pairs = zip(values, evidence, strict=True)
    return [(own[has][:, None] > own[~has][None, :]).ravel() for own, has in pairs]


def _say_sum(score: float, prior: float, own: np.ndarray) -> None:
    say(f"score {score:.3f} = prior {prior:.3f} + sum of ESVs {own.sum():+.3f}")


# Sequences


def _demo_sequences(out: Path, seed: int, n_train: int) -> None:
    """Train heads on sequences whose classes differ in the order of events; explain some."""
    started = time.perf_counter()
    train_key, test_key, sample_key = jax.random.split(jax.random.key(seed), 3)
    train = data.temporal_order(n_train, key=train_key, n=12, n_events=4)
    test = data.temporal_order(128, key=test_key, n=12, n_events=4)

    say(f"Training heads for 1..8 elements on {n_train} generated sequences of 12")
    config = models.TrainConfig(
        n_max=8, hidden_dim=64, dropout=0.2, max_epochs=30, patience=10, seed=seed
    )
    model = models.train_heads(
        list(train.features),
        train.labels,
        len(train.class_names),
        config,
        class_names=train.class_names,
        progress=True,
    )
    models.save_model(out / "model.safetensors", model)

    say(f"Explaining {len(test)} test sequences exactly, {_SAMPLED} of them by sampling too")
    game = make_game(model.heads)
    exact = explain_batch(game, test.features, prior=model.prior)
    sampled = explain_batch(
        game,
        test.features[:_SAMPLED],
        prior=model.prior,
        estimator=Constructive(max_subsequences=256, iterations=4),
        key=sample_key,
    )
    results.save(
        out / "results.nc",
        [exact[i] for i in range(len(test))],
        uids=[f"demo-{i}" for i in range(len(test))],
        class_names=train.class_names,
        labels=test.labels.tolist(),
        settings={"command": "demo", "seed": seed, "estimator": "Exact()"},
        overwrite=True,
    )
    _show_sequence(out, test, exact, sampled)
    say(f"Model, results and picture in {out}/ ({time.perf_counter() - started:.0f} s)")


def _show_sequence(
    out: Path, test: data.synthetic.SyntheticSequences, exact: Attribution, sampled: Attribution
) -> None:
    """Print and draw the surest sequence; print means over all."""
    own, scores = _of_labels(exact, test.labels)
    i = int(np.argmax(scores[:_SAMPLED]))
    label = int(test.labels[i])
    one, other = exact[i], sampled[i]
    assert other.std_error is not None
    shows = [test.event_names[e] if e >= 0 else "" for e in test.events[i]]
    rows = [
        (
            element,
            shows[element] or "-",
            signed(own[i, element]),
            signed(float(other.values[element, label])),
            f"{float(other.std_error[element, label]):.3f}",
        )
        for element in range(one.n)
    ]
    say(f"\nSequence {i} of class '{test.class_names[label]}':")
    _say_sum(float(scores[i]), float(one.prior[label]), own[i])
    table("", ["element", "shows", "exact ESV", "sampled ESV", "std error"], rows)

    accuracy = (np.argmax(exact.scores, -1) == test.labels).mean()
    ranked = [pairs.mean() for pairs in _ranks(own, np.asarray(test.informative))]
    approx, _ = _of_labels(sampled, test.labels[:_SAMPLED])
    error = np.asarray(metrics.relative_error(approx, own[:_SAMPLED])).mean()
    say(f"Test accuracy {accuracy:.1%}")
    say(f"An element that shows an event ranks above one that does not: {np.mean(ranked):.1%}")
    say(f"Sampled against exact values, mean relative error: {error:.1%}")
    labels = [f"{k}\n{event}" if event else str(k) for k, event in enumerate(shows)]
    figure = plots.plot_sequence(
        one, [label], class_names=test.class_names, element_labels=labels, title=f"Sequence {i}"
    )
    plots.save_figure(figure, out / "esv.png")
