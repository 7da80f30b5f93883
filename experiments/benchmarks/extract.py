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
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.cli.extract import Extract
from esv_jax.data.video_writer import write_video
from esv_jax.models import backbones
from experiments.benchmarks.common import Repeated, command, in_turns, median

MAX_LENGTH = 8  # frames of a video


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Backbones and sizes."""

    repeats: int = 3
    """Timed calls of each kind; medians are reported."""
    names: tuple[str, ...] = tuple(backbones.BACKBONES)
    """Backbones."""
    n_batches: int = 2
    """Batches of frames in a call."""
    batch_size: int = 8
    """Frames in a batch."""
    bf16: bool = False
    """Compute in bfloat16."""


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


def measure(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Times of one backbone."""
    dtype = jnp.bfloat16 if settings.bf16 else jnp.float32
    variables = random_variables(name)
    weights = backbones.save_backbone(folder / f"{name}.safetensors", name, variables)
    batch_size, n_frames = settings.batch_size, settings.batch_size * settings.n_batches
    rng, draw, ends = np.random.default_rng(2), np.random.default_rng(1), [0]
    frames = rng.normal(size=(n_frames, 224, 224, 3)).astype(np.float32)
    while ends[-1] < n_frames:
        ends.append(min(ends[-1] + int(draw.integers(1, MAX_LENGTH + 1)), n_frames))
    videos = np.split(frames, ends[1:-1])
    clips = folder / name
    clips.mkdir()
    for i, video in enumerate(videos):
        pixels = rng.integers(0, 256, (len(video), 240, 320, 3), dtype=np.uint8)
        write_video(clips / f"{i}.mp4", pixels)
    apply = jax.jit(backbones.build_backbone(name, dtype=dtype).apply)
    extract = backbones.extractor(name, variables, dtype)

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
        "frames": n_frames,
        "videos": len(videos),
        **{f"{kind}_s": value for kind, value in medians.items()},
        **{f"{kind}_frames_per_s": n_frames / value for kind, value in medians.items()},
        "stream_ratio": medians["stream"] / medians["bare"],
        "files_ratio": medians["files"] / medians["bare"],
        "first_call_s": first["bare"],
    }


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    for name in settings.names:
        with tempfile.TemporaryDirectory() as folder:
            yield measure(name, settings, Path(folder))


if __name__ == "__main__":
    command(Settings, __doc__, measured)
