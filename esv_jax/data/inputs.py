"""Sequences from files, read by position, on demand or ahead."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from esv_jax.checks import expect_int, message, nearest
from esv_jax.data.classes import read_classes
from esv_jax.data.features import FeatureStore, Label
from esv_jax.data.preprocessing import segment_centres
from esv_jax.data.ts import read_ts
from esv_jax.data.video_decode import decode_frames, probe_video
from esv_jax.data.video_files import find_videos

SUFFIXES = ".ts, .npy, .hdf, .hdf5 or .h5"
_FEATURES = (".ts", ".npy", ".hdf", ".hdf5", ".h5")
_OTHER_FORMATS = (".safetensors", ".pth", ".pt", ".nc", ".json", ".pkl")  # models and results
_DECODED_AT_ONCE = 256  # frames
_READ_AT_ONCE = 256  # consecutive rows of a feature store

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

Encoder = Callable[[np.ndarray], np.ndarray]
"""uint8 frames (n, h, w, 3) to features (n, D), each frame on its own."""

Read = tuple[np.ndarray, np.ndarray]
"""Features (n, D) float32 of some elements of a sequence, and their indices (n,)."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Sequences that are read on demand.

    Attributes:
      uids: one name per sequence.
      read: (position, `most`) to features (n, D) float32 and indices of at most that many
        elements, at segment centres; of all for None.
      length: position to number of elements.
      labels: true classes, or None.
      class_names: names of the classes, or None.
      videos: files of the videos, or None if the sequences are not videos.
      read_run: (start, stop, most) to the results of `read`, faster; None if there is no faster
        way.
      source: the opened path, or None.
      opened: size and modification time of `source` on opening, where it is one file.
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
        """The result of `read` at each position, or the error it raises."""
        results: list[Read | Exception] = []
        runs = np.split(np.asarray(positions), np.flatnonzero(np.diff(positions) != 1) + 1)
        for run in runs:
            for start in range(0, len(run), _READ_AT_ONCE):
                results += self._read_run(run[start : start + _READ_AT_ONCE].tolist(), most)
        return results

    def _read_run(self, run: list[int], most: int | None) -> Sequence[Read | Exception]:
        """The result of `read_many` at consecutive positions."""
        if self.read_run is not None and len(run) > 1:
            try:
                return self.read_run(run[0], run[-1] + 1, most)
            except (ValueError, OSError):
                pass  # reading them one by one shows which fails
        results: list[Read | Exception] = []
        for i in run:
            try:
                results.append(self.read(i, most))
            except (ValueError, OSError) as error:
                results.append(error)
        return results

    def stamps(self, positions: Sequence[int]) -> list[str] | None:
        """Size and modification time of the file of each position; None without files."""
        if self.videos is not None:
            return [_stamp(self.videos[i]) for i in positions]
        if self.source is None:
            return None
        return [_stamp(self.source)] * len(positions)

    def stamps_when_opened(self, positions: Sequence[int]) -> list[str] | None:
        """`stamps` before anything was read; current ones for videos, which are read later."""
        return self.stamps(positions) if self.opened is None else [self.opened] * len(positions)

    def contents(
        self,
        positions: Sequence[int],
        most: int | None,
        reads: Sequence[Read | Exception] | None = None,
    ) -> list[str]:
        """Digests of the video files, or else of the features, at some positions.

        `reads` are results of `read_many`, called if None. A digest is 16 hexadecimal digits, or ""
        for data that cannot be read.
        """
        if self.videos is not None:
            return [_digest_of_file(self.videos[i]) for i in positions]
        reads = self.read_many(positions, most) if reads is None else reads
        return ["" if isinstance(read, Exception) else _digest_of_array(read[0]) for read in reads]

    def positions(self, uids: tuple[str, ...], limit: int | None) -> list[int]:
        """Positions of the named sequences, or of all; at most the first `limit`."""
        if not uids:
            return list(range(len(self)))[:limit]
        known = {uid: i for i, uid in enumerate(self.uids)}
        for uid in uids:
            if uid not in known:
                way_out = nearest(uid, self.uids)
                raise ValueError(message("uids", "uids of the data", repr(uid), way_out))
        return [known[uid] for uid in uids][:limit]


def _files_of(path: Path) -> list[Path]:
    """A file, or those of a folder of images, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file())


def _stamp(path: Path) -> str:
    """Sizes and modification times of a file, or of all in a folder; "" if there is none."""
    try:
        stats = [(file.name, file.stat()) for file in _files_of(path)]
    except OSError:
        return ""
    return ";".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)


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
    """Return whether a path holds videos or features; refuses models, results, missing files."""
    expected = f"videos or a {SUFFIXES} file"
    if not path.exists():
        raise ValueError(message("data", expected, f"no such file: {path}"))
    if path.suffix.lower() in _OTHER_FORMATS:
        raise ValueError(message("data", expected, str(path)))
    return path.suffix.lower() not in _FEATURES


def open_videos(
    path: str | PathLike[str], encoder: Encoder, classes: str | PathLike[str] | None = None
) -> Inputs:
    """Open a video, a folder of videos or a list of them (see `find_videos`) as features.

    Frames are decoded and encoded on reading, at most 256 at a time. `classes` is a CSV file of
    class names (`name,id`).
    """
    found = find_videos([Path(path)])
    files = tuple(found.values())

    def length(i: int) -> int:
        return probe_video(files[i]).frames

    def read(i: int, most: int | None) -> Read:
        n = length(i)
        index = np.arange(n) if most is None or n <= most else segment_centres(n, most)
        parts = [
            encoder(decode_frames(files[i], indices=index[start : start + _DECODED_AT_ONCE]))
            for start in range(0, len(index), _DECODED_AT_ONCE)
        ]
        return np.concatenate(parts), index

    names = None if classes is None else read_classes(classes)
    return Inputs(tuple(found), read, length, None, names, files, source=Path(path))


def open_inputs(
    path: str | PathLike[str],
    label: str | None = None,
    classes: str | PathLike[str] | None = None,
) -> Inputs:
    """Open `.ts` text, `.npy` arrays or an HDF5 feature store by suffix.

    Args:
      path: the file. A `.npy` holds (n, D), one sequence, or (V, n, D), V of one length.
      label: name of the label of an HDF5 store that is the class; default "action" or the only
        one.
      classes: CSV file of class names (`name,id`), for stores with class numbers only.
    """
    path, expected = Path(path), f"a {SUFFIXES} file"
    if not path.is_file():
        raise ValueError(message("data", expected, f"no such file: {path}"))
    suffix, opened = path.suffix.lower(), _stamp(path)
    if suffix == ".ts":
        inputs = _ts(path)
    elif suffix == ".npy":
        inputs = _npy(path)
    elif suffix in _FEATURES:
        inputs = _hdf5(path, label)
    else:
        raise ValueError(message("data", expected, str(path)))
    if len(inputs) == 0:
        raise ValueError(message(str(path), "at least one sequence", "none"))
    names = inputs.class_names if classes is None else read_classes(classes)
    return dataclasses.replace(inputs, class_names=names, source=path, opened=opened)


def _ts(path: Path) -> Inputs:
    sequences = read_ts(path)
    return Inputs(
        sequences.uids,
        lambda i, most: _pick(sequences.sequences[i], most),
        lambda i: len(sequences.sequences[i]),
        sequences.labels,
        sequences.class_names or None,
    )


def _npy(path: Path) -> Inputs:
    array = _read_array(path)
    array = array[None] if array.ndim == 2 else array
    uids = tuple(f"{path.stem}-{i}" for i in range(len(array))) if len(array) > 1 else (path.stem,)

    def read(i: int, most: int | None) -> Read:
        return _pick(array[i].astype(np.float32), most)

    return Inputs(uids, read, lambda i: len(array[i]), None, None)


def _read_array(path: Path) -> np.ndarray:
    """The array of a `.npy` file, (n, D) or (V, n, D)."""
    expected = "a .npy file of numbers"
    try:
        # A memory map: a header that declares more than the file holds is an error, not memory.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(message(str(path), expected, "one cut short")) from error
    except Exception as error:  # parsing the header, a Python literal, can raise anything
        got, way_out = "an unreadable one", "It may be damaged or of another format."
        raise ValueError(message(str(path), expected, got, way_out)) from error
    if array.dtype.kind not in "buif":
        raise ValueError(message(str(path), expected, f"dtype {array.dtype}"))
    if array.ndim not in (2, 3) or array.size == 0:
        expected = "an array (n, D), or (V, n, D) for several sequences"
        raise ValueError(message(str(path), expected, array.shape))
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
        return _pick(store[uids[i]][0], most)

    def read_run(start: int, stop: int, most: int | None) -> list[Read]:
        return [_pick(features, most) for features in store.run(start, stop)]

    def length(i: int) -> int:
        return int(lengths[i]) or len(store[uids[i]][0])  # 0 for a bad row, which raises here

    return Inputs(uids, read, length, labels, None, read_run=read_run)


def _classes(location: str, values: Sequence[Label]) -> np.ndarray:
    """Labels as class numbers, (V,) int64; whole numbers may be stored as floats."""
    for value in values:
        if isinstance(value, str) or not float(value).is_integer():
            way_out = "Choose another label with --label, or write class numbers."
            raise ValueError(
                message(location, "whole numbers, one per class", repr(value), way_out)
            )
    return np.array([int(value) for value in values], np.int64)


def _pick(features: np.ndarray, most: int | None) -> Read:
    """At most `most` elements of a sequence at segment centres, and their indices."""
    n = len(features)
    if most is None or n <= most:
        return features, np.arange(n)
    index = segment_centres(n, most)
    return features[index], index


def prefetch(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    *,
    workers: int = 2,
    ahead: int = 4,
) -> Iterator[Loaded]:
    """Yield `load(item)` for each item, in order, computed in background threads.

        for frames in prefetch(paths, decode_frames):
            ...

    Decoding releases the GIL, so threads run in parallel. Loading starts with the first `next`. An
    error of `load`, or of `items`, is raised in place of its result and ends the iteration. Leaving
    the loop early, also by an error or Ctrl-C, starts no further loads and waits for those that
    are running.

    Args:
      items: iterated one at a time, in the calling thread.
      load: called from several threads at once.
      workers: threads, >= 1.
      ahead: maximum number of results loaded or loading beside the current one, >= 1.
    Raises:
      TypeError, ValueError: numbers that are not integers >= 1.
    Cost: memory for ahead + 1 results.
    """
    workers = expect_int("workers", workers, minimum=1)
    ahead = expect_int("ahead", ahead, minimum=1)
    return _prefetch(items, load, workers, ahead)


def _prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], workers: int, ahead: int
) -> Iterator[Loaded]:
    pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="prefetch")
    pending: deque[Future[Loaded]] = deque()
    failure: Exception | None = None

    def items_until_failure() -> Iterator[Item]:
        nonlocal failure
        try:
            yield from items
        except Exception as error:
            failure = error  # raised after the results of the items before it

    try:
        for item in items_until_failure():
            pending.append(pool.submit(load, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
