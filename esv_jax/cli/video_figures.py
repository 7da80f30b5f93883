"""Figures of `explain` for a video: a strip of frames, and the video with its values under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from esv_jax import data, plots
from esv_jax.attribution import Attribution

_SHORT_SIDE = 240  # pixels, of the frames in the overlay
_CHUNK = 64  # frames decoded at once
_MAX_FRAMES = 1500  # of the overlay; longer videos are thinned out evenly


def draw_video(
    video: Path,
    att: Attribution,
    c: int,
    index: np.ndarray,
    class_name: str,
    place: Path,
    overlay: Literal["mp4", "gif", "none"],
) -> list[Path]:
    """Write `<place>_strip.png` and `<place>_overlay.<suffix>`; the paths written.

    Args:
      video: the file.
      att: of its frames `index` (n,). c: the class shown, `class_name` its name.
      place: where, without suffix.
      overlay: format of the second, or "none".
    """
    frames = data.decode_frames(video, indices=index, size=_SHORT_SIDE)
    labels = [str(i) for i in index]
    strip = place.with_name(f"{place.name}_strip.png")
    figure = plots.plot_frame_strip(
        att, frames, c, class_name=class_name, frame_labels=labels, title=video.name
    )
    plots.save_figure(figure, strip)
    if overlay == "none":
        return [strip]
    info = data.probe_video(video)
    shown = np.arange(info.frames)
    if len(shown) > _MAX_FRAMES:
        shown = data.segment_centres(info.frames, _MAX_FRAMES)
    pictures = plots.render_overlay(
        att,
        _frames(video, shown),
        c,
        index=index,
        shown=shown,
        class_name=class_name,
    )
    path = place.with_name(f"{place.name}_overlay.{overlay}")
    pace = info.fps * len(shown) / max(info.frames, 1) if info.fps else 12.0
    data.write_video(path, pictures, pace)
    return [strip, path]


def _frames(video: Path, index: np.ndarray) -> Iterator[np.ndarray]:
    """Frames one by one, decoded a few at a time."""
    for start in range(0, len(index), _CHUNK):
        yield from data.decode_frames(
            video, indices=index[start : start + _CHUNK], size=_SHORT_SIDE
        )
