"""Files of sequences and videos behind one face: names, lengths, labels, reading by position."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax.checks import expect, message, nearest
from esv_jax.data.classes import read_classes
from esv_jax.data.features import FeatureStore
from esv_jax.data.sampling import segment_centres
from esv_jax.data.ts import read_ts
from esv_jax.data.video import decode_frames, probe_video
from esv_jax.data.video_lists import find_videos

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

_RUN = 256  # consecutive rows of a feature store read at once

Encoder = Callable[[np.ndarray], np.ndarray]
"""uint8 frames (n, h, w, 3) to features (n, D), each frame on its own."""

Read = tuple[np.ndarray, np.ndarray]
"""Features (n, D) float32 of some elements of a sequence, and their indices (n,)."""


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
      read_run: first position, one beyond the last, `most` -> what `read` gives of each, faster;
        None where there is no faster way.
      source: the path they were opened from; None where they came about in another way.
      opened: size and time of modification of `source` when it was opened, where it is one file.
    """

    uids: tuple[str, ...]
    read: Callable[..., Read]
    length: Callable[[int], int]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    videos: tuple[Path, ...] | None = None
    read_run: Callable[[int, int, int | None], list[Read]] | None = None
    source: Path | None = None
    opened: str | None = None

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.uids)

    def read_many(self, positions: Sequence[int], most: int | None) -> list[Read | Exception]:
        """Yield the result of `read` at each position, or the error it raises.

        Consecutive positions are read together where there is a way to.
        """
        found: list[Read | Exception] = []
        runs = np.split(np.asarray(positions), np.flatnonzero(np.diff(positions) != 1) + 1)
        for run in runs:
            for start in range(0, len(run), _RUN):
                found += self._read_run([int(i) for i in run[start : start + _RUN]], most)
        return found

    def _read_run(self, run: list[int], most: int | None) -> Sequence[Read | Exception]:
        """The same of at most 256 consecutive positions."""
        if self.read_run is not None and len(run) > 1:
            try:
                return self.read_run(run[0], run[-1] + 1, most)
            except (ValueError, OSError):
                pass  # one by one tells which
        found: list[Read | Exception] = []
        for i in run:
            try:
                found.append(self.read(i, most))
            except (ValueError, OSError) as error:
                found.append(error)
        return found

    def stamps(self, positions: Sequence[int]) -> list[str] | None:
        """Size and time of modification of the file behind each position; None without files."""
        if self.videos is not None:
            return [_stamp(self.videos[i]) for i in positions]
        if self.source is None:
            return None
        return [_stamp(self.source)] * len(positions)

    def stamps_when_opened(self, positions: Sequence[int]) -> list[str] | None:
        """`stamps` as they were before anything was read; of videos, which are read late, now."""
        return self.stamps(positions) if self.opened is None else [self.opened] * len(positions)

    def contents(
        self, positions: Sequence[int], most: int | None, reads: Sequence[Any] | None = None
    ) -> list[str]:
        """Digests of what lies at some positions: of a video's file, else of its features.

        Args:
          positions, most: as `read_many` takes them. reads: what it gave, read anew if None.
        Returns:
          16 hexadecimal digits each; "" for what cannot be read.
        Cost: reads files of videos, not decoding them, or features.
        """
        if self.videos is not None:
            return [_digest_of_file(self.videos[i]) for i in positions]
        reads = self.read_many(positions, most) if reads is None else reads
        return ["" if isinstance(read, Exception) else _digest_of_array(read[0]) for read in reads]

    def positions(self, uids: tuple[str, ...], limit: int | None) -> list[int]:
        """Return the positions of the named sequences, of the first `limit`, or of all."""
        if not uids:
            return list(range(len(self)))[:limit]
        known = {uid: i for i, uid in enumerate(self.uids)}
        for uid in uids:
            if uid not in known:
                raise ValueError(
                    message("uids", "uids of the data", repr(uid), nearest(uid, self.uids))
                )
        return [known[uid] for uid in uids][:limit]


def _files_of(path: Path) -> list[Path]:
    """A file, or those of a folder of images, in the order of their names."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.is_file())


def _stamp(path: Path) -> str:
    """Sizes and times of modification of a file, or of all in a folder; "" where there is none."""
    try:
        found = [(each.name, each.stat()) for each in _files_of(path)]
    except OSError:
        return ""
    return ";".join(f"{name} {about.st_size} {about.st_mtime_ns}" for name, about in found)


def _digest_of_file(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    try:
        for each in _files_of(path):
            digest.update(each.name.encode(errors="surrogateescape") if path.is_dir() else b"")
            with open(each, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return ""
    return digest.hexdigest()


def _digest_of_array(x: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{x.dtype} {x.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()


def is_video(path: Path) -> bool:
    """Return whether a path holds videos (a file, a folder or a list of them) rather than features.

    Raises:
      ValueError: no such path, or a kind of file that is neither.
    """
    expect(path.exists(), "data", f"videos or a {SUFFIXES} file", f"no such file: {path}")
    suffix = path.suffix.lower()
    expect(suffix not in _NEITHER, "data", f"videos or a {SUFFIXES} file", str(path))
    return suffix not in _FEATURES


def open_videos(
    path: str | PathLike[str], encoder: Encoder, classes: str | PathLike[str] | None = None
) -> Inputs:
    """A video, a folder of videos or a list of them (see `find_videos`), encoded when read.

    Only the frames asked for are decoded; features of all frames are made 256 frames at a time.
    """
    found = find_videos([Path(path)])
    files = tuple(found.values())

    def frames_of(i: int) -> int:
        return probe_video(files[i]).frames

    def read(i: int, most: int | None) -> Read:
        n = frames_of(i)
        index = np.arange(n) if most is None or n <= most else segment_centres(n, most)
        parts = [
            encoder(decode_frames(files[i], indices=index[start : start + _CHUNK]))
            for start in range(0, len(index), _CHUNK)
        ]
        return np.concatenate(parts), index

    names = None if classes is None else read_classes(classes)
    return Inputs(tuple(found), read, frames_of, None, names, files, source=Path(path))


def open_inputs(
    path: str | PathLike[str],
    label: str | None = None,
    classes: str | PathLike[str] | None = None,
) -> Inputs:
    """Open `.ts` text, `.npy` arrays or an HDF5 feature store by suffix.

    Args:
      path: the file. A `.npy` holds (n, D), one sequence, or (V, n, D), V of one length.
      label: which label of an HDF5 store is the class; default "action" or the only one.
      classes: csv file of class names (`name,id`), for stores that only have numbers.
    """
    path = Path(path)
    expect(path.is_file(), "data", f"a {SUFFIXES} file", f"no such file: {path}")
    suffix, opened = path.suffix.lower(), _stamp(path)
    if suffix == ".ts":
        inputs = _ts(path)
    elif suffix == ".npy":
        inputs = _npy(path)
    elif suffix in (".hdf", ".hdf5", ".h5"):
        inputs = _hdf5(path, label)
    else:
        raise ValueError(message("data", f"a {SUFFIXES} file", str(path)))
    expect(len(inputs) > 0, str(path), "at least one sequence", "none")
    names = inputs.class_names if classes is None else read_classes(classes)
    return dataclasses.replace(inputs, class_names=names, source=path, opened=opened)


def _ts(path: Path) -> Inputs:
    sequences = read_ts(path)
    return Inputs(
        sequences.uids,
        lambda i, most: pick_elements(sequences.sequences[i], most),
        lambda i: len(sequences.sequences[i]),
        sequences.labels,
        sequences.class_names or None,
    )


def _npy(path: Path) -> Inputs:
    array = _read_array(path)
    array = array[None] if array.ndim == 2 else array
    uids = tuple(f"{path.stem}-{i}" for i in range(len(array))) if len(array) > 1 else (path.stem,)

    def read(i: int, most: int | None) -> Read:
        return pick_elements(array[i].astype(np.float32), most)

    return Inputs(uids, read, lambda i: len(array[i]), None, None)


def _read_array(path: Path) -> np.ndarray:
    """The array of a `.npy` file, (n, D) or (V, n, D), once its header is known to be true."""
    expected = "a .npy file of numbers"
    try:
        # Maps what the header declares onto the file: a size beyond it is an error, not memory.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(message(str(path), expected, "one cut short")) from error
    except Exception as error:  # the header is a Python literal: what parsing raises is open
        got, way_out = "an unreadable one", "It may be damaged or of another format."
        raise ValueError(message(str(path), expected, got, way_out)) from error
    kind = array.dtype.kind
    expect(kind in "buif", str(path), expected, f"dtype {array.dtype}")
    fits = array.ndim in (2, 3) and array.size > 0
    expect(fits, str(path), "an array (n, D), or (V, n, D) for several sequences", array.shape)
    return np.array(array)


def _hdf5(path: Path, label: str | None) -> Inputs:
    store = FeatureStore(path)
    uids, known = tuple(store.uids), sorted(store.labels)
    if label is None:
        label = "action" if "action" in known else (known[0] if len(known) == 1 else None)
    elif label not in known:
        raise ValueError(message("label", f"one of {known}", repr(label), nearest(label, known)))
    labels = None
    if label is not None:
        labels = _classes(f"{path.name}, labels/{label}", store.labels[label])
    lengths = store.lengths(strict=False)

    def read(i: int, most: int | None) -> Read:
        return pick_elements(store[uids[i]][0], most)

    def read_run(start: int, stop: int, most: int | None) -> list[Read]:
        return [pick_elements(features, most) for features in store.run(start, stop)]

    def length(i: int) -> int:
        return int(lengths[i]) or len(store[uids[i]][0])  # a bad row tells what is wrong with it

    return Inputs(uids, read, length, labels, None, read_run=read_run)


def _classes(where: str, values: Sequence[Any]) -> np.ndarray:
    """Labels as class numbers, (V,) int; whole numbers may be stored as floats."""
    for value in values:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        way_out = "Choose another label with --label, or write class numbers."
        expect(whole, where, "whole numbers, one per class", repr(value), way_out)
    return np.array([int(value) for value in values], np.int64)


def pick_elements(features: np.ndarray, frames: int | None) -> Read:
    """`frames` segment centres of a sequence with their indices; all where it has fewer."""
    n = len(features)
    if frames is None or n <= frames:
        return features, np.arange(n)
    index = segment_centres(n, frames)
    return features[index], index
