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
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_int, message, nearest
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.hdf5 import naming, open_hdf5

if TYPE_CHECKING:
    import h5py

Label = int | float | bool | str

_UIDS_AT_ONCE = 2**16
_BLOCK = 256  # rows in an HDF5 chunk, and rows read at once to find their lengths


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
        require("h5py", "files")
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(message("path", "an HDF5 file", repr(str(path))))
        self._file = open_hdf5(self.path, "an HDF5 file")
        try:
            self._read_index(split)
        except BaseException:
            self.close()
            raise

    def _read_index(self, split: str | None) -> None:
        """Select and check the group, and read all but the features."""
        h5py, name = require("h5py", "files"), self.path.name
        with naming(name, "a list of groups"):
            groups = [key for key in self._file if self._file.get(key, getclass=True) is h5py.Group]
        listed = ", ".join(map(repr, groups)) or "none"
        if split is None:
            way_out = "Choose one with split=." if groups else ""
            expect(len(groups) == 1, name, "one group", listed, way_out)
            split = groups[0]
        if split not in groups:
            way_out = nearest(str(split), groups)
            raise ValueError(message("split", f"a group of {name}: {listed}", repr(split), way_out))
        self.split = split
        location = f"{name}, group {split!r}"
        with naming(location, "readable datasets"):
            group = self._file[split]
            found = {key: group.get(key, getclass=True) for key in group}
            labels = group["labels"] if found.get("labels") is h5py.Group else {}
            datasets = {key: group[key] for key, kind in found.items() if kind is h5py.Dataset}
            datasets |= {f"labels/{key}": item for key, item in labels.items()}
        for key in ("features", "uids"):
            got = ", ".join(found) or "an empty group"
            expect(key in found, location, f"a dataset {key!r}", got)
            expect(key in datasets, f"{location}, {key}", "a dataset", "a group")
        is_group = found.get("labels", h5py.Group) is h5py.Group
        expect(is_group, f"{location}, labels", "a group of datasets", "a dataset")

        self._rows = datasets.pop("features")
        with naming(f"{location}, features", "variable-length rows of floats"):
            kind, shape, attributes = self._rows.dtype, self._rows.shape, self._rows.attrs
            has_width = "feature_dim" in attributes
            width = attributes.get("feature_dim")
        element = h5py.check_vlen_dtype(kind)
        floats = isinstance(element, np.dtype) and np.issubdtype(element, np.floating)
        got = f"dtype {kind if element is None else element} and shape {shape}"
        rows_fit = floats and shape is not None and len(shape) == 1
        expect(rows_fit, f"{location}, features", "(V,) variable-length rows of floats", got)
        expect(has_width, f"{location}, features", "an attribute 'feature_dim'", "none")
        self.feature_dim = _one_number(f"{location}, feature_dim", width)
        expect(self.feature_dim >= 1, f"{location}, feature_dim", "at least 1", self.feature_dim)
        self.settings = self._read_settings(location)
        self._read_columns(location, shape[0], datasets)

    def _read_columns(self, location: str, n: int, datasets: Mapping[str, h5py.Dataset]) -> None:
        """Read uids, labels and lengths, which must have one entry for each of n videos."""
        h5py = require("h5py", "files")
        columns = {k: item for k, item in datasets.items() if k in ("uids", "lengths") or "/" in k}
        for key, item in columns.items():
            name = f"{location}, {key}"
            expect(isinstance(item, h5py.Dataset), name, "a dataset", "a group")
            got = "none" if item.shape is None else item.shape[0] if item.ndim == 1 else item.shape
            expect(item.shape == (n,), name, f"{n}, one per row of features", got)
        self._row_of: dict[str, int] = {}
        name = f"{location}, uids"
        for start in range(0, n, _UIDS_AT_ONCE):  # duplicates are found before all are read
            uids = _column(name, columns["uids"], start, _UIDS_AT_ONCE)
            for row, uid in enumerate(map(str, uids), start):
                if uid in self._row_of:
                    raise ValueError(message(name, "distinct uids", f"{uid!r} twice"))
                self._row_of[uid] = row
        self.uids: tuple[str, ...] = tuple(self._row_of)
        self.labels: dict[str, list[Label]] = {
            key.removeprefix("labels/"): _column(f"{location}, {key}", item)
            for key, item in columns.items()
            if "/" in key
        }
        self._lengths: np.ndarray | None = None
        if "lengths" in columns:
            name = f"{location}, lengths"
            lengths = np.array(_column(name, columns["lengths"]))
            if n:
                whole = np.issubdtype(lengths.dtype, np.integer)
                expect(whole, name, "whole numbers", f"dtype {lengths.dtype}")
                expect(lengths.min() >= 0, name, "numbers >= 0", lengths.min())
            self._lengths = lengths.astype(np.int64)

    def _read_settings(self, location: str) -> dict[str, object]:
        with naming(location, "readable attributes"):
            text = self._file[self.split].attrs.get("settings", "{}")
        try:
            settings = json.loads(text)
        except (TypeError, ValueError):
            settings = None
        expect(isinstance(settings, dict), f"{location}, settings", "a JSON object", repr(text))
        return settings

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
        if not isinstance(uid, str):
            got = f"{type(uid).__name__} {uid!r}"
            raise TypeError(message("uid", "a string", got, f"Use {str(uid)!r}."))
        if uid not in self._row_of:
            expected = f"one of the {len(self)} uids of {self.path.name}"
            raise UnknownUidError(message("uid", expected, repr(uid), nearest(uid, self.uids)))
        row = self._row_of[uid]
        values = self._read(slice(row, row + 1))[0]
        features = values.reshape(self._n_elements(row, values), self.feature_dim)
        labels = {name: column[row] for name, column in self.labels.items()}
        return np.array(features, dtype=np.float32), labels

    def run(self, start: int, stop: int) -> list[np.ndarray]:
        """Features (n, D) float32 of the videos `start` to `stop` - 1 in file order.

        Raises:
          ValueError: as `store[uid]`, for any of them.
        Cost: one read, about a fifth of the time of `store[uid]` for each.
        """
        shaped = []
        for row, values in enumerate(self._read(slice(start, stop)), start):
            n = self._n_elements(row, values)
            shaped.append(values.reshape(n, self.feature_dim).astype(np.float32, copy=False))
        return shaped

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
            lengths = np.empty(len(self), dtype=np.int64)
            for start in range(0, len(self), _BLOCK):
                for row, values in enumerate(self._read(slice(start, start + _BLOCK)), start):
                    n, rest = divmod(len(values), self.feature_dim)
                    lengths[row] = 0 if rest else n
            self._lengths = lengths
        bad = np.flatnonzero(self._lengths == 0)
        if strict and len(bad):
            self[self.uids[bad[0]]]  # raises
        return self._lengths.copy()

    def _read(self, rows: slice) -> np.ndarray:
        """Flattened features of some rows."""
        if not self._file:
            raise ValueError(message("store", "an open file", "a closed one", "Open it again."))
        location = f"{self.path.name}, features of {self.uids[rows.start]!r} or soon after"
        with naming(location, "readable rows"):
            return self._rows[rows]

    def _n_elements(self, row: int, values: np.ndarray) -> int:
        """Number of elements in a row."""
        n, rest = divmod(len(values), self.feature_dim)
        if n == 0 or rest:
            location = f"{self.path.name}, features of {self.uids[row]!r}"
            expected = f"a positive multiple of feature_dim = {self.feature_dim} values"
            raise ValueError(message(location, expected, len(values)))
        return n

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
    h5py = require("h5py", "files")
    feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
    if not split or "/" in split:
        raise ValueError(message("split", "a group name without '/'", repr(split)))
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        h5py.File(temporary, "w", libver="latest") as file,
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
    """Append each video to the datasets of `group`, created with the first one."""
    files = require("h5py", "files")
    string, label_group = files.string_dtype(), group.create_group("labels")

    def dataset(parent: h5py.Group, name: str, dtype: np.dtype | type) -> h5py.Dataset:
        return parent.create_dataset(name, (0,), maxshape=(None,), chunks=(_BLOCK,), dtype=dtype)

    rows = dataset(group, "features", files.vlen_dtype(np.float32))
    rows.attrs["feature_dim"] = feature_dim
    uids, lengths = dataset(group, "uids", string), dataset(group, "lengths", np.int64)
    columns: dict[str, h5py.Dataset] = {}
    kinds: dict[str, type] = {}
    seen: set[str] = set()
    for uid, values, labels in features:
        if not isinstance(uid, str):
            raise TypeError(message("uid", "a string", f"{type(uid).__name__} {uid!r}"))
        if uid in seen:
            raise ValueError(message("uid", "distinct uids", f"{uid!r} twice"))
        x = as_float32(uid, values, feature_dim)
        own_kinds = label_kinds(uid, labels)
        if not seen:
            kinds = own_kinds
            for name, kind in kinds.items():
                columns[name] = dataset(label_group, name, string if kind is str else kind)
        expect_same_kinds(uid, own_kinds, kinds)
        row = len(seen)
        entries = [(rows, x.ravel()), (lengths, len(x)), (uids, uid)]
        for column, value in entries + [(columns[name], labels[name]) for name in columns]:
            column.resize((row + 1,))
            column[row] = value
        seen.add(uid)
    if not seen:
        raise ValueError(message("features", "at least one video", "none"))
    return len(seen)


def as_float32(uid: str, features: ArrayLike, feature_dim: int) -> np.ndarray:
    """Features as (n, D) float32, checked."""
    name, x = f"features of {uid!r}", np.asarray(features)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(message(name, "a floating-point array", f"dtype {x.dtype}", "Cast it."))
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] != feature_dim:
        raise ValueError(message(name, f"shape (n, {feature_dim}) with n >= 1", x.shape))
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        got = f"{x[tuple(bad[0])]} at {tuple(bad[0].tolist())}"
        raise ValueError(message(name, "finite float32 values", got))
    return x


def label_kinds(uid: str, labels: Mapping[str, Label]) -> dict[str, type]:
    """Stored types of the labels of one video by name: bool, int, float or str."""
    kinds: dict[str, type] = {}
    for name, value in labels.items():
        for kind, types in (
            (bool, bool | np.bool_),
            (int, int | np.integer),
            (float, float | np.floating),
            (str, str),
        ):
            if isinstance(value, types):
                kinds[name] = kind
                break
        else:
            got = f"{type(value).__name__} {value!r}"
            raise TypeError(message(f"label {name!r} of {uid!r}", "a number or a string", got))
    return kinds


def expect_same_kinds(uid: str, kinds: Mapping[str, type], first: Mapping[str, type]) -> None:
    """Refuse labels that differ in name or type from those of the first video."""
    if kinds != first:
        expected = f"{_describe(first)}, as in the first video"
        raise ValueError(message(f"labels of {uid!r}", expected, _describe(kinds)))


def _describe(kinds: Mapping[str, type]) -> str:
    return ", ".join(f"{name}: {kind.__name__}" for name, kind in sorted(kinds.items())) or "none"


def _column(
    location: str, dataset: h5py.Dataset, start: int = 0, n: int | None = None
) -> list[Label]:
    """Values of a one-dimensional dataset as Python numbers and strings.

    Strings may have fixed or variable length. `start` and `n` select a part; default all.
    """
    with naming(location, "readable values"):
        values = dataset[start : None if n is None else start + n]
    listed = values.tolist()
    if require("h5py", "files").check_string_dtype(dataset.dtype) is None:
        got = f"dtype {dataset.dtype}"
        expect(values.dtype.kind in "buif", location, "numbers or strings", got)
        return listed
    for i, value in enumerate(listed):
        try:
            listed[i] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            name, got = f"{location}, entry {start + i}", f"the bytes {value!r}"
            raise ValueError(message(name, "UTF-8 text", got, "Write it again as UTF-8.")) from None
    return listed


def _one_number(location: str, value: object) -> int:
    """A whole number, possibly in an array of one element, as an int."""
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "uif":
        number = array.ravel()[0]
        if np.isfinite(number) and number % 1 == 0:
            return int(number)
    raise ValueError(message(location, "one whole number", f"{array.tolist()!r}"[:80]))
