"""What training on synthetic videos has in common, whatever is trained: clips, steps, report."""

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
from experiments.records import as_json, surroundings, write_json

TRAIN_LENGTHS = (16, 24, 32, 48)
ASSETS = Path(ej.__file__).parent / "models" / "assets"


class Kind(NamedTuple):
    """How models of one kind are kept.

    Attributes:
      save: (path, model, half=True) -> path. load: path -> model. digest: model -> of its weights.
      packaged: the file in the package.
    """

    save: Callable[..., Path]
    load: Callable[[Path], Any]
    digest: Callable[[Any], str]
    packaged: Path


def clips_to_train_on(
    n_steps: int, batch_size: int, seed: int, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (B, n, h, w, 3) uint8 and labels (B,) of each step; the next are rendered ahead."""
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
    """AdamW with a warm-up and a cosine; the parameters, and the mean loss of each tenth.

    Args:
      loss: (params, *batch) -> (). params: to begin with; consumed.
      batches: one for each of `settings.n_steps`.
      settings: with `learning_rate`, `weight_decay` and `n_steps`.
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
    """How often classes (V,) are right, and their pairs; by class where there are clips of it."""
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
    """Train, measure, write `model.safetensors` and `summary.json`; what the latter holds.

    Args:
      name: of the experiment. settings: of it, with `out`, `install`, `seed`, `n_steps`,
        `batch_size` and `n_test`.
      kind: of the models. train: settings -> a model, and its losses.
      accuracy: (model, frames of a clip, settings) -> `accuracies` of held-out clips.
      lengths: of the held-out clips. claim: what is claimed to be accurate, and how much.
    """
    make_folder(settings.out)
    if settings.install:
        expect_writable(kind.packaged)
    start = time.perf_counter()
    model, losses = train(settings)
    train_seconds = time.perf_counter() - start
    path = kind.save(settings.out / "model.safetensors", model, half=True)
    stored = kind.load(path)  # with the rounding of half precision
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
    what, claimed = claim
    summary = {
        "experiment": name,
        "claims": [
            {
                "claim": f"{what} >= {100 * claimed:g} %",
                "measured": f"{100 * mean:.1f} %",
                "holds": mean >= claimed,
            }
        ],
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
    """The numbers for people."""
    title = f"{summary['experiment'].replace('_', ' ')}, seed {summary['seed']}"
    lines = [title, "", "clip length  accuracy  of the pair"]
    for t, row in summary["accuracy_by_length"].items():
        pairs = 100 * row["accuracy_of_pairs"]
        lines.append(f"{t:>11}  {100 * row['accuracy']:6.1f} %  {pairs:9.1f} %")
    rows = [row["accuracy_by_class"] for row in summary["accuracy_by_length"].values()]
    for name in ej.data.SYNTHETIC_VIDEO_CLASSES:
        shares = [row[name] for row in rows if name in row]
        if shares:
            lines.append(f"  {name:28} {100 * np.mean(shares):6.1f} %")
    for claim in summary["claims"]:
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(f"{verdict}: {claim['claim']}: {claim['measured']}")
    seconds = summary["wall_seconds"]["train"]
    lines.append(f"{summary['file_bytes'] / 1e6:.2f} MB, {seconds:.0f} s of training")
    return "\n".join(lines)
