"""Run time of decoding and preprocessing of sampled frames.

    python -m experiments.benchmarks.video --clip clip.mp4 --out video.json

Eight frames of a clip of 10 s are decoded and preprocessed (short side 256, crop 224, normalised);
the target is 0.25 s. Beside it, in the same run: a loop that decodes and converts every frame and
selects eight, the same frames with counting by decoding, the last frame, all frames, and clips
loaded ahead by two threads or one after the other.
Without a clip, one is rendered: 280 frames of 340 x 256, H.264.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from esv_jax.data import decode_frames, preprocess, probe_video, segment_centres, write_video
from esv_jax.data.inputs import prefetch
from esv_jax.data.preprocessing import TSN_RESNET50
from esv_jax.data.video_decode import VideoFile
from esv_jax.data.video_files import index_by_decoding
from experiments.benchmarks.common import Repeated, command, seconds, spread

CLIPS = 8  # loaded one after the other, and ahead


@dataclasses.dataclass(frozen=True)
class Settings(Repeated):
    """Clip, sizes and repeats, at least five."""

    clip: Path | None = None
    """A video; default one that is rendered for the purpose."""
    n: int = 8
    """Frames sampled, at segment centres."""


def rendered() -> Iterator[np.ndarray]:
    """A textured ground with a slow drift, and a square that crosses it; 10 s at 28 a second."""
    ground = np.random.default_rng(0).integers(40, 216, (64, 85, 3), dtype=np.uint8)
    ground = np.kron(ground, np.ones((4, 4, 1), np.uint8))  # (256, 340, 3)
    for k in range(280):
        image = np.roll(ground, k // 3, axis=1)
        image[100:150, k : k + 50] = (230, 40, 40)
        yield image


def everything(clip: Path, n: int) -> np.ndarray:
    """Decodes and converts all frames, selects n, preprocesses."""
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = np.stack([frames[i] for i in segment_centres(len(frames), n)])
    return preprocess(picked, TSN_RESNET50)


def counted(clip: Path, n: int) -> np.ndarray:
    """The sampled frames, counted by decoding."""
    reader = VideoFile(clip, index_by_decoding(clip))
    return np.stack(list(reader.frames(segment_centres(len(reader), n).tolist())))


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Times of all cases."""
    with tempfile.TemporaryDirectory() as folder:
        clip, n = settings.clip or Path(folder) / "rendered.mp4", settings.n
        if settings.clip is None:
            write_video(clip, rendered(), fps=28)
        info = probe_video(clip)
        print(f"{clip.name}: {info.frames} frames, {info.width}x{info.height}, {info.codec}")

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
        for name, run in cases.items():
            run()
            times = spread([seconds(run) for _ in range(max(settings.repeats, 5))])
            yield {"case": name, **times, "target_s": 0.25 if name == "sampled" else None}


if __name__ == "__main__":
    command(Settings, __doc__, measured, "av")
