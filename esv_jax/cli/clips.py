"""Common part of the commands that explain predictions of 3D networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import jax
import numpy as np
import tyro

from esv_jax import data, models
from esv_jax.checkpoints import load_torch
from esv_jax.checks import expect
from esv_jax.cli.options import expect_free, file_name
from esv_jax.cli.printing import say, table
from esv_jax.data.classes import class_index
from esv_jax.data.video_files import find_videos
from esv_jax.extras import require
from esv_jax.files import atomic_path, make_folder
from esv_jax.models.clip_model import ClipModel, clip_model_from_state_dict

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")
Row = dict[str, str | int | float]  # of a table, by column

_SLOWEST = 2.0  # frames per second of videos made of a clip, at least


@dataclasses.dataclass(frozen=True, eq=False)
class VideoClip:
    """The frames of a video that a network takes.

    Attributes:
      uid, path: the video's name and file.
      index: frame numbers, (t,), at segment centres.
      clip: network input, (t, s, s, 3).
      pictures: the same frames for display, (t, s, s, 3) uint8 RGB.
      pace: frames per second at which they last as long as the video, at least 2.
    """

    uid: str
    path: Path
    index: np.ndarray
    clip: jax.Array
    pictures: np.ndarray
    pace: float


def read_clip(model: ClipModel, uid: str, path: Path) -> VideoClip:
    """Decode and prepare the frames of a video that a network takes; refuse one of too few."""
    info = data.probe_video(path)
    t = model.n_frames
    expect(info.frames >= t, path.name, f"at least {t} frames, for the network", info.frames)
    index = data.segment_centres(info.frames, t)
    frames = data.decode_frames(path, indices=index)
    seconds = info.frames / info.fps if info.fps else t / _SLOWEST
    clip = model.prepare(frames)
    return VideoClip(uid, path, index, clip, model.pictures(clip), max(_SLOWEST, t / seconds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Options of every command that explains predictions of a 3D network."""

    model: Path | None = None
    """Clip model (.safetensors), or PyTorch weights of R(2+1)D-18 or C3D (.pth); default the small
    network of this package."""
    classes: Path | None = None
    """CSV of class names (name,id) that replace the model's."""
    target: Annotated[str, tyro.conf.arg(name="class")] = "pred"
    """Class to explain: pred, a name or an id."""
    limit: int | None = None
    """Explain the first N videos."""
    out: Path = Path("results")
    """Folder for the outputs."""

    def load_network(self) -> ClipModel:
        """Load the 3D network and check the names of its classes, and that of the target."""
        names = None if self.classes is None else tuple(data.classes.read_classes(self.classes))
        if self.model is None:
            model = models.load_synthetic_clips()
            say(
                f"The network of this package was trained on {len(model.class_names)} synthetic"
                " classes. Pass your own with --model."
            )
        elif self.model.suffix.lower() == ".safetensors":
            model = models.load_clip_model(self.model)
        else:
            state = load_torch(self.model)
            try:
                model = clip_model_from_state_dict(state, names)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{self.model}, {error}") from None
        if names is not None:
            model = dataclasses.replace(model, class_names=names)
        self.check_class(model)
        return model

    def check_class(self, model: ClipModel) -> None:
        """Refuse an unknown class before any work is done."""
        if self.target != "pred":
            class_index(self.target, model.class_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoOptions(ClipOptions):
    """Options of the commands that write files for each video."""

    data: tyro.conf.Positional[Path]
    """Video, folder of videos, or list (.txt, .csv)."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """Format of the videos that are written."""
    overwrite: bool = False
    """Replace results of these videos in the output folder."""

    def find_videos(self) -> Mapping[str, Path]:
        """Return the first `limit` videos by uid, if the results of all can be written."""
        expect(self.limit is None or self.limit >= 1, "limit", "a number >= 1", self.limit)
        videos = dict([*find_videos([self.data]).items()][: self.limit])
        make_folder(self.out)
        for uid in videos:
            expect_free(self.path_of(uid, ".nc"), overwrite=self.overwrite)
        return videos

    def path_of(self, uid: str, ending: str) -> Path:
        """Return the path of a file about a video."""
        return self.out / f"{file_name(uid)}{ending}"

    def write_table(
        self,
        name: str,
        title: str,
        frames: Sequence[pandas.DataFrame],
        columns: list[str],
        rows: list[list[object]],
    ) -> None:
        """Write data frames as `<name>.csv` and print the first rows of a table."""
        with atomic_path(self.out / f"{name}.csv") as path:
            require("pandas", "files").concat(frames).to_csv(path, index=False)
        table(title, columns, rows, n=len(rows), file=f"{name}.csv")


def explain_each(
    videos: Mapping[str, T],
    explain: Callable[[str, T], object],
    after: Callable[[], object] = lambda: None,
) -> list[str]:
    """Call explain(uid, video), then after(), for every video; return messages of failures.

    A ValueError or OSError of one video does not stop the others.
    """
    errors = []
    for uid, video in videos.items():
        try:
            explain(uid, video)
        except (ValueError, OSError) as error:
            errors.append(str(error))
        after()
    return errors
