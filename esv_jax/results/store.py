"""The store of a sweep: a folder of shards, each complete or not there, that opens as one dataset.

    sweep.json          what the sweep is: videos, settings, versions, which shards there will be
    results.nc          all videos as one netCDF-4 file: names, lengths and labels, and a view of
                        what the shards hold, which opens with xarray like any other file
    shards/00000.nc     some videos' values: a netCDF-4 file that can be read alone
    shards/00000.json   its checksum, what it was made of, what failed in it and why, who made it
    shards/.writing/    while a sweep runs: its lock and its temporary files

A shard counts once its `.json` is there, which is written last; each file is written by one
process, complete or not at all. The view is written before the first shard: it says where in the
shards values will be, and reads as missing what is not there yet. `sweep.json` has its checksum.

HDF5 with a view was chosen over Zarr: shards may then have different numbers of videos and of
elements (chunks of a Zarr array are all alike), one rename commits a shard, a shard can be taken
away and read, and the core needs no further package. `experiments/benchmarks/stores.py` measures
both: they write and read equally fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esv_jax.checks import expect, first_few, message
from esv_jax.extras import require
from esv_jax.files import atomic_path, locked_folder, remove_leftovers
from esv_jax.hdf5 import open_hdf5
from esv_jax.results.image import Variable, attach, netcdf_image
from esv_jax.results.layout import LAYOUT, dimensions
from esv_jax.results.provenance import open_dataset

if TYPE_CHECKING:
    import xarray

FORMAT = "esv_jax sweep, version 1"
VIEW, MANIFEST, SHARDS = "results.nc", "sweep.json", "shards"
_CHECKED_BYTES = 2**28  # of shards whose checksums are compared when a sweep is opened
_WRITING = ".writing"
_RECORD = {"bytes": int, "sweep": str, "failures": dict, "warnings": list, "device": str}
_OURS = re.compile(r"\d{5,}\.(nc|json)")  # files of shards
_CHUNK_BYTES = 2**18  # of values with one checksum, read together

_TYPES = {  # of stored variables, and what stands where no shard is
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


class ShardPlace(NamedTuple):
    """Position of a shard's values in the whole.

    Attributes:
      start: first row. rows: videos. n: elements that it is padded to.
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
    attributes: Mapping[str, Any]


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a sweep, or the view in it."""
    return (_folder(path) / MANIFEST).is_file()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of `sweep.json`.

    Raises:
      ValueError: no such file, one that cannot be read, or that says something else.
    """
    place, expected = _folder(path) / MANIFEST, "a sweep's manifest"
    manifest = _read_json(place, expected)
    got = manifest.get("format")
    expect(got == FORMAT, str(place), f"{expected} ({FORMAT})", f"another file (format {got})")
    identity, shards = manifest.get("identity"), manifest.get("shards")
    whole = isinstance(identity, dict) and isinstance(shards, list) and len(shards) > 0
    expect(whole, str(place), expected, "one without identity or shards")
    start = 0
    for shard in shards or ():
        fits = isinstance(shard, dict) and set(shard) == set(ShardPlace._fields)
        fits = fits and all(isinstance(value, int) for value in shard.values())
        fits = fits and shard["start"] == start and shard["rows"] > 0 and shard["n"] > 0
        expect(fits, str(place), expected, f"the shard {shard!r}"[:80])
        start += shard["rows"]
    return manifest


def writing(folder: Path) -> AbstractContextManager[None]:
    """Hold a store while its shards are written; see `files.locked_folder`.

    Raises:
      FileExistsError: another sweep holds it.
    """
    expected = "a folder that no other sweep is writing to"
    return locked_folder(folder / SHARDS / _WRITING, "out", expected)


def expect_free(folder: Path) -> None:
    """Refuse a folder without a sweep in which files of other origin have the names of shards.

    Raises:
      FileExistsError: naming one of them.
    """
    shards = folder / SHARDS
    for path in sorted(shards.iterdir()) if shards.is_dir() else ():
        got, way_out = f"{str(path)!r}, which no sweep wrote", "Choose another folder."
        free = _OURS.fullmatch(path.name) is None
        expect(free, "out", "a folder without results", got, way_out, kind=FileExistsError)


def create(
    folder: Path,
    identity: Mapping[str, Any],
    header: Header,
    places: Sequence[ShardPlace],
    data: Mapping[str, Any],
) -> None:
    """Make the store of a sweep, without values yet; shards of a former sweep are deleted.

    Args:
      folder: held by `writing`.
      identity: what must be the same for a sweep to be continued, as JSON.
      header, places: see there.
      data: where the data are, with their sizes and times, as JSON.
    """
    if is_sweep(folder):
        for path in (folder / SHARDS).iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
    renew(folder, identity, header, places, data)


def renew(
    folder: Path,
    identity: Mapping[str, Any],
    header: Header,
    places: Sequence[ShardPlace],
    data: Mapping[str, Any],
) -> None:
    """Write the manifest and then the view, whose checksum it has; shards stay. See `create`."""
    view = _view_of(header, places)
    manifest = {
        "format": FORMAT,
        "digest": _digest(identity),
        "identity": dict(identity),
        "created": header.attributes["created"],
        "data": dict(data),
        "view": hashlib.sha256(view).hexdigest(),
        "shards": [place._asdict() for place in places],
    }
    _write_json(folder / MANIFEST, manifest, folder)
    with _written(folder / VIEW, folder) as temporary:
        temporary.write_bytes(view)


def _written(path: Path, folder: Path) -> AbstractContextManager[Path]:
    return atomic_path(path, within=folder / SHARDS / _WRITING)


def _digest(identity: Mapping[str, Any]) -> str:
    """A short name of a sweep, which its shards bear."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_shard(
    folder: Path,
    index: int,
    variables: Mapping[str, np.ndarray],
    header: Header,
    place: ShardPlace,
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write one shard and, once it is there, its record.

    Args:
      variables: by name, over the rows of the shard.
      identity: of the sweep; see `create`.
      about: what its record says beside the checksum: failures by uid, host, device, time.
    Raises:
      OSError: a place that cannot be written to, a full disk; nothing is then left behind.
    """
    rows = slice(place.start, place.start + place.rows)
    chosen = header.choices is not None
    given = {"length": header.lengths[rows], "label": header.labels[rows]}
    data = {
        name: Variable(dimensions(name, chosen), array, LAYOUT[name][1], _checked(array))
        for name, array in (given | dict(variables)).items()
    }
    coordinates = _coordinates(header, header.uids[rows], place.n)
    content = netcdf_image(coordinates, data, {"format": FORMAT, "shard": index})
    with _written(shard_path(folder, index), folder) as temporary:
        temporary.write_bytes(content)
    record = {
        "sweep": _digest(identity),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    _write_json(record_path(folder, index), record | dict(about), folder)


def shard_path(folder: Path, index: int) -> Path:
    """The file of a shard's values."""
    return folder / SHARDS / f"{index:05d}.nc"


def record_path(folder: Path, index: int) -> Path:
    """The file that says that a shard is complete."""
    return folder / SHARDS / f"{index:05d}.json"


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of writers that were killed; nothing that others may have made."""
    remove_leftovers(folder / SHARDS / _WRITING)


def read_records(path: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """Records of the shards that are complete, by index; those that cannot be read are left out."""
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


def damaged(path: str | os.PathLike[str], records: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """List the recorded shards whose bytes have changed since they were written. Reads all."""
    folder, wrong = _folder(path), []
    for index, record in records.items():
        if _digest_of_file(shard_path(folder, index)) != record.get("sha256"):
            wrong.append(index)
    return wrong


def _digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content; "" of one that is missing, unreadable or no plain file."""
    try:
        if path.is_file():  # a pipe would wait for ever
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        pass
    return ""


def open_sweep(path: str | os.PathLike[str]) -> xarray.Dataset:
    """The dataset of a sweep's folder: the videos of all shards that are complete, lazily.

    Raises:
      ValueError: a manifest or view that is missing or damaged, or leads to other files; shards
        that are damaged, of sweeps up to 256 MB. For larger ones see `damaged`.
    """
    folder = _folder(path)
    manifest, records = read_manifest(folder), read_records(folder)
    expected, way_out = "a sweep's results", "The sweep's command makes it again."
    got = f"a missing or damaged {VIEW}"
    known = "view" in manifest  # earlier versions wrote no checksum
    is_whole = view_is_whole(folder) if known else (folder / VIEW).is_file()
    expect(is_whole, str(folder), expected, got, way_out)
    if sum(record.get("bytes", 0) for record in records.values()) <= _CHECKED_BYTES:
        # HDF5 shows fill values in place of what it cannot find in a damaged shard.
        kept = {index: record for index, record in records.items() if "sha256" in record}
        wrong = [i for i in damaged(folder, kept) if shard_path(folder, i).is_file()]
        names = first_few(f"{SHARDS}/{shard_path(folder, i).name}" for i in wrong)
        expect(not wrong, str(folder), expected, f"damage in {names}", way_out)
    open_hdf5(folder / VIEW, expected, views=True).close()
    dataset = open_dataset(folder / VIEW, expected)
    rows = sum(place["rows"] for place in manifest["shards"])
    same = dataset.sizes.get("video") == rows
    expect(same, str(folder), expected, "a view of other videos", way_out)
    places = [ShardPlace(**place) for place in manifest["shards"]]
    reasons = {uid: text for record in records.values() for uid, text in record["failures"].items()}
    notes = list(dict.fromkeys(text for record in records.values() for text in record["warnings"]))
    attributes = {
        "n_videos": dataset.sizes["video"],
        "n_finished": sum(places[index].rows for index in records),
        "failures": json.dumps(reasons),
        "warnings": json.dumps(notes),
        "device": ", ".join(sorted({record["device"] for record in records.values()})),
    }
    dataset = dataset.assign_attrs(attributes)
    if len(records) == len(places):
        return dataset
    there = np.zeros(dataset.sizes["video"], bool)
    for index in records:
        there[places[index].start : places[index].start + places[index].rows] = True
    return dataset.isel(video=np.flatnonzero(there))


def _folder(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.parent if path.name in (VIEW, MANIFEST) else path


def _coordinates(header: Header, uids: Sequence[str], n: int) -> dict[str, Variable]:
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
    return {name: Variable((name,), values) for name, values in coordinates.items()}


def view_is_whole(folder: Path) -> bool:
    """Return whether the view is there with the bytes that were written. Reads it."""
    return _digest_of_file(folder / VIEW) == read_manifest(folder).get("view")


def _view_of(header: Header, places: Sequence[ShardPlace]) -> bytes:
    """All videos: what is known of them, and where in the shards the rest will be."""
    chosen = header.choices is not None
    coordinates = _coordinates(header, header.uids, max(place.n for place in places))
    known = {"length": header.lengths, "label": header.labels, "prior": header.prior}
    data = {
        name: Variable(("class",) if name == "prior" else ("video",), array, LAYOUT[name][1])
        for name, array in known.items()
    }
    sizes = {name: len(coordinate.values) for name, coordinate in coordinates.items()}
    sampled = any(place.sampled for place in places)
    left_out = {
        *(() if sampled else ("std_error",)),
        *(() if header.marginals else ("marginals",)),
        *(() if chosen else ("chosen",)),
    }

    def add_views(file: Any) -> None:
        for name in _TYPES:
            if name not in left_out:
                _add_view(file, name, chosen, sizes, places)

    attributes = dict(header.attributes) | {"format": FORMAT}
    return netcdf_image(coordinates, data, attributes, add_views)


def _add_view(
    file: Any,
    name: str,
    chosen: bool,
    sizes: Mapping[str, int],
    places: Sequence[ShardPlace],
) -> None:
    """One variable over all shards, as an HDF5 virtual dataset."""
    h5py = require("h5py", "files")
    dims = dimensions(name, chosen)
    dtype, missing = _TYPES[name]
    layout = h5py.VirtualLayout(tuple(sizes[dim] for dim in dims), dtype)
    for index, place in enumerate(places):
        if name == "std_error" and not place.sampled:
            continue
        own = {**sizes, "video": place.rows, "element": place.n, "scale": place.n}
        shape = tuple(own[dim] for dim in dims)
        source = h5py.VirtualSource(f"{SHARDS}/{index:05d}.nc", name, shape, dtype)
        at = (slice(place.start, place.start + place.rows), *(slice(size) for size in shape[1:]))
        layout[at] = source
    attach(file.create_virtual_dataset(name, layout, fillvalue=missing), dims, LAYOUT[name][1])


def stored(name: str, array: np.ndarray) -> np.ndarray:
    """A variable in the type that shards keep it in."""
    return np.asarray(array, _TYPES[name][0])


def _checked(array: np.ndarray) -> dict[str, Any]:
    """Checksums chunk by chunk, so that damage is noticed on reading too; no compression.

    ESVs are noise to a compressor: 9 % smaller by gzip, at seven times the time.
    """
    n_videos = max(1, min(len(array), _CHUNK_BYTES // max(array[0].nbytes, 1)))
    return {"fletcher32": True, "chunks": (n_videos, *array.shape[1:])}


def _write_json(path: Path, content: Mapping[str, Any], folder: Path) -> None:
    with _written(path, folder) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path, expected: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        text = message(str(path), expected, "one that is missing or damaged")
        raise ValueError(text) from error
    expect(isinstance(content, dict), str(path), expected, type(content).__name__)
    return content
