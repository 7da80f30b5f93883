"""Store of a sweep: a folder of shards, each complete or absent, that opens as one dataset.

    sweep.json          identity of the sweep: videos, settings, versions, planned shards
    results.nc          all videos as one netCDF-4 file: names, lengths and labels, and a view of
                        the shards' values, which opens with xarray like any other file
    shards/00000.nc     values of some videos: a netCDF-4 file that can be read alone
    shards/00000.json   its checksum, digests of its inputs, failures with their reasons, device
    shards/.writing/    while a sweep runs: its lock and its temporary files

A shard is complete once its `.json` exists, which is written last; each file is written by one
process, complete or not at all. The view is written before the first shard: it holds the positions
of values in the shards, and shows fill values for absent ones. `sweep.json` has its checksum.

HDF5 with a view was chosen over Zarr: shards may then have different numbers of videos and of
elements (chunks of a Zarr array are all alike), one rename commits a shard, a shard can be copied
and read, and the core needs no further package. `experiments/benchmarks/stores.py` measures both:
they write and read equally fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esv_jax.checks import expect, first_few, message
from esv_jax.extras import require
from esv_jax.files import JSONObject, atomic_path, locked_folder, remove_leftovers
from esv_jax.hdf5 import open_hdf5
from esv_jax.results.layout import LAYOUT, dimensions, open_dataset

if TYPE_CHECKING:
    import h5py
    import xarray

FORMAT = "esv_jax sweep, version 1"
VIEW, MANIFEST, SHARDS = "results.nc", "sweep.json", "shards"
_CHECKED_BYTES = 2**28  # of shards whose checksums are compared when a sweep is opened
_WRITING = ".writing"
_RECORD = {"bytes": int, "sweep": str, "failures": dict, "warnings": list, "device": str}
_SHARD_FILE = re.compile(r"\d{5,}\.(nc|json)")
_CHUNK_BYTES = 2**18  # of values with one checksum, read together

_TYPES = {  # of stored variables, with the fill value for absent shards
    "esv": ("f4", np.nan),
    "std_error": ("f4", np.nan),
    "marginals": ("f4", np.nan),
    "scores": ("f4", np.nan),
    "efficiency_gap": ("f4", np.nan),
    "prediction": ("i4", -1),
    "exact": ("i1", 0),
    "failed": ("i1", 0),
    "n_evaluations": ("i4", 0),
    "chosen": ("i4", -1),
    "element_index": ("i4", -1),
}


class ShardExtent(NamedTuple):
    """Position of a shard's values in the whole.

    Attributes:
      start: first row. rows: number of videos. n: number of elements, with padding.
      sampled: whether it has standard errors.
    """

    start: int
    rows: int
    n: int
    sampled: bool


class Header(NamedTuple):
    """Facts about all videos that are known before the first is explained.

    Attributes:
      uids, lengths, labels: of V videos, in the order of rows; labels -1 where unknown.
      class_names: of C classes. prior: (C,).
      choices: names of the classes whose values are stored; None for all classes.
      marginals: whether mean marginals by scale are stored.
      attributes: of the dataset.
    """

    uids: Sequence[str]
    lengths: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    prior: np.ndarray
    choices: Sequence[str] | None
    marginals: bool
    attributes: JSONObject


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a sweep, or the view in it."""
    return (_folder(path) / MANIFEST).is_file()


def _folder(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.parent if path.name in (VIEW, MANIFEST) else path


def shard_path(folder: Path, index: int) -> Path:
    """Path of a shard's values."""
    return folder / SHARDS / f"{index:05d}.nc"


def record_path(folder: Path, index: int) -> Path:
    """Path of the file whose existence marks a shard as complete."""
    return folder / SHARDS / f"{index:05d}.json"


# Reading


def read_manifest(path: str | os.PathLike[str]) -> JSONObject:
    """Read `sweep.json`.

    Raises:
      ValueError: no such file, one that cannot be read, or with other content.
    """
    manifest_path, expected = _folder(path) / MANIFEST, "a sweep's manifest"
    where, manifest = str(manifest_path), _read_json(manifest_path, expected)
    got = manifest.get("format")
    expect(got == FORMAT, where, f"{expected} ({FORMAT})", f"another file (format {got})")
    identity, shards = manifest.get("identity"), manifest.get("shards")
    whole = isinstance(identity, dict) and isinstance(shards, list) and len(shards) > 0
    expect(whole, where, expected, "one without identity or shards")
    start = 0
    for shard in shards or ():
        fits = isinstance(shard, dict) and set(shard) == set(ShardExtent._fields)
        fits = fits and all(isinstance(value, int) for value in shard.values())
        fits = fits and shard["start"] == start and shard["rows"] > 0 and shard["n"] > 0
        expect(fits, where, expected, f"the shard {shard!r}"[:80])
        start += shard["rows"]
    return manifest


def _read_json(path: Path, expected: str) -> JSONObject:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        text = message(str(path), expected, "one that is missing or damaged")
        raise ValueError(text) from error
    expect(isinstance(content, dict), str(path), expected, type(content).__name__)
    return content


def read_records(path: str | os.PathLike[str]) -> dict[int, JSONObject]:
    """Read the records of complete shards, by index; unreadable ones are omitted."""
    folder, found = _folder(path), {}
    manifest = read_manifest(folder)
    for index in range(len(manifest["shards"])):
        try:
            record = _read_json(record_path(folder, index), "a shard's record")
            size = shard_path(folder, index).stat().st_size
        except (ValueError, OSError):
            continue
        known = all(isinstance(record.get(name), kind) for name, kind in _RECORD.items())
        if known and record["bytes"] == size and record["sweep"] == manifest.get("digest"):
            found[index] = record
    return found


def damaged(path: str | os.PathLike[str], records: Mapping[int, JSONObject]) -> list[int]:
    """List the recorded shards whose bytes differ from those written. Reads all of them."""
    folder = _folder(path)
    return [
        index
        for index, record in records.items()
        if _digest_of_file(shard_path(folder, index)) != record.get("sha256")
    ]


def view_is_whole(folder: Path) -> bool:
    """Return whether the view has the bytes that were written. Reads it."""
    return _digest_of_file(folder / VIEW) == read_manifest(folder).get("view")


def _digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content; "" if it is missing, unreadable or no regular file."""
    try:
        if path.is_file():  # reading a pipe would block
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        pass
    return ""


def open_sweep(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Open the videos of all complete shards as one dataset, lazily.

    Raises:
      ValueError: a manifest or view that is missing or damaged, or leads to other files; for sweeps
        up to 256 MB, also damaged shards. For larger ones see `damaged`.
    """
    folder = _folder(path)
    manifest, records = read_manifest(folder), read_records(folder)
    expected, way_out = "a sweep's results", "The sweep's command restores it."
    known = "view" in manifest  # earlier versions wrote no checksum
    is_whole = view_is_whole(folder) if known else (folder / VIEW).is_file()
    expect(is_whole, str(folder), expected, f"a missing or damaged {VIEW}", way_out)
    if sum(record.get("bytes", 0) for record in records.values()) <= _CHECKED_BYTES:
        # HDF5 shows fill values instead of data that it cannot find in a damaged shard.
        kept = {index: record for index, record in records.items() if "sha256" in record}
        wrong = [i for i in damaged(folder, kept) if shard_path(folder, i).is_file()]
        names = first_few(f"{SHARDS}/{shard_path(folder, i).name}" for i in wrong)
        expect(not wrong, str(folder), expected, f"damage in {names}", way_out)
    open_hdf5(folder / VIEW, expected, views=True).close()
    dataset = open_dataset(folder / VIEW, expected)
    extents = [ShardExtent(**extent) for extent in manifest["shards"]]
    same = dataset.sizes.get("video") == sum(extent.rows for extent in extents)
    expect(same, str(folder), expected, "a view of other videos", way_out)
    reasons = {uid: text for record in records.values() for uid, text in record["failures"].items()}
    notes = list(dict.fromkeys(text for record in records.values() for text in record["warnings"]))
    attributes = {
        "n_videos": dataset.sizes["video"],
        "n_finished": sum(extents[index].rows for index in records),
        "failures": json.dumps(reasons),
        "warnings": json.dumps(notes),
        "device": ", ".join(sorted({record["device"] for record in records.values()})),
    }
    dataset = dataset.assign_attrs(attributes)
    if len(records) == len(extents):
        return dataset
    complete = np.zeros(dataset.sizes["video"], bool)
    for index in records:
        complete[extents[index].start : extents[index].start + extents[index].rows] = True
    return dataset.isel(video=np.flatnonzero(complete))


# Writing


def writing(folder: Path) -> AbstractContextManager[None]:
    """Lock a store while its shards are written; see `files.locked_folder`.

    Raises:
      FileExistsError: another sweep holds the lock.
    """
    expected = "a folder that no other sweep is writing to"
    return locked_folder(folder / SHARDS / _WRITING, "out", expected)


def expect_free(folder: Path) -> None:
    """Refuse a folder without a sweep that contains files named like shards.

    Raises:
      FileExistsError: naming one of them.
    """
    shards = folder / SHARDS
    for path in sorted(shards.iterdir()) if shards.is_dir() else ():
        if _SHARD_FILE.fullmatch(path.name):
            got, way_out = f"{str(path)!r}, which no sweep wrote", "Choose another folder."
            raise FileExistsError(message("out", "a folder without results", got, way_out))


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of killed writers, and no other files."""
    remove_leftovers(folder / SHARDS / _WRITING)


def create(
    folder: Path,
    identity: JSONObject,
    header: Header,
    extents: Sequence[ShardExtent],
    data: JSONObject,
    *,
    keep_shards: bool = False,
) -> None:
    """Write the manifest, then the view, whose checksum it holds.

    Args:
      folder: locked by `writing`.
      identity: the settings that must be equal for a sweep to be continued.
      header, extents: see there.
      data: paths of the data, with their sizes and times.
      keep_shards: do not delete the shards of an earlier sweep.
    """
    if is_sweep(folder) and not keep_shards:
        for path in (folder / SHARDS).iterdir():
            if _SHARD_FILE.fullmatch(path.name):
                path.unlink()
    view = _view_of(header, extents)
    manifest = {
        "format": FORMAT,
        "digest": _digest(identity),
        "identity": dict(identity),
        "created": header.attributes["created"],
        "data": dict(data),
        "view": hashlib.sha256(view).hexdigest(),
        "shards": [extent._asdict() for extent in extents],
    }
    _write_json(folder / MANIFEST, manifest, folder)
    with _written(folder / VIEW, folder) as temporary:
        temporary.write_bytes(view)


def write_shard(
    folder: Path,
    index: int,
    variables: Mapping[str, np.ndarray],
    header: Header,
    extent: ShardExtent,
    identity: JSONObject,
    about: JSONObject,
) -> None:
    """Write one shard, then its record.

    Args:
      variables: by name, over the rows of the shard.
      identity: of the sweep; see `create`.
      about: content of its record beside the checksum: failures by uid, host, device, time.
    Raises:
      OSError: a folder that cannot be written, a full disk; nothing is then left behind.
    """
    rows = slice(extent.start, extent.start + extent.rows)
    chosen = header.choices is not None
    given = {"length": header.lengths[rows], "label": header.labels[rows]}
    data = {
        name: (dimensions(name, chosen), array) for name, array in (given | dict(variables)).items()
    }
    coordinates = _coordinates(header, header.uids[rows], extent.n)
    content = _netcdf(coordinates, data, {"format": FORMAT, "shard": index}, checked=True)
    with _written(shard_path(folder, index), folder) as temporary:
        temporary.write_bytes(content)
    record = {
        "sweep": _digest(identity),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    _write_json(record_path(folder, index), record | dict(about), folder)


def as_stored(name: str, array: np.ndarray) -> np.ndarray:
    """Cast a variable to the dtype in which shards store it."""
    return np.asarray(array, _TYPES[name][0])


def _digest(identity: JSONObject) -> str:
    """Digest of a sweep's identity, which its shards carry."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _written(path: Path, folder: Path) -> AbstractContextManager[Path]:
    return atomic_path(path, within=folder / SHARDS / _WRITING)


def _write_json(path: Path, content: JSONObject, folder: Path) -> None:
    with _written(path, folder) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# netCDF in memory

Variables = Mapping[str, tuple[tuple[str, ...], np.ndarray]]  # name: dimensions, values


def _coordinates(header: Header, uids: Sequence[str], n: int) -> dict[str, np.ndarray]:
    names = header.class_names
    numbered = all(name == str(c) for c, name in enumerate(names))
    coordinates = {
        "video": np.array(uids, object),
        "element": np.arange(n, dtype=np.int32),
        "class": np.arange(len(names)) if numbered else np.array(names, object),
    }
    if header.marginals:
        coordinates["scale"] = np.arange(1, n + 1, dtype=np.int32)
    if header.choices is not None:
        coordinates["choice"] = np.array(header.choices, object)
    return coordinates


def _view_of(header: Header, extents: Sequence[ShardExtent]) -> bytes:
    """Build the view: known facts of all videos, and the positions of values in the shards."""
    chosen = header.choices is not None
    coordinates = _coordinates(header, header.uids, max(extent.n for extent in extents))
    known: Variables = {
        "length": (("video",), header.lengths),
        "label": (("video",), header.labels),
        "prior": (("class",), header.prior),
    }
    sizes = {name: len(values) for name, values in coordinates.items()}
    omitted = set()
    if not any(extent.sampled for extent in extents):
        omitted.add("std_error")
    if not header.marginals:
        omitted.add("marginals")
    if not chosen:
        omitted.add("chosen")

    def add_views(file: h5py.File) -> None:
        for name in _TYPES:
            if name not in omitted:
                _add_view(file, name, dimensions(name, chosen), sizes, extents)

    attributes = header.attributes | {"format": FORMAT}
    return _netcdf(coordinates, known, attributes, add_views)


def _add_view(
    file: h5py.File,
    name: str,
    dims: tuple[str, ...],
    sizes: Mapping[str, int],
    extents: Sequence[ShardExtent],
) -> None:
    """Add one variable over all shards, as an HDF5 virtual dataset."""
    h5py = require("h5py", "files")
    dtype, missing = _TYPES[name]
    layout = h5py.VirtualLayout(tuple(sizes[dim] for dim in dims), dtype)
    for index, extent in enumerate(extents):
        if name == "std_error" and not extent.sampled:
            continue
        own = {**sizes, "video": extent.rows, "element": extent.n, "scale": extent.n}
        shape = tuple(own[dim] for dim in dims)
        source = h5py.VirtualSource(f"{SHARDS}/{index:05d}.nc", name, shape, dtype)
        at = (slice(extent.start, extent.start + extent.rows), *(slice(size) for size in shape[1:]))
        layout[at] = source
    _describe(file.create_virtual_dataset(name, layout, fillvalue=missing), dims)


def _netcdf(
    coordinates: Mapping[str, np.ndarray],
    variables: Variables,
    attributes: JSONObject,
    more: Callable[[h5py.File], None] | None = None,
    *,
    checked: bool = False,
) -> bytes:
    """Return the bytes of a netCDF-4 file, the same for the same content.

    The file is built in memory. On a full disk HDF5 leaves files open that cannot be closed, and
    files written through Python objects crash if the garbage collector meets both at once.

    Args:
      coordinates: one per dimension. variables: over these dimensions. attributes: of the file.
      more: adds virtual datasets, which h5netcdf cannot.
      checked: store variables in chunks with checksums. They are not compressed: ESVs are noise to
        a compressor, 9 % smaller by gzip at seven times the time.
    """
    h5py = require("h5py", "files")
    # The file name is never used. HDF5 1.10 and newer can read the result.
    options = {"driver": "core", "backing_store": False, "libver": ("earliest", "v110")}
    with h5py.File("image.nc", "w", **options) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, values in coordinates.items():
            dtype = h5py.string_dtype() if values.dtype.kind in "OU" else values.dtype
            file.create_dataset(name, data=values, dtype=dtype).make_scale(name)
        for name, (dims, values) in variables.items():
            encoding: dict[str, Any] = {}
            if checked:
                n_videos = max(1, min(len(values), _CHUNK_BYTES // max(values[0].nbytes, 1)))
                encoding = {"fletcher32": True, "chunks": (n_videos, *values.shape[1:])}
            _describe(file.create_dataset(name, data=values, **encoding), dims)
        if more is not None:
            more(file)
        file.flush()
        return bytes(file.id.get_file_image())


def _describe(dataset: h5py.Dataset, dims: tuple[str, ...]) -> None:
    """Name the axes of a dataset after coordinates of its file; store its meaning."""
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(dataset.file[dim])
    name = dataset.name.removeprefix("/")
    dataset.attrs["long_name"], dataset.attrs["units"] = LAYOUT[name][1], "1"
