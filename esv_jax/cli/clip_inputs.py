"""Whole clips for 3D networks: the network that `--model` names, and videos as it sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from esv_jax import data, models
from esv_jax.checkpoints import load_torch
from esv_jax.checks import expect
from esv_jax.cli.outputs import expect_free, file_name
from esv_jax.cli.printing import BAD_INPUT, complain, say
from esv_jax.data.video_files import find_videos
from esv_jax.files import make_folder

T = TypeVar("T")

_SLOWEST = 2.0  # frames per second of videos made of a clip, at least


@dataclasses.dataclass(frozen=True, eq=False)
class VideoClip:
    """A video as a network sees it.

    Attributes:
      uid, path: its name, its file.
      index: numbers of its frames that are seen, (t,), at segment centres.
      clip: these as the network takes them, (t, s, s, 3).
      pictures: the same frames for display, (t, s, s, 3) uint8 RGB.
      pace: frames per second at which they last as long as the video, at least 2.
    """

    uid: str
    path: Path
    index: np.ndarray
    clip: jax.Array
    pictures: np.ndarray
    pace: float


def load_clip_network(path: Path | None, classes: Path | None = None) -> models.ClipModel:
    """The 3D network in a file, by default the small one that comes with the package.

    Args:
      path: a clip model (.safetensors), or PyTorch weights of a published network.
      classes: CSV file of class names (`name,id`), in place of the model's.
    Raises:
      FileNotFoundError: no such file. ValueError, TypeError: naming the file, none of the known
        networks; names that are not one per class.
    """
    names = None if classes is None else tuple(data.read_classes(classes))
    if path is None:
        model = models.load_synthetic_clips()
        say(
            f"The network that comes with this package knows only its {len(model.class_names)}"
            " made-up classes. Name your own with --model."
        )
    elif path.suffix.lower() == ".safetensors":
        model = models.load_clip_model(path)
    else:
        state = load_torch(path)
        try:
            return models.clip_model_from_state_dict(state, names)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}, {error}") from None
    return model if names is None else dataclasses.replace(model, class_names=names)


def read_clip(model: models.ClipModel, uid: str, path: Path) -> VideoClip:
    """Decode and prepare the frames of a video that a network takes.

    Raises:
      ValueError, OSError: a file that is no video, or damaged; too few frames.
    """
    info = data.probe_video(path)
    t = model.n_frames
    expect(info.frames >= t, path.name, f"at least {t} frames, for the network", info.frames)
    index = data.segment_centres(info.frames, t)
    frames = data.decode_frames(path, indices=index)
    seconds = info.frames / info.fps if info.fps else t / _SLOWEST
    pace = max(_SLOWEST, t / seconds)
    clip = model.prepare(frames)
    return VideoClip(uid, path, index, clip, model.pictures(clip), pace)


def free_videos(
    source: Path, out: Path, *, limit: int | None, overwrite: bool
) -> Mapping[str, Path]:
    """The first `limit` videos of a file, folder or list, by uid, once `out` has room for them.

    Raises:
      FileNotFoundError, ValueError: as `find_videos`, a limit below 1.
      FileExistsError: there are results of one of them, not to be replaced. OSError: no place.
    """
    expect(limit is None or limit >= 1, "limit", "a number >= 1", limit)
    videos = dict([*find_videos([source]).items()][:limit])
    make_folder(out)
    for uid in videos:
        expect_free(out / f"{file_name(uid)}.nc", overwrite=overwrite)
    return videos


def try_each(
    videos: Mapping[str, T],
    explain: Callable[[str, T], Any],
    after: Callable[[], Any] = lambda: None,
) -> list[str]:
    """Call explain(uid, video) for every video, also where some of them fail.

    Args:
      videos: by uid, e.g. their files.
      explain: raises ValueError or OSError of a video that cannot be explained.
      after: called after each, e.g. to move a progress bar.
    Returns:
      Messages of the videos that failed.
    """
    said = []
    for uid, video in videos.items():
        try:
            explain(uid, video)
        except (ValueError, OSError) as error:
            said.append(str(error))
        after()
    return said


def exit_code(said: list[str]) -> int:
    """Print what went wrong, a line each; the exit code of the command."""
    for text in said:
        complain(text)
    return BAD_INPUT if said else 0
