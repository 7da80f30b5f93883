"""Feature stores: features of many videos in one HDF5 file, in the layout of play-fair.

<split>.attrs           settings = JSON about the origin of the features; not in play-fair
<split>/features        (V,) variable-length rows, each the flattened (n, D) array of a video
<split>/features.attrs  feature_dim = D
<split>/uids            (V,) strings
<split>/labels/<name>   (V,) numbers or strings, one dataset per label
<split>/lengths         (V,) number of elements; not in play-fair
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_finite, expect_int, message, nearest
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.hdf5 import naming, open_hdf5

if TYPE_CHECKING:
    import h5py

Label = int | float | bool | str

_UIDS_AT_ONCE = 2**16
_BLOCK = 256  # rows in an HDF5 chunk, and rows read at once to find their lengths
_KINDS = {  # stored types of labels; a bool is an int, too
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, np.floating),
    str: (str,),
}


class UnknownUidError(KeyError):
    """A uid that is not in the store. Unlike that of a KeyError, its text is not quoted."""

    def __str__(self) -> str:
        return str(self.args[0])


class FeatureStore:
    """Features and labels by uid. Features are read on demand.

        with FeatureStore("trn.hdf") as store:
            for uid in store:
                features, labels = store[uid]  # (n, D) float32, {"action": 127, ...}

    Several stores may read one file at the same time.

    Attributes:
      path: the file.
      split: the group.
      uids: names of the V videos, in file order.
      feature_dim: D.
      labels: by name, one number or string per video, in file order.
      settings: as passed to `write_features`, or {}.
    """

    def __init__(self, path: str | PathLike[str], split: str | None = None) -> None:
        """Open a file and read its uids and labels.

        Args:
          path: HDF5 file in the layout of this module.
          split: name of the group; optional if there is only one.
        Raises:
          FileNotFoundError: no such file.
          ValueError: an unknown or ambiguous split, a missing or malformed dataset or attribute,
            duplicate uids; or as `esv_jax.hdf5.open_hdf5`.
          ImportError: h5py is not installed.
        Cost: reads uids and labels of all videos, no features.
        """
        self.path = Path(path)
        self._file = open_hdf5(self.path, "an HDF5 file")
        try:
            self.split = self._choose(split)
            self._read_index()
        except BaseException:
            self.close()
            raise

    def _choose(self, split: str | None) -> str:
        h5py, name = require("h5py", "files"), self.path.name
        with naming(name, "a list of groups"):
            groups = [key for key in self._file if self._file.get(key, getclass=True) is h5py.Group]
        listed = ", ".join(map(repr, groups)) or "none"
        if split is None:
            way_out = "Choose one with split=." if groups else ""
            expect(len(groups) == 1, name, "one group", listed, way_out)
            return groups[0]
        expected = f"a group of {name}: {listed}"
        expect(split in groups, "split", expected, repr(split), nearest(str(split), groups))
        return split

    def _read_index(self) -> None:
        """Read and check all but the features."""
        h5py, where = require("h5py", "files"), f"{self.path.name}, group {self.split!r}"

        def check(fits: object, key: str, expected: str, got: object) -> None:
            expect(bool(fits), f"{where}, {key}", expected, got)

        with naming(where, "readable datasets"):
            group = self._file[self.split]
            kinds = {key: group.get(key, getclass=True) for key in group}
            labels = group["labels"] if kinds.get("labels") is h5py.Group else {}
            columns = {f"labels/{key}": item for key, item in labels.items()}
            columns |= {k: group[k] for k in ("features", "uids", "lengths") if k in kinds}
            text = group.attrs.get("settings", "{}")
        for key in ("features", "uids"):
            expect(key in kinds, where, f"a dataset {key!r}", ", ".join(kinds) or "an empty group")
        is_group = kinds.get("labels", h5py.Group) is h5py.Group
        check(is_group, "labels", "a group of datasets", "a dataset")
        for key, item in columns.items():
            check(isinstance(item, h5py.Dataset), key, "a dataset", "a group")

        self._rows = columns.pop("features")
        expected = "(V,) variable-length rows of floats"
        with naming(f"{where}, features", expected):
            dtype, shape = self._rows.dtype, self._rows.shape
            width = self._rows.attrs.get("feature_dim")
        element = h5py.check_vlen_dtype(dtype)
        is_float = isinstance(element, np.dtype) and element.kind == "f"
        got = f"dtype {dtype if element is None else element} and shape {shape}"
        check(is_float and shape is not None and len(shape) == 1, "features", expected, got)
        check(width is not None, "features", "an attribute 'feature_dim'", "none")
        number = np.asarray(width)
        is_number = number.size == 1 and number.dtype.kind in "uif"
        is_whole = is_number and float(number.item()).is_integer()
        check(is_whole, "feature_dim", "one whole number", f"{number.tolist()!r}"[:80])
        self.feature_dim = int(number.item())
        check(self.feature_dim >= 1, "feature_dim", "at least 1", self.feature_dim)
        try:
            self.settings = json.loads(text)
        except (TypeError, ValueError):
            self.settings = None
        check(isinstance(self.settings, dict), "settings", "a JSON object", repr(text))

        n = shape[0]
        for key, item in columns.items():
            got = "none" if item.shape is None else item.shape[0] if item.ndim == 1 else item.shape
            check(item.shape == (n,), key, f"{n}, one per row of features", got)
        self._row_of: dict[str, int] = {}
        uids = columns.pop("uids")
        for start in range(0, n, _UIDS_AT_ONCE):  # duplicates are found before all are read
            some = _values(f"{where}, uids", uids, start, start + _UIDS_AT_ONCE)
            for row, uid in enumerate(map(str, some), start):
                if uid in self._row_of:
                    check(False, "uids", "distinct uids", f"{uid!r} twice")
                self._row_of[uid] = row
        self.uids: tuple[str, ...] = tuple(self._row_of)
        self._lengths: np.ndarray | None = None
        if "lengths" in columns:
            lengths = np.array(_values(f"{where}, lengths", columns.pop("lengths")))
            is_whole = lengths.dtype.kind in "ui" or not n
            check(is_whole, "lengths", "whole numbers", f"dtype {lengths.dtype}")
            check((lengths >= 0).all(), "lengths", "numbers >= 0", lengths.min(initial=0))
            self._lengths = lengths.astype(np.int64)
        self.labels: dict[str, list[Label]] = {
            key.removeprefix("labels/"): _values(f"{where}, {key}", item)
            for key, item in columns.items()
        }

    def __len__(self) -> int:
        return len(self.uids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.uids)

    def __contains__(self, uid: object) -> bool:
        return uid in self._row_of

    def __getitem__(self, uid: str) -> tuple[np.ndarray, dict[str, Label]]:
        """Features (n, D) float32 and labels by name of one video.

        Raises:
          UnknownUidError: (a KeyError) no such video; names the nearest uid.
          TypeError: a uid that is not a string.
          ValueError: a damaged row, or one whose length is not a multiple of D; a closed store.
        """
        expect_string(uid, f"Use {str(uid)!r}.")
        if uid not in self._row_of:
            expected = f"one of the {len(self)} uids of {self.path.name}"
            raise UnknownUidError(message("uid", expected, repr(uid), nearest(uid, self.uids)))
        row = self._row_of[uid]
        (features,) = self.run(row, row + 1)
        return features, {name: column[row] for name, column in self.labels.items()}

    def run(self, start: int, stop: int) -> list[np.ndarray]:
        """Features (n, D) float32 of the videos `start` to `stop` - 1 in file order.

        Raises:
          ValueError: as `store[uid]`, for any of them.
        Cost: one read, about a fifth of the time of `store[uid]` for each.
        """
        features = []
        for uid, values in zip(self.uids[start:stop], self._read(start, stop), strict=True):
            fits = len(values) > 0 and len(values) % self.feature_dim == 0
            expected = f"a positive multiple of feature_dim = {self.feature_dim} values"
            expect(fits, f"{self.path.name}, features of {uid!r}", expected, len(values))
            features.append(values.reshape(-1, self.feature_dim).astype(np.float32, copy=False))
        return features

    def lengths(self, strict: bool = True) -> np.ndarray:
        """Number of elements of every video, (V,) int64, in the order of `uids`.

        Args:
          strict: whether a row whose length is not a multiple of D raises; otherwise it has 0.
        Raises:
          ValueError: as `store[uid]`, where rows have to be read.
        Cost: none if the file has the dataset `lengths`; otherwise the first call reads all
          features, block by block.
        """
        if self._lengths is None:
            starts, width = range(0, len(self), _BLOCK), self.feature_dim
            sizes = [len(row) for start in starts for row in self._read(start, start + _BLOCK)]
            self._lengths = np.array([0 if k % width else k // width for k in sizes], np.int64)
        bad = np.flatnonzero(self._lengths == 0)
        if strict and len(bad):
            self[self.uids[bad[0]]]  # raises
        return self._lengths.copy()

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Flattened features of some rows."""
        is_open = bool(self._file)
        expect(is_open, "store", "an open file", "a closed one", "Open it again.")
        name = f"{self.path.name}, features of {self.uids[start]!r} or soon after"
        with naming(name, "readable rows"):
            return self._rows[start:stop]

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def write_features(
    path: str | PathLike[str],
    features: Iterable[tuple[str, ArrayLike, Mapping[str, Label]]],
    feature_dim: int,
    split: str = "validation",
    *,
    overwrite: bool = False,
    settings: Mapping[str, object] | None = None,
) -> int:
    """Write a feature store atomically, video by video.

    Args:
      path: the new file, in an existing folder.
      features: `(uid, features, labels)` of each video: a string, an (n, D) floating-point array
        with n >= 1 (stored as float32), and numbers or strings by name, of the same names and
        types for every video. May be a generator; one video is held at a time.
      feature_dim: D.
      split: group to write.
      overwrite: whether an existing file may be replaced.
      settings: origin of the features, as JSON; stored with them.
    Returns:
      V, the number of videos written.
    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      FileNotFoundError, OSError: no such folder, a file that cannot be written.
      TypeError: a uid, array or label of the wrong type.
      ValueError: no videos, a shape other than (n, D), values that are not finite in float32, a
        duplicate uid, labels that differ in name or type from those of the first video, a path
        that is a folder.
      ImportError: h5py is not installed.
    Cost: one pass over `features`; memory for one video and the uids.
    """
    files = require("h5py", "files")
    feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
    expect("/" not in split and split != "", "split", "a group name without '/'", repr(split))
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        files.File(temporary, "w", libver="latest") as file,
    ):
        group = file.create_group(split)
        if settings:
            group.attrs["settings"] = json.dumps(dict(settings), sort_keys=True)
        return _write_rows(group, features, feature_dim)


def _write_rows(
    group: h5py.Group,
    features: Iterable[tuple[str, ArrayLike, Mapping[str, Label]]],
    feature_dim: int,
) -> int:
    """Append each video to new datasets, which are closed on return: the order affects bytes."""
    files = require("h5py", "files")
    label_group = group.create_group("labels")
    types = {kind: files.string_dtype() if kind is str else kind for kind in _KINDS}

    def dataset(name: str, dtype: object, parent: h5py.Group = group) -> h5py.Dataset:
        return parent.create_dataset(name, (0,), maxshape=(None,), chunks=(_BLOCK,), dtype=dtype)

    rows = dataset("features", files.vlen_dtype(np.float32))
    rows.attrs["feature_dim"] = feature_dim
    uids, lengths = dataset("uids", types[str]), dataset("lengths", np.int64)
    columns: dict[str, h5py.Dataset] = {}
    kinds: dict[str, type] | None = None
    seen: set[str] = set()
    for uid, values, labels in features:
        expect_string(uid)
        expect(uid not in seen, "uid", "distinct uids", f"{uid!r} twice")
        x = as_float32(uid, values, feature_dim)
        kinds = label_kinds(uid, labels, kinds)
        if not seen:
            columns = {key: dataset(key, types[kinds[key]], label_group) for key in kinds}
        entries = [(rows, x.ravel()), (lengths, len(x)), (uids, uid)]
        for column, value in entries + [(columns[name], labels[name]) for name in columns]:
            column.resize((len(seen) + 1,))
            column[len(seen)] = value
        seen.add(uid)
    expect(len(seen) > 0, "features", "at least one video", "none")
    return len(seen)


def as_float32(uid: str, features: ArrayLike, feature_dim: int) -> np.ndarray:
    """Features as (n, D) float32, checked."""
    name, x = f"features of {uid!r}", np.asarray(features)
    if x.dtype.kind != "f":
        raise TypeError(message(name, "a floating-point array", f"dtype {x.dtype}", "Cast it."))
    fits = x.ndim == 2 and len(x) >= 1 and x.shape[1] == feature_dim
    expect(fits, name, f"shape (n, {feature_dim}) with n >= 1", x.shape)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    expect_finite(name, x, "They are stored as float32.")
    return x


def label_kinds(
    uid: str, labels: Mapping[str, Label], first: Mapping[str, type] | None = None
) -> dict[str, type]:
    """Stored types of the labels of one video by name: bool, int, float or str.

    Refuses labels that differ in name or type from those of the first video.
    """
    kinds: dict[str, type] = {}
    for name, value in labels.items():
        kind = next((kind for kind, types in _KINDS.items() if isinstance(value, types)), None)
        if kind is None:
            got = f"{type(value).__name__} {value!r}"
            raise TypeError(message(f"label {name!r} of {uid!r}", "a number or a string", got))
        kinds[name] = kind
    if first is not None and kinds != first:
        expected, got = (
            ", ".join(f"{name}: {kind.__name__}" for name, kind in sorted(each.items())) or "none"
            for each in (first, kinds)
        )
        raise ValueError(message(f"labels of {uid!r}", f"{expected}, as in the first video", got))
    return kinds


def expect_string(uid: object, way_out: str = "") -> None:
    """Refuse a uid that is not a string."""
    got = f"{type(uid).__name__} {uid!r}"
    expect(isinstance(uid, str), "uid", "a string", got, way_out, kind=TypeError)


def _values(name: str, column: h5py.Dataset, start: int = 0, stop: int | None = None) -> list[Any]:
    """Values of a one-dimensional dataset as Python numbers and strings."""
    with naming(name, "readable values"):
        values = column[start:stop]
    listed = values.tolist()
    if require("h5py", "files").check_string_dtype(column.dtype) is None:
        expect(values.dtype.kind in "buif", name, "numbers or strings", f"dtype {column.dtype}")
        return listed
    for i, value in enumerate(listed):
        try:
            listed[i] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            location, got = f"{name}, entry {start + i}", f"the bytes {value!r}"
            way_out = "Write it again as UTF-8."
            raise ValueError(message(location, "UTF-8 text", got, way_out)) from None
    return listed
