"""Feature extraction over many videos beside the bare network on the same arrays.

    python -m experiments.benchmarks.extract --out extract.json

Weights and frames are random, since time does not depend on values. `bare` is a loop of the jitted
network over full batches in memory; `stream` is `extract_stream` over videos of 1 to 8 frames each,
as the command line calls it; their ratio is the cost of batching, with a target of 1.5. `files` is
the whole command on rendered videos, with decoding and writing. Calls take turns. Runs on CPUs and
GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from esv_jax.cli.extract import Extract
from esv_jax.data.video_writer import write_video
from esv_jax.models import backbones
from experiments.benchmarks.common import Table, in_turns, median

TARGET_RATIO = 1.5
MAX_LENGTH = 8  # frames of a video


@dataclasses.dataclass(frozen=True)
class Settings:
    """Backbones and sizes."""

    names: tuple[str, ...] = tuple(backbones.BACKBONES)
    """Backbones."""
    n_batches: int = 2
    """Batches of frames in a call."""
    batch_size: int = 8
    """Frames in a batch."""
    repeats: int = 3
    """Timed calls of each kind; medians are reported."""
    bf16: bool = False
    """Compute in bfloat16."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def random_variables(name: str) -> dict[str, Any]:
    """Weights of a backbone that keep activations at scale one."""
    rng = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(backbones.build_backbone(name).init, jax.random.key(0), image)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if len(leaf.shape) == 1:
            return jnp.ones(leaf.shape)
        gain = np.sqrt(1 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(rng.normal(size=leaf.shape) * gain, jnp.float32)

    return jax.tree.map(fill, shapes)


def lengths_of(n_frames: int) -> list[int]:
    """Lengths 1 to 8 that sum to `n_frames`."""
    rng, lengths = np.random.default_rng(1), list[int]()
    while sum(lengths) < n_frames:
        lengths.append(min(int(rng.integers(1, MAX_LENGTH + 1)), n_frames - sum(lengths)))
    return lengths


def measure(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Times of one backbone."""
    dtype = jnp.bfloat16 if settings.bf16 else jnp.float32
    variables = random_variables(name)
    weights = backbones.save_backbone(folder / f"{name}.safetensors", name, variables)
    batch_size, n_frames = settings.batch_size, settings.batch_size * settings.n_batches
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(n_frames, 224, 224, 3)).astype(np.float32)
    lengths = lengths_of(n_frames)
    videos = np.split(frames, np.cumsum(lengths)[:-1])
    clips = folder / name
    clips.mkdir()
    for i, n in enumerate(lengths):
        write_video(clips / f"{i}.mp4", rng.integers(0, 256, (n, 240, 320, 3), dtype=np.uint8))

    module = backbones.build_backbone(name, dtype=dtype)
    apply, extract = jax.jit(module.apply), backbones.extractor(name, variables, dtype)

    def bare() -> Any:
        starts = range(0, n_frames, batch_size)
        return [apply(variables, frames[i : i + batch_size]) for i in starts]

    def stream() -> Any:
        return [x for _, x in backbones.extract_stream(extract, enumerate(videos), batch_size)]

    def files() -> Any:
        out = folder / "features.hdf"
        out.unlink(missing_ok=True)
        command = Extract((clips,), weights, out, batch_size=batch_size, bf16=settings.bf16)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return command.run()

    calls = {"bare": bare, "stream": stream, "files": files}
    first, rounds = in_turns(calls, settings.repeats)
    medians = {kind: median(rounds, kind) for kind in calls}
    return {
        "name": name,
        "dtype": jnp.dtype(dtype).name,
        "frames": n_frames,
        "videos": len(lengths),
        **{f"{kind}_s": value for kind, value in medians.items()},
        **{f"{kind}_frames_per_s": n_frames / value for kind, value in medians.items()},
        "stream_ratio": medians["stream"] / medians["bare"],
        "files_ratio": medians["files"] / medians["bare"],
        "first_call_s": first["bare"],
        "load": os.getloadavg()[0],
    }


COLUMNS = {
    "backbone": "{name}",
    "frames": "{frames}",
    "bare": "{bare_frames_per_s:.1f} f/s",
    "stream": "{stream_frames_per_s:.1f} f/s",
    "files": "{files_frames_per_s:.1f} f/s",
    f"stream/bare (target {TARGET_RATIO})": "{stream_ratio:.2f}",
    "files/bare": "{files_ratio:.2f}",
    "first call": "{first_call_s:.1f} s",
}


def main(settings: Settings) -> None:
    table = Table(COLUMNS)
    for name in settings.names:
        with tempfile.TemporaryDirectory() as folder:
            table.add(measure(name, settings, Path(folder)))
    table.store(settings.out, batch_size=settings.batch_size)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
