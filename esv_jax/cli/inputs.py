"""Files of sequences and videos that the commands take, behind one face."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from esv_jax import data
from esv_jax.checks import expect, message, nearest
from esv_jax.cli.videos import find_videos

SUFFIXES = ".ts, .npy, .hdf, .hdf5 or .h5"
_FEATURES = (".ts", ".npy", ".hdf", ".hdf5", ".h5")

_NEITHER = (
    ".safetensors",
    ".pth",
    ".pt",
    ".nc",
    ".json",
    ".pkl",
)  # our own files, given by mistake
_CHUNK = 256  # frames decoded at once

Encoder = Callable[[np.ndarray], np.ndarray]
"""uint8 frames (n, h, w, 3) to features (n, D), each frame on its own."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Sequences with what is known of them.

    Attributes:
      uids: one name per sequence.
      read: position, `most` elements -> features (n, D) float32 of as many at segment centres, with
        their indices; of all where there are no more, or None is asked for.
      length: position -> elements in all.
      labels: true classes, or None.
      class_names: names of the classes, or None.
      videos: where they are videos, their files; else None.
    """

    uids: tuple[str, ...]
    read: Callable[..., tuple[np.ndarray, np.ndarray]]
    length: Callable[[int], int]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    videos: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.uids)

    def positions(self, uids: tuple[str, ...], limit: int | None) -> list[int]:
        """Where the asked sequences are: those named, or the first `limit`, or all."""
        if not uids:
            return list(range(len(self)))[:limit]
        known = {uid: i for i, uid in enumerate(self.uids)}
        for uid in uids:
            if uid not in known:
                raise ValueError(
                    message("uids", "uids of the data", repr(uid), nearest(uid, self.uids))
                )
        return [known[uid] for uid in uids][:limit]


def is_video(path: Path) -> bool:
    """Whether a path holds videos (a file, a folder or a list of them) rather than features.

    Raises:
      ValueError: no such path, or a kind of file that is neither.
    """
    expect(path.exists(), "data", f"videos or a {SUFFIXES} file", f"no such file: {path}")
    suffix = path.suffix.lower()
    expect(suffix not in _NEITHER, "data", f"videos or a {SUFFIXES} file", str(path))
    return suffix not in _FEATURES


def open_videos(path: Path, encoder: Encoder, classes: Path | None = None) -> Inputs:
    """A video, a folder of videos or a list of them (see `find_videos`), encoded when read.

    Only the frames asked for are decoded; features of all frames are made 256 frames at a time.
    """
    found = find_videos([path])
    files = tuple(found.values())

    def frames_of(i: int) -> int:
        return data.probe_video(files[i]).frames

    def read(i: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
        n = frames_of(i)
        index = np.arange(n) if most is None or n <= most else data.segment_centres(n, most)
        parts = [
            encoder(data.decode_frames(files[i], indices=index[start : start + _CHUNK]))
            for start in range(0, len(index), _CHUNK)
        ]
        return np.concatenate(parts), index

    names = None if classes is None else data.read_classes(classes)
    return Inputs(tuple(found), read, frames_of, None, names, files)


def open_inputs(path: Path, label: str | None = None, classes: Path | None = None) -> Inputs:
    """Open `.ts` text, `.npy` arrays or an HDF5 feature store by suffix.

    Args:
      path: the file. A `.npy` holds (n, D), one sequence, or (V, n, D), V of one length.
      label: which label of an HDF5 store is the class; default "action" or the only one.
      classes: csv file of class names (`name,id`), for stores that only have numbers.
    """
    expect(path.is_file(), "data", f"a {SUFFIXES} file", f"no such file: {path}")
    suffix = path.suffix.lower()
    if suffix == ".ts":
        inputs = _ts(path)
    elif suffix == ".npy":
        inputs = _npy(path)
    elif suffix in (".hdf", ".hdf5", ".h5"):
        inputs = _hdf5(path, label)
    else:
        raise ValueError(message("data", f"a {SUFFIXES} file", str(path)))
    names = inputs.class_names if classes is None else data.read_classes(classes)
    return dataclasses.replace(inputs, class_names=names)


def _ts(path: Path) -> Inputs:
    sequences = data.read_ts(path)
    return Inputs(
        sequences.uids,
        lambda i, most: pick_elements(sequences.sequences[i], most),
        lambda i: len(sequences.sequences[i]),
        sequences.labels,
        sequences.class_names or None,
    )


def _npy(path: Path) -> Inputs:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            message(str(path), "a .npy file of numbers", f"an unreadable one ({error})")
        ) from error
    expect(
        isinstance(array, np.ndarray) and array.ndim in (2, 3),
        str(path),
        "an array (n, D), or (V, n, D) for several sequences",
        np.shape(array),
    )
    array = array[None] if array.ndim == 2 else array
    uids = tuple(f"{path.stem}-{i}" for i in range(len(array))) if len(array) > 1 else (path.stem,)

    def read(i: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
        return pick_elements(array[i].astype(np.float32), most)

    return Inputs(uids, read, lambda i: len(array[i]), None, None)


def _hdf5(path: Path, label: str | None) -> Inputs:
    store = data.FeatureStore(path)
    uids = tuple(store.uids)
    known = sorted(store[uids[0]][1]) if uids else []
    if label is None:
        label = "action" if "action" in known else (known[0] if len(known) == 1 else None)
    elif label not in known:
        raise ValueError(message("label", f"one of {known}", repr(label), nearest(label, known)))
    labels = None
    if label is not None:
        values = [store[uid][1][label] for uid in uids]
        if not all(isinstance(value, int) for value in values):
            raise ValueError(message("label", "whole numbers, one per class", f"{values[0]!r}"))
        labels = np.array(values)
    lengths = store.lengths()

    def read(i: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
        return pick_elements(store[uids[i]][0], most)

    return Inputs(uids, read, lambda i: int(lengths[i]), labels, None)


def pick_elements(features: np.ndarray, frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`frames` segment centres of a sequence with their indices; all where it has fewer."""
    n = len(features)
    if frames is None or n <= frames:
        return features, np.arange(n)
    index = data.segment_centres(n, frames)
    return features[index], index


def class_index(name: str, class_names: tuple[str, ...]) -> int:
    """A class by name or number; names come first, so that classes named "3" can be meant."""
    if name in class_names:
        return class_names.index(name)
    if name.isdigit() and int(name) < len(class_names):
        return int(name)
    way_out = nearest(name, class_names)
    raise ValueError(
        message("class", f"a name or an id in 0..{len(class_names) - 1}", repr(name), way_out)
    )
