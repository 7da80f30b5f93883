"""Decoding and preprocessing of sampled frames: run time.

    python -m experiments.benchmarks.video --clip clip.mp4 --out video.json

Eight frames of a clip of 10 s are decoded and made ready for a network (short side 256, crop 224,
normalised), which should take less than 0.25 s. Beside it, in the same run: a loop that decodes and
converts every frame and then picks eight, the same frames with counting by decoding, one late
frame, all frames, and clips loaded ahead by two threads against one after the other.
Without a clip, one is rendered: 280 frames of 340 x 256, H.264.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro

import esv_jax
from esv_jax.data import decode_frames, preprocess, probe_video, segment_centres, write_video
from esv_jax.data.inputs import prefetch
from esv_jax.data.preprocessing import TSN_RESNET50
from esv_jax.data.video_decode import open_frames
from experiments.records import write_cases

TARGET_SECONDS = {"sampled": 0.25}
CLIPS = 8  # loaded one after the other, and ahead


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    clip: Path | None = None
    """A video; default one that is rendered for the purpose."""
    n: int = 8
    """Frames sampled, at segment centres."""
    repeats: int = 5
    """Timed calls of a case, after one that is not; medians are reported."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def rendered() -> Iterator[np.ndarray]:
    """A textured ground with a slow drift, and a square that crosses it; 10 s at 28 a second."""
    ground = np.random.default_rng(0).integers(40, 216, (64, 85, 3), dtype=np.uint8)
    ground = np.kron(ground, np.ones((4, 4, 1), np.uint8))  # (256, 340, 3)
    for k in range(280):
        image = np.roll(ground, k // 3, axis=1)
        image[100:150, k : k + 50] = (230, 40, 40)
        yield image


def everything(clip: Path, n: int) -> np.ndarray:
    """The loop that most scripts have: decode and convert all, pick, preprocess."""
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = np.stack([frames[i] for i in segment_centres(len(frames), n)])
    return preprocess(picked, TSN_RESNET50)


def counted(clip: Path, n: int) -> np.ndarray:
    """The sampled frames where packets do not tell how many there are."""
    reader = open_frames(clip).counted()
    return np.stack(list(reader.frames(segment_centres(len(reader), n).tolist())))


def measure(clip: Path, settings: Settings) -> list[dict[str, Any]]:
    n, info = settings.n, probe_video(clip)

    def sampled(path: Path = clip) -> np.ndarray:
        return preprocess(decode_frames(path, n=n), TSN_RESNET50)

    cases: dict[str, Callable[[], Any]] = {
        "sampled": sampled,
        "every frame, then pick": lambda: everything(clip, n),
        "sampled, no preprocessing": lambda: decode_frames(clip, n=n),
        "sampled, counted by decoding": lambda: counted(clip, n),
        "the last frame": lambda: decode_frames(clip, indices=[info.frames - 1]),
        "all frames, short side 128": lambda: decode_frames(clip, n=None, size=128),
        "probe": lambda: probe_video(clip),
        f"{CLIPS} clips, one by one": lambda: [sampled() for _ in range(CLIPS)],
        f"{CLIPS} clips, prefetch": lambda: list(prefetch([clip] * CLIPS, sampled)),
    }
    rows = []
    for name, run in cases.items():
        run()
        times = []
        for _ in range(max(settings.repeats, 5)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        target = TARGET_SECONDS.get(name)
        rows.append(
            {
                "case": name,
                "median_s": statistics.median(times),
                "min_s": min(times),
                "target_s": target,
                "load": os.getloadavg()[0],
            }
        )
        print_row(rows[-1], header=len(rows) == 1)
    return rows


def print_row(row: dict[str, Any], header: bool) -> None:
    if header:
        print(f"{'case':32}{'median':>12}{'min':>12}{'target':>12}")
    target = f"{row['target_s'] * 1e3:>9.0f} ms" if row["target_s"] else f"{'-':>12}"
    times = "".join(f"{row[key] * 1e3:>9.1f} ms" for key in ("median_s", "min_s"))
    print(f"{row['case']:32}{times}{target}", flush=True)


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = settings.clip
        if clip is None:
            clip = Path(folder) / "rendered.mp4"
            write_video(clip, rendered(), fps=28)
        info = probe_video(clip)
        print(f"{clip.name}: {info.frames} frames, {info.width}x{info.height}, {info.codec}")
        rows = measure(clip, settings)
    if settings.out is not None:
        write_cases(
            settings.out,
            rows,
            clip=clip.name,
            video=dataclasses.asdict(info),
            sampled=settings.n,
            machine=platform.machine(),
            av=av.__version__,
            esv_jax=esv_jax.__version__,
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
