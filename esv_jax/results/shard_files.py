"""Content of the files of a sweep: shards of values, and the view of all of them.

The files are built in memory. On a full disk HDF5 leaves files open that cannot be closed, and
files written through Python objects crash if the garbage collector meets both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esv_jax.extras import require
from esv_jax.files import JSONObject
from esv_jax.results.layout import LAYOUT, dimensions

if TYPE_CHECKING:
    import h5py

FORMAT = "esv_jax sweep, version 1"
SHARDS = "shards"
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


def as_stored(name: str, array: np.ndarray) -> np.ndarray:
    """Cast a variable to the dtype in which shards store it."""
    return np.asarray(array, _TYPES[name][0])


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


def shard_bytes(
    index: int, variables: Mapping[str, np.ndarray], header: Header, extent: ShardExtent
) -> bytes:
    """Build a shard: values of some videos, as a netCDF-4 file.

    Args:
      variables: by name, over the rows of the shard.
    """
    rows = slice(extent.start, extent.start + extent.rows)
    given = {"length": header.lengths[rows], "label": header.labels[rows], **variables}
    chosen = header.choices is not None
    data = {name: (dimensions(name, chosen), array) for name, array in given.items()}
    coordinates = _coordinates(header, header.uids[rows], extent.n)
    return _netcdf(coordinates, data, {"format": FORMAT, "shard": index}, checked=True)


def view_bytes(header: Header, extents: Sequence[ShardExtent]) -> bytes:
    """Build the view: known facts of all videos, and the positions of values in the shards."""
    chosen = header.choices is not None
    coordinates = _coordinates(header, header.uids, max(extent.n for extent in extents))
    known: Variables = {
        "length": (("video",), header.lengths),
        "label": (("video",), header.labels),
        "prior": (("class",), header.prior),
    }
    sampled = any(extent.sampled for extent in extents)
    optional = {"std_error": sampled, "marginals": header.marginals, "chosen": chosen}
    sizes = {name: len(values) for name, values in coordinates.items()}

    def add_views(file: h5py.File) -> None:
        for name in _TYPES:
            if optional.get(name, True):
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
        at = (slice(extent.start, extent.start + extent.rows), *(slice(size) for size in shape[1:]))
        layout[at] = h5py.VirtualSource(f"{SHARDS}/{index:05d}.nc", name, shape, dtype)
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
