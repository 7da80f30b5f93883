"""Training on synthetic videos: settings, batches of clips, optimisation, stored summary."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

import esv_jax as ej
from esv_jax.files import expect_writable, make_folder
from experiments.harness import (
    Finding,
    as_json,
    as_rows,
    check_counts,
    command,
    findings_table,
    markdown,
    surroundings,
    write_json,
)

TRAIN_LENGTHS = (16, 24, 32, 48)
CLAIMED = 0.95  # accuracy
_ASSETS = Path(ej.__file__).parent / "models" / "assets"


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of one run; they determine its numbers on one backend."""

    out: Path = Path("results")
    """Folder for the results; files of an earlier run are replaced."""
    seed: int = 0
    """Seed of the training: initial weights, clips, and draws of each step."""
    test_seed: int = 10_000
    """Seed of the held-out clips."""
    n_steps: int = 1500
    """Steps of training."""
    batch_size: int = 32
    """Fresh clips in a step."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW, after a warm-up; then a cosine down to 0."""
    weight_decay: float = 1e-3
    """AdamW's decay."""
    n_test: int = 300
    """Held-out clips of each length."""
    install: bool = False
    """Replace the model in the package by this one."""

    def __post_init__(self) -> None:
        check_counts(self, "n_steps", "batch_size", "n_test")


class Study(NamedTuple):
    """Training of one kind of model.

    Attributes:
      name: name of the module and of the model in the package. about: the module's docstring.
      quantity: name of the mean accuracy. lengths: frames of the held-out clips.
      train: settings -> a model, and its losses.
      accuracy: (model, frames of a clip, settings) -> `accuracies` of held-out clips.
      save: (path, model, half=True) -> path. load: path -> model.
      digest: model -> digest of its weights.
    """

    name: str
    about: str | None
    quantity: str
    lengths: tuple[int, ...]
    train: Callable[[Any], tuple[Any, list[float]]]
    accuracy: Callable[[Any, int, Any], dict[str, Any]]
    save: Callable[..., Path]
    load: Callable[[Path], Any]
    digest: Callable[[Any], str]

    @property
    def packaged(self) -> Path:
        """The file in the package."""
        return _ASSETS / f"{self.name}.safetensors"


def run_command(study: Study, kind: type[TrainSettings], args: Sequence[str] | None = None) -> int:
    """Runs from the command line: 0 when done."""
    return command(
        kind, lambda s: table(run(study, s)), module=study.name, about=study.about, args=args
    )


def run(study: Study, settings: TrainSettings) -> dict[str, Any]:
    """Trains, measures, writes `model.safetensors` and `summary.json`.

    Returns:
      The content of `summary.json`.
    """
    make_folder(settings.out)
    if settings.install:
        expect_writable(study.packaged)
    start = time.perf_counter()
    model, losses = study.train(settings)
    train_seconds = time.perf_counter() - start
    path = study.save(settings.out / "model.safetensors", model, half=True)
    stored = study.load(path)  # rounded to half precision
    measured = {t: study.accuracy(stored, t, settings) for t in study.lengths}
    mean = float(np.mean([row["accuracy"] for row in measured.values()]))
    about = {
        "world": "esv_jax.data.synthetic_videos",
        "seed": settings.seed,
        "n_training_clips": settings.n_steps * settings.batch_size,
        "held_out_accuracy": mean,
        "held_out_clips": settings.n_test * len(study.lengths),
    }
    stored = dataclasses.replace(stored, about=about)
    for file in (path, *[study.packaged] * settings.install):
        study.save(file, stored, half=True)
    expected, agrees = f">= {100 * CLAIMED:g}", mean >= CLAIMED
    summary = {
        "experiment": study.name,
        "findings": as_rows(
            [Finding(f"{study.quantity} (%)", expected, 100 * mean, agrees=agrees)]
        ),
        "seed": settings.seed,
        "settings": as_json(settings),
        "accuracy": mean,
        "accuracy_by_length": measured,
        "training_loss": losses,
        "weights_digest": study.digest(stored),
        "file_bytes": path.stat().st_size,
        "wall_seconds": {"train": round(train_seconds, 1)},
        **surroundings(),
    }
    write_json(settings.out / "summary.json", summary)
    return summary


def clips_to_train_on(
    n_steps: int, batch_size: int, seed: int, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (B, n, h, w, 3) uint8 and labels (B,) of each step, rendered one step ahead."""
    rng = np.random.default_rng(seed)

    def render(step: int, t: int, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames = ((np.arange(n) + offset) * t / n).astype(int)  # one of each segment
        videos = ej.data.synthetic_videos(
            batch_size, seed=seed, n_frames=t, frames=frames, first=step * batch_size
        )
        return videos.clips, videos.labels

    plan = [(k, int(rng.choice(TRAIN_LENGTHS)), rng.random(n)) for k in range(n_steps)]
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(render, *plan[0])
        for row in [*plan[1:], None]:
            batch = upcoming.result()
            if row is not None:
                upcoming = ahead.submit(render, *row)
            yield batch


def optimise(
    loss: Callable[..., jax.Array],
    params: Any,
    batches: Iterable[Sequence[Any]],
    settings: TrainSettings,
) -> tuple[Any, list[float]]:
    """Trains with AdamW, a warm-up and a cosine schedule.

    Args:
      loss: (params, *batch) -> (). params: initial parameters; donated.
      batches: one for each of `settings.n_steps`.
      settings: `learning_rate`, `weight_decay` and `n_steps`.
    Returns:
      The parameters, and the mean loss of each tenth of the steps.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.n_steps // 20, settings.n_steps
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=settings.weight_decay),
    )
    memory = optimiser.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, memory: Any, batch: Sequence[Any]) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its step count with floats
            updates, memory = optimiser.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, value

    losses = []
    for batch in tqdm(batches, total=settings.n_steps, unit="step", mininterval=2):
        params, memory, value = step(params, memory, batch)
        losses.append(value)
    tenths = [float(np.mean(part)) for part in np.array_split(losses, min(10, len(losses)))]
    return params, tenths


def held_out_clips(
    n: int, t: int, n_frames: int, seed: int
) -> ej.data.synthetic_video.SyntheticVideos:
    """Clips of t frames, cut down to those at `n_frames` segment centres."""
    key = jax.random.fold_in(jax.random.key(seed), t)
    frames = ej.data.segment_centres(t, n_frames)
    return ej.data.synthetic_videos(n, key=key, n_frames=t, frames=frames)


def accuracies(
    predicted: np.ndarray, videos: ej.data.synthetic_video.SyntheticVideos
) -> dict[str, Any]:
    """Accuracy of predicted classes (V,) and of their pairs, and accuracy by class."""
    right = predicted == videos.labels
    return {
        "n_clips": len(videos),
        "accuracy": float(right.mean()),
        "accuracy_of_pairs": float((predicted // 2 == videos.labels // 2).mean()),
        "accuracy_by_class": {
            name: float(right[videos.labels == c].mean())
            for c, name in enumerate(videos.class_names)
            if (videos.labels == c).any()
        },
    }


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    lengths = summary["accuracy_by_length"]
    rows = [
        (t, *(f"{100 * row[name]:.1f}" for name in ("accuracy", "accuracy_of_pairs")))
        for t, row in lengths.items()
    ]
    found: dict[str, list[float]] = {
        name: [] for name in ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    }
    for row in lengths.values():
        for name, accuracy in row["accuracy_by_class"].items():
            found[name].append(accuracy)
    by_class = [(name, f"{100 * np.mean(row):.1f}") for name, row in found.items() if row]
    seconds = summary["wall_seconds"]["train"]
    return "\n\n".join(
        [
            f"{summary['experiment'].replace('_', ' ')}, seed {summary['seed']}",
            markdown(("clip length", "accuracy (%)", "of the pair (%)"), rows),
            markdown(("class", "accuracy (%)"), by_class),
            findings_table(summary["findings"]),
            f"{summary['file_bytes'] / 1e6:.2f} MB, {seconds:.0f} s of training",
        ]
    )
