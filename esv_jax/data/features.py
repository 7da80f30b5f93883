"""Features of many videos in one HDF5 file, in the layout of play-fair.

    <split>.attrs           settings = JSON of how the features came about; optional, ours alone
    <split>/features        (V,) variable-length rows, each one video's (n, D) array, flattened
    <split>/features.attrs  feature_dim = D
    <split>/uids            (V,) strings
    <split>/labels/<name>   (V,) numbers or strings, one dataset per kind of label
    <split>/lengths         (V,) elements of each video; written here, absent from older files

Reading is lazy: only names, labels and lengths are held, features come video by video.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_int, message, nearest
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.hdf5 import naming, open_hdf5

Label = int | float | bool | str

_NAMES = 2**16  # uids read at once
_BLOCK = 256  # rows in an HDF5 chunk, and rows held at once when lengths have to be read


class UnknownUidError(KeyError):
    """A uid that the store does not hold. A KeyError whose text is not quoted."""

    def __str__(self) -> str:
        return str(self.args[0])


class FeatureStore:
    """Features and labels by uid, read from a file when asked for.

        with FeatureStore("trn.hdf") as store:
            for uid in store:
                features, labels = store[uid]  # (n, D) float32, {"action": 127, ...}

    Several stores may read one file at the same time. Closed on leaving `with`, or by `close()`.

    Attributes:
      path: the file. split: the group read.
      uids: names of the V videos, in file order. feature_dim: D.
      labels: by name, one number or string per video, in file order.
      settings: what `write_features` was told of how the features came about, or {}.
    """

    def __init__(self, path: str | PathLike[str], split: str | None = None) -> None:
        """Open a file and read its names and labels.

        Args:
          path: HDF5 file in the layout above.
          split: which group; may be left out where there is only one.
        Raises:
          FileNotFoundError: no such file.
          ValueError: no HDF5 file (or one cut short), an unknown or ambiguous split, a missing
            dataset or attribute, datasets of different length, duplicate uids, text that is not
            UTF-8, links to other files; see `esv_jax.hdf5.open_hdf5`.
          ImportError: h5py is not installed.
        Cost: reads uids and labels of all videos, no features.
        """
        h5py = require("h5py", "files")
        self.path = Path(path)
        expect(
            self.path.is_file(), "path", "an HDF5 file", f"{str(path)!r}", kind=FileNotFoundError
        )
        self._file = open_hdf5(self.path, "an HDF5 file")
        try:
            self._read_index(h5py, split)
        except BaseException:
            self.close()
            raise

    def _read_index(self, h5py: Any, split: str | None) -> None:
        """Choose the group, check that it is complete, and read all but the features."""
        name = self.path.name
        with naming(name, "a list of groups"):
            groups = [key for key in self._file if self._file.get(key, getclass=True) is h5py.Group]
        listed = ", ".join(map(repr, groups)) or "none"
        if split is None:
            way_out = "Choose one with split=." if groups else "No group, no features."
            expect(len(groups) == 1, name, "one group", listed, way_out)
            split = groups[0]
        if split not in groups:
            way_out = nearest(str(split), groups)
            raise ValueError(message("split", f"a group of {name}: {listed}", repr(split), way_out))
        self.split = split
        where = f"{name}, group {split!r}"
        with naming(where, "readable datasets"):
            group = self._file[split]
            found = {key: group.get(key, getclass=True) for key in group}
            labels = group["labels"] if found.get("labels") is h5py.Group else {}
            datasets = {key: group[key] for key, kind in found.items() if kind is h5py.Dataset}
            datasets |= {f"labels/{key}": item for key, item in labels.items()}
        for key in ("features", "uids"):
            expect(key in found, where, f"a dataset {key!r}", ", ".join(found) or "an empty group")
            expect(key in datasets, f"{where}, {key}", "a dataset", "a group")
        if "labels" in found:
            is_group = found["labels"] is h5py.Group
            expect(is_group, f"{where}, labels", "a group of datasets", "a dataset")

        self._rows = datasets.pop("features")
        with naming(f"{where}, features", "variable-length rows of floats"):
            kind, shape, attributes = self._rows.dtype, self._rows.shape, self._rows.attrs
            has_width = "feature_dim" in attributes
            width = attributes["feature_dim"] if has_width else None
        element = h5py.check_vlen_dtype(kind)
        floats = isinstance(element, np.dtype) and np.issubdtype(element, np.floating)
        got = f"dtype {kind if element is None else element} and shape {shape}"
        rows_fit = floats and shape is not None and len(shape) == 1
        expect(rows_fit, f"{where}, features", "(V,) variable-length rows of floats", got)
        expect(has_width, f"{where}, features", "an attribute 'feature_dim'", "none")
        self.feature_dim = _one_number(f"{where}, feature_dim", width)
        expect(self.feature_dim >= 1, f"{where}, feature_dim", "at least 1", self.feature_dim)
        self.settings = self._read_settings(where)
        self._read_columns(h5py, where, shape[0], datasets)

    def _read_columns(self, h5py: Any, where: str, n: int, datasets: Mapping[str, Any]) -> None:
        """Names, labels and lengths, once all are known to have an entry for each of n videos."""
        read = {k: item for k, item in datasets.items() if k in ("uids", "lengths") or "/" in k}
        for key, item in read.items():
            place, expected = f"{where}, {key}", f"{n}, one per row of features"
            expect(isinstance(item, h5py.Dataset), place, "a dataset", "a group")
            got = "none" if item.shape is None else item.shape[0] if item.ndim == 1 else item.shape
            expect(item.shape == (n,), place, expected, got)
        self._row_of: dict[str, int] = {}
        place = f"{where}, uids"
        for start in range(0, n, _NAMES):  # twice the same is told before all are read
            for row, uid in enumerate(_column(h5py, place, read["uids"], start, _NAMES), start):
                expect(str(uid) not in self._row_of, place, "distinct uids", f"{str(uid)!r} twice")
                self._row_of[str(uid)] = row
        self.uids: tuple[str, ...] = tuple(self._row_of)
        self.labels: dict[str, list[Any]] = {
            key.removeprefix("labels/"): _column(h5py, f"{where}, {key}", item)
            for key, item in read.items()
            if "/" in key
        }
        self._lengths: np.ndarray | None = None
        if "lengths" in read:
            place = f"{where}, lengths"
            lengths = np.array(_column(h5py, place, read["lengths"]))
            whole = np.issubdtype(lengths.dtype, np.integer) or n == 0
            expect(whole, place, "whole numbers", f"dtype {lengths.dtype}")
            expect(n == 0 or lengths.min() >= 0, place, "numbers >= 0", lengths.min(initial=0))
            self._lengths = lengths.astype(np.int64)

    def _read_settings(self, where: str) -> dict[str, Any]:
        with naming(where, "readable attributes"):
            text = self._file[self.split].attrs.get("settings", "{}")
        try:
            settings = json.loads(text)
        except (TypeError, ValueError):
            settings = None
        expect(isinstance(settings, dict), f"{where}, settings", "a JSON object", repr(text))
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
          TypeError: the uid is no string.
          ValueError: a row that cannot be read or does not divide into elements of width D; a
            closed store.
        Cost: reads one row.
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
        """Features (n, D) float32 of consecutive videos, `start` to `stop` - 1 in file order.

        Raises:
          ValueError: as `store[uid]`, for any of them.
        Cost: one read; a fifth of the time of `store[uid]` for each.
        """
        shaped = []
        for row, values in enumerate(self._read(slice(start, stop)), start):
            n = self._n_elements(row, values)
            shaped.append(values.reshape(n, self.feature_dim).astype(np.float32, copy=False))
        return shaped

    def lengths(self, strict: bool = True) -> np.ndarray:
        """Elements of every video, (V,) int64, in the order of `uids`.

        Args:
          strict: whether to raise for a row that does not divide into elements; else it has 0.
        Raises:
          ValueError: as `store[uid]`, where rows have to be read.
        Cost: nothing where the file has the dataset `lengths`; otherwise the first call reads all
          features once, block by block, since HDF5 tells a row's length only with the row.
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
            self[self.uids[bad[0]]]  # says what is wrong with it
        return self._lengths.copy()

    def _read(self, rows: slice) -> np.ndarray:
        """Flattened features of some rows."""
        expect(bool(self._file), "store", "an open file", "a closed one", "Open it again.")
        with naming(
            f"{self.path.name}, features of {self.uids[rows.start]!r} or soon after",
            "readable rows",
        ):
            return self._rows[rows]

    def _n_elements(self, row: int, values: np.ndarray) -> int:
        """n of one row, once it is known to divide into n elements of width D."""
        n, rest = divmod(len(values), self.feature_dim)
        where = f"{self.path.name}, features of {self.uids[row]!r}"
        expected = f"a positive multiple of feature_dim = {self.feature_dim} values"
        expect(n > 0 and rest == 0, where, expected, len(values))
        return n

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_features(
    path: str | PathLike[str],
    features: Iterable[tuple[str, Any, Mapping[str, Label]]],
    feature_dim: int,
    split: str = "validation",
    *,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Write features video by video, and return how many videos there were.

    The file appears under its name only when complete: rows go to a temporary file beside it,
    which is removed if anything fails on the way.

    Args:
      path: file to make, in a folder that exists.
      features: `(uid, features, labels)` of each video: a string, an (n, D) floating-point array
        with n >= 1 (stored as float32), and numbers or strings by name, of the same names and
        kinds for every video. May be a generator; one video is held at a time.
      feature_dim: D.
      split: group to write.
      overwrite: whether a file of that name may be replaced.
      settings: how the features came about, as JSON can hold it; kept with them.
    Returns:
      V, the number of videos written.
    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      FileNotFoundError, OSError: no such folder, a file that cannot be written.
      TypeError: a uid, array or label of the wrong kind.
      ValueError: no videos, a shape other than (n, D), values that are not finite in float32,
        a uid twice, labels that differ in name or kind from those of the first video, a folder
        in the place of the file.
      ImportError: h5py is not installed.
    Cost: one pass over `features`; memory for one video and the uids.
    """
    h5py = require("h5py", "files")
    feature_dim = expect_int("feature_dim", feature_dim, minimum=1)
    expect(bool(split) and "/" not in split, "split", "a group name without '/'", repr(split))
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        h5py.File(temporary, "w", libver="latest") as file,
    ):
        group = file.create_group(split)
        if settings:
            group.attrs["settings"] = json.dumps(dict(settings), sort_keys=True)
        return _write_rows(h5py, group, features, feature_dim)


def _write_rows(h5py: Any, group: Any, features: Iterable[Any], feature_dim: int) -> int:
    """Append each video to the datasets of `group`, made when the first one comes."""
    string, label_group = h5py.string_dtype(), group.create_group("labels")

    def dataset(parent: Any, name: str, dtype: Any) -> Any:
        return parent.create_dataset(name, (0,), maxshape=(None,), chunks=(_BLOCK,), dtype=dtype)

    rows = dataset(group, "features", h5py.vlen_dtype(np.float32))
    rows.attrs["feature_dim"] = feature_dim
    uids, lengths = dataset(group, "uids", string), dataset(group, "lengths", np.int64)
    columns: dict[str, Any] = {}
    kinds: dict[str, type] = {}
    seen: set[str] = set()
    for uid, x, labels in features:
        if not isinstance(uid, str):
            raise TypeError(message("uid", "a string", f"{type(uid).__name__} {uid!r}"))
        expect(uid not in seen, "uid", "distinct uids", f"{uid!r} twice")
        x = as_float32(uid, x, feature_dim)
        came = label_kinds(uid, labels)
        if not seen:
            kinds = came
            for name, kind in kinds.items():
                columns[name] = dataset(label_group, name, string if kind is str else kind)
        expect_same_kinds(uid, came, kinds)
        row = len(seen)
        entries = [(rows, x.ravel()), (lengths, len(x)), (uids, uid)]
        for column, value in entries + [(columns[name], labels[name]) for name in columns]:
            column.resize((row + 1,))
            column[row] = value
        seen.add(uid)
    expect(bool(seen), "features", "at least one video", "none")
    return len(seen)


def as_float32(uid: str, x: Any, feature_dim: int) -> np.ndarray:
    """`x` as (n, D) float32, refused where it is something else."""
    where, x = f"features of {uid!r}", np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(message(where, "a floating-point array", f"dtype {x.dtype}", "Cast it."))
    fits = x.ndim == 2 and x.shape[0] >= 1 and x.shape[1] == feature_dim
    expect(fits, where, f"shape (n, {feature_dim}) with n >= 1", x.shape)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        got = f"{x[tuple(bad[0])]} at {tuple(bad[0].tolist())}"
        raise ValueError(message(where, "finite float32 values", got))
    return x


def label_kinds(uid: str, labels: Mapping[str, Label]) -> dict[str, type]:
    """The kind of every label of one video, by name."""
    return {name: _label_kind(uid, name, value) for name, value in labels.items()}


def expect_same_kinds(uid: str, came: Mapping[str, type], kinds: Mapping[str, type]) -> None:
    """Refuse labels that differ in name or kind from those of the first video."""
    expected = f"{_describe(kinds)}, as in the first video"
    expect(came == kinds, f"labels of {uid!r}", expected, _describe(came))


def _label_kind(uid: str, name: str, value: Any) -> type:
    """The kind of dataset that holds a label: bool, int, float or str."""
    for kind, matches in (
        (bool, bool | np.bool_),
        (int, int | np.integer),
        (float, float | np.floating),
        (str, str),
    ):
        if isinstance(value, matches):
            return kind
    got = f"{type(value).__name__} {value!r}"
    raise TypeError(message(f"label {name!r} of {uid!r}", "a number or a string", got))


def _describe(kinds: Mapping[str, type]) -> str:
    return ", ".join(f"{name}: {kind.__name__}" for name, kind in sorted(kinds.items())) or "none"


def _column(h5py: Any, where: str, dataset: Any, start: int = 0, n: int | None = None) -> list[Any]:
    """Values of a one-dimensional dataset as Python numbers and strings.

    Strings may be of fixed or variable length, in UTF-8.

    Args:
      where: how messages call it. start, n: which part; default all.
    Raises:
      ValueError: damage, text in another coding, neither numbers nor strings.
    """
    with naming(where, "readable values"):
        values = dataset[start : None if n is None else start + n]
    listed = values.tolist()
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return [_text(f"{where}, entry {start + i}", value) for i, value in enumerate(listed)]
    got = f"dtype {dataset.dtype}"
    expect(values.dtype.kind in "buif", where, "numbers or strings", got)
    return listed


def _text(where: str, value: Any) -> str:
    """A string from bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        way_out = "Write it again as UTF-8."
        raise ValueError(message(where, "UTF-8 text", f"the bytes {value!r}", way_out)) from None


def _one_number(where: str, value: Any) -> int:
    """A whole number, alone or in an array of one, as an int."""
    array = np.asarray(value)
    expected, got = "one whole number", f"{array.tolist()!r}"[:80]
    expect(array.size == 1 and array.dtype.kind in "uif", where, expected, got)
    number = array.ravel()[0]
    expect(bool(np.isfinite(number)) and number % 1 == 0, where, expected, got)
    return int(number)
