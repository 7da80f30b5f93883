"""Sequences from files, read by position, on demand or ahead."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from esv_jax.checks import expect, expect_choice, expect_int, message, nearest
from esv_jax.data.classes import read_classes
from esv_jax.data.features import FeatureStore
from esv_jax.data.preprocessing import segment_centres
from esv_jax.data.ts import read_ts
from esv_jax.data.video_decode import FrameReader, gather, probe_video, with_reader
from esv_jax.data.video_files import find_videos

_FEATURES = (".ts", ".npy", ".hdf", ".hdf5", ".h5")
_FEATURE_FILE = "a .ts, .npy, .hdf, .hdf5 or .h5 file"
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

        def attempt(read: Callable[..., Any], *args: int | None) -> Any:
            try:
                return read(*args)
            except (ValueError, OSError) as error:
                return error

        results: list[Read | Exception] = []
        for run in np.split(np.asarray(positions), np.flatnonzero(np.diff(positions) != 1) + 1):
            for start in range(0, len(run), _READ_AT_ONCE):
                rows = run[start : start + _READ_AT_ONCE].tolist()
                found = None
                if self.read_run is not None and len(rows) > 1:
                    found = attempt(self.read_run, rows[0], rows[-1] + 1, most)
                if not isinstance(found, list):  # reading them one by one shows which fails
                    found = [attempt(self.read, i, most) for i in rows]
                results += found
        return results

    def stamps(self, positions: Sequence[int]) -> list[str] | None:
        """Size and modification time of the file of each position; None without files."""
        if self.videos is not None:
            return [_stamp(self.videos[i]) for i in positions]
        return None if self.source is None else [_stamp(self.source)] * len(positions)

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
        known = {uid: i for i, uid in enumerate(self.uids)}
        for uid in uids:
            if uid not in known:
                way_out = nearest(uid, self.uids)
                raise ValueError(message("uids", "uids of the data", repr(uid), way_out))
        return ([known[uid] for uid in uids] or list(range(len(self))))[:limit]


def _files_of(path: Path) -> list[Path]:
    """A file, or those of a folder of images, sorted."""
    return sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]


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
    expected, suffix = f"videos or {_FEATURE_FILE}", path.suffix.lower()
    expect(path.exists(), "data", expected, f"no such file: {path}")
    expect(suffix not in _OTHER_FORMATS, "data", expected, str(path))
    return suffix not in _FEATURES


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
        def encode(reader: FrameReader) -> Read:
            index = _chosen(len(reader), most)
            frames = reader.frames(index.tolist())
            parts = np.split(index, range(_DECODED_AT_ONCE, len(index), _DECODED_AT_ONCE))
            encoded = [encoder(gather(reader.name, frames, part)) for part in parts]
            return np.concatenate(encoded), index

        return with_reader(files[i], encode)

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
    path, suffix = Path(path), Path(path).suffix.lower()
    expect(path.is_file(), "data", _FEATURE_FILE, f"no such file: {path}")
    expect(suffix in _FEATURES, "data", _FEATURE_FILE, str(path))
    opened = _stamp(path)
    if suffix == ".ts":
        file = read_ts(path)
        inputs = _in_memory(file.uids, file.sequences, file.labels, file.class_names or None)
    elif suffix == ".npy":
        arrays = _read_arrays(path)
        numbers = [f"-{i}" for i in range(len(arrays))] if len(arrays) > 1 else [""]
        inputs = _in_memory(tuple(f"{path.stem}{number}" for number in numbers), list(arrays))
    else:
        inputs = _hdf5(path, label)
    expect(len(inputs) > 0, str(path), "at least one sequence", "none")
    names = inputs.class_names if classes is None else read_classes(classes)
    return dataclasses.replace(inputs, class_names=names, source=path, opened=opened)


def _in_memory(
    uids: tuple[str, ...],
    sequences: Sequence[np.ndarray],
    labels: np.ndarray | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Inputs:
    def read(i: int, most: int | None) -> Read:
        return _pick(sequences[i].astype(np.float32, copy=False), most)

    return Inputs(uids, read, lambda i: len(sequences[i]), labels, class_names)


def _read_arrays(path: Path) -> np.ndarray:
    """The sequences in a `.npy` file, (V, n, D)."""
    name, expected = str(path), "a .npy file of numbers"
    try:
        # A memory map: a header that declares more than the file holds is an error, not memory.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(message(name, expected, "one cut short")) from error
    except Exception as error:  # parsing the header, a Python literal, can raise anything
        got, way_out = "an unreadable one", "It may be damaged or of another format."
        raise ValueError(message(name, expected, got, way_out)) from error
    expect(array.dtype.kind in "buif", name, expected, f"dtype {array.dtype}")
    expected = "an array (n, D), or (V, n, D) for several sequences"
    expect(array.ndim in (2, 3) and array.size > 0, name, expected, array.shape)
    return np.array(array).reshape(-1, *array.shape[-2:])


def _hdf5(path: Path, label: str | None) -> Inputs:
    store = FeatureStore(path)
    known = sorted(store.labels)
    if label is not None:
        expect_choice("label", label, known)
    elif "action" in known or len(known) == 1:
        label = "action" if "action" in known else known[0]
    values = [] if label is None else store.labels[label]
    for value in values:
        whole = not isinstance(value, str) and float(value).is_integer()
        expected, got = "whole numbers, one per class", repr(value)
        way_out = "Choose another label with --label, or write class numbers."
        expect(whole, f"{path.name}, labels/{label}", expected, got, way_out)
    labels = None if label is None else np.array([int(value) for value in values], np.int64)
    lengths = store.lengths(strict=False)

    def read(i: int, most: int | None) -> Read:
        return _pick(store[store.uids[i]][0], most)

    def read_run(start: int, stop: int, most: int | None) -> list[Read]:
        return [_pick(features, most) for features in store.run(start, stop)]

    def length(i: int) -> int:
        return int(lengths[i]) or len(store[store.uids[i]][0])  # 0: a bad row, which raises here

    return Inputs(store.uids, read, length, labels, None, read_run=read_run)


def _chosen(n: int, most: int | None) -> np.ndarray:
    """Indices of at most `most` of n elements, at segment centres."""
    return np.arange(n) if most is None or n <= most else segment_centres(n, most)


def _pick(features: np.ndarray, most: int | None) -> Read:
    index = _chosen(len(features), most)
    return (features if len(index) == len(features) else features[index]), index


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

    Decoding releases the GIL, so threads run in parallel. Loading starts with the first `next`.
    `items` are iterated in the calling thread. An error of `load`, or of `items`, is raised in
    place of its result and ends the iteration. Leaving the loop early, also by an error or Ctrl-C,
    starts no further loads and waits for those that are running.

    Args:
      workers: threads, >= 1.
      ahead: maximum number of results loaded or loading beside the current one, >= 1.
    Cost: memory for ahead + 1 results.
    """
    workers = expect_int("workers", workers, minimum=1)
    ahead = expect_int("ahead", ahead, minimum=1)
    failure: Exception | None = None

    def items_until_failure() -> Iterator[Item]:
        nonlocal failure
        try:
            yield from items
        except Exception as error:
            failure = error  # raised after the results of the items before it

    def results() -> Iterator[Loaded]:
        pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="prefetch")
        pending: deque[Future[Loaded]] = deque()
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

    return results()
