"""Training on synthetic videos: batches of clips, optimisation and the stored summary."""

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
    findings_table,
    markdown,
    surroundings,
    write_json,
)

TRAIN_LENGTHS = (16, 24, 32, 48)
ASSETS = Path(ej.__file__).parent / "models" / "assets"


class Kind(NamedTuple):
    """Functions of one kind of model.

    Attributes:
      save: (path, model, half=True) -> path. load: path -> model.
      digest: model -> digest of its weights. packaged: the file in the package.
    """

    save: Callable[..., Path]
    load: Callable[[Path], Any]
    digest: Callable[[Any], str]
    packaged: Path


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
    loss: Callable[..., jax.Array], params: Any, batches: Iterable[Sequence[Any]], settings: Any
) -> tuple[Any, list[float]]:
    """Trains with AdamW, a warm-up and a cosine schedule.

    Args:
      loss: (params, *batch) -> (). params: initial parameters; donated.
      batches: one for each of `settings.n_steps`.
      settings: with `learning_rate`, `weight_decay` and `n_steps`.
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


def accuracies(predicted: np.ndarray, videos: ej.data.SyntheticVideos) -> dict[str, Any]:
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


def train_and_report(
    name: str,
    settings: Any,
    kind: Kind,
    train: Callable[[Any], tuple[Any, list[float]]],
    accuracy: Callable[[Any, int, Any], dict[str, Any]],
    lengths: Sequence[int],
    claim: tuple[str, float],
) -> dict[str, Any]:
    """Trains, measures, writes `model.safetensors` and `summary.json`.

    Args:
      name: name of the experiment. settings: with `out`, `install`, `seed`, `n_steps`,
        `batch_size` and `n_test`.
      kind: kind of the model. train: settings -> a model, and its losses.
      accuracy: (model, frames of a clip, settings) -> `accuracies` of held-out clips.
      lengths: lengths of held-out clips. claim: name and lower bound of the mean accuracy.
    Returns:
      The content of `summary.json`.
    """
    make_folder(settings.out)
    if settings.install:
        expect_writable(kind.packaged)
    start = time.perf_counter()
    model, losses = train(settings)
    train_seconds = time.perf_counter() - start
    path = kind.save(settings.out / "model.safetensors", model, half=True)
    stored = kind.load(path)  # rounded to half precision
    measured = {t: accuracy(stored, t, settings) for t in lengths}
    mean = float(np.mean([row["accuracy"] for row in measured.values()]))
    about = {
        "world": "esv_jax.data.synthetic_videos",
        "seed": settings.seed,
        "n_training_clips": settings.n_steps * settings.batch_size,
        "held_out_accuracy": mean,
        "held_out_clips": settings.n_test * len(lengths),
    }
    stored = dataclasses.replace(stored, about=about)
    kind.save(path, stored, half=True)
    if settings.install:
        kind.save(kind.packaged, stored, half=True)
    text, claimed = claim
    agrees = mean >= claimed
    row = Finding(f"{text} (%)", f">= {100 * claimed:g}", 100 * mean, agrees=agrees)
    summary = {
        "experiment": name,
        "findings": as_rows([row]),
        "seed": settings.seed,
        "settings": as_json(settings),
        "accuracy": mean,
        "accuracy_by_length": measured,
        "training_loss": losses,
        "weights_digest": kind.digest(stored),
        "file_bytes": path.stat().st_size,
        "wall_seconds": {"train": round(train_seconds, 1)},
        **surroundings(),
    }
    write_json(settings.out / "summary.json", summary)
    return summary


def table(summary: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    lengths = summary["accuracy_by_length"]
    rows = [
        (t, *(f"{100 * row[name]:.1f}" for name in ("accuracy", "accuracy_of_pairs")))
        for t, row in lengths.items()
    ]
    found = [row["accuracy_by_class"] for row in lengths.values()]
    by_class = [
        (name, f"{100 * np.mean([row[name] for row in found if name in row]):.1f}")
        for name in ej.data.SYNTHETIC_VIDEO_CLASSES
        if any(name in row for row in found)
    ]
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
