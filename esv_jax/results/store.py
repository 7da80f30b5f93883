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
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esv_jax.checks import expect, first_few, message
from esv_jax.files import JSONObject, atomic_path, locked_folder
from esv_jax.hdf5 import open_hdf5
from esv_jax.results.layout import open_dataset
from esv_jax.results.shard_files import FORMAT, SHARDS, Header, ShardExtent, shard_bytes, view_bytes

if TYPE_CHECKING:
    import xarray

VIEW, MANIFEST = "results.nc", "sweep.json"
_CHECKED_BYTES = 2**28  # of shards whose checksums are compared when a sweep is opened
WRITING = f"{SHARDS}/.writing"  # folder of the lock and of temporary files
_RECORD = {"bytes": int, "sweep": str, "failures": dict, "warnings": list, "device": str}
_SHARD_FILE = re.compile(r"\d{5,}\.(nc|json)")


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
    with suppress(OSError):
        if path.is_file():  # reading a pipe would block
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
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
    if sum(record["bytes"] for record in records.values()) <= _CHECKED_BYTES:
        # HDF5 shows fill values instead of data that it cannot find in a damaged shard.
        kept = {index: record for index, record in records.items() if "sha256" in record}
        wrong = [i for i in damaged(folder, kept) if shard_path(folder, i).is_file()]
        names = first_few(f"{SHARDS}/{shard_path(folder, i).name}" for i in wrong)
        expect(not wrong, str(folder), expected, f"damage in {names}", way_out)
    open_hdf5(folder / VIEW, expected, views=True).close()
    dataset = open_dataset(folder / VIEW, expected)
    extents = [ShardExtent(**extent) for extent in manifest["shards"]]
    n_videos = sum(extent.rows for extent in extents)
    same = dataset.sizes.get("video") == n_videos
    expect(same, str(folder), expected, "a view of other videos", way_out)
    complete = np.repeat([i in records for i in range(len(extents))], [e.rows for e in extents])
    notes = (text for record in records.values() for text in record["warnings"])
    dataset = dataset.assign_attrs(
        n_videos=n_videos,
        n_finished=int(complete.sum()),
        failures=json.dumps(all_failures(records)),
        warnings=json.dumps(list(dict.fromkeys(notes))),
        device=", ".join(sorted({record["device"] for record in records.values()})),
    )
    return dataset if complete.all() else dataset.isel(video=np.flatnonzero(complete))


def all_failures(records: Mapping[int, JSONObject]) -> dict[str, str]:
    """Return the reasons for the videos that could not be explained, by uid."""
    return {uid: why for record in records.values() for uid, why in record["failures"].items()}


# Writing


def writing(folder: Path) -> AbstractContextManager[None]:
    """Lock a store while its shards are written; see `files.locked_folder`.

    Raises:
      FileExistsError: another sweep holds the lock.
    """
    expected = "a folder that no other sweep is writing to"
    return locked_folder(folder / WRITING, "out", expected)


def expect_free(folder: Path) -> None:
    """Refuse a folder without a sweep that contains files named like shards.

    Raises:
      FileExistsError: naming one of them.
    """
    for path in sorted(_shard_files(folder)):
        got, way_out = f"{str(path)!r}, which no sweep wrote", "Choose another folder."
        raise FileExistsError(message("out", "a folder without results", got, way_out))


def _shard_files(folder: Path) -> list[Path]:
    shards = folder / SHARDS
    return [p for p in shards.iterdir() if _SHARD_FILE.fullmatch(p.name)] if shards.is_dir() else []


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
      data: paths of the data, with their sizes and times.
      keep_shards: do not delete the shards of an earlier sweep.
    """
    if is_sweep(folder) and not keep_shards:
        for path in _shard_files(folder):
            path.unlink()
    view = view_bytes(header, extents)
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
      about: content of its record beside the checksum: failures by uid, host, device, time.
    Raises:
      OSError: a folder that cannot be written, a full disk; nothing is then left behind.
    """
    content = shard_bytes(index, variables, header, extent)
    with _written(shard_path(folder, index), folder) as temporary:
        temporary.write_bytes(content)
    record = {
        "sweep": _digest(identity),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    _write_json(record_path(folder, index), record | dict(about), folder)


def _digest(identity: JSONObject) -> str:
    """Digest of a sweep's identity, which its shards carry."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _written(path: Path, folder: Path) -> AbstractContextManager[Path]:
    return atomic_path(path, within=folder / WRITING)


def _write_json(path: Path, content: JSONObject, folder: Path) -> None:
    with _written(path, folder) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
