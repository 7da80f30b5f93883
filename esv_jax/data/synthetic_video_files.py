"""Synthetic clips as a folder of video files with their truth, as real data sets come."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

import numpy as np

from esv_jax.data.synthetic_video import SyntheticVideos
from esv_jax.data.video_writer import write_video
from esv_jax.files import atomic_path, make_folder


def write_synthetic_videos(
    folder: str | PathLike[str], videos: SyntheticVideos, fps: float = 12.0
) -> list[Path]:
    """Write each clip as an MP4 file, and what is true of them beside.

        <uid>.mp4       the clip; compression changes its pixels a little
        clips.json      class names, and of each clip: uid, label, class, frames that are evidence
        evidence.npz    "<uid>": (t, h, w) bool, the pixels that are evidence

    Args:
      folder: made if absent; files of the same names are replaced.
      videos: what `synthetic_videos` gave.
      fps: frames per second, > 0.
    Returns:
      The video files, in the order of the clips.
    Raises:
      ImportError: PyAV is not installed.
      ValueError, OSError: a pace or a place that cannot be.
    """
    folder = Path(folder)
    make_folder(folder)
    paths = [folder / f"{uid}.mp4" for uid in videos.uids]
    for path, clip in zip(paths, videos.clips, strict=True):
        write_video(path, clip, fps)
    clips = [
        {
            "uid": uid,
            "label": int(label),
            "class": videos.class_names[label],
            "evidence_frames": np.flatnonzero(frames).tolist(),
        }
        for uid, label, frames in zip(
            videos.uids, videos.labels, videos.evidence_frames, strict=True
        )
    ]
    text = json.dumps({"class_names": list(videos.class_names), "clips": clips}, indent=1)
    with atomic_path(folder / "clips.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_path(folder / "evidence.npz") as temporary:
        masks = dict(zip(videos.uids, videos.evidence_mask, strict=True))
        np.savez_compressed(temporary, allow_pickle=False, **masks)
    return paths
