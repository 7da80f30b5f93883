"""netCDF-4 files made in memory: what is then written is plain bytes, and their checksum is known.

A full disk so ends a plain write. HDF5 itself, where it cannot write on, leaves files open that
cannot be closed; and files that it writes through Python objects crash the process if the garbage
collector comes upon both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from esv_jax.extras import require


class Variable(NamedTuple):
    """An array with names for its axes.

    Attributes:
      dims: of the axes. values: numbers, or an object array of strings.
      meaning: a few words, kept as `long_name`; "" for none.
      encoding: as h5py's `create_dataset` takes it.
    """

    dims: tuple[str, ...]
    values: np.ndarray
    meaning: str = ""
    encoding: Mapping[str, Any] | None = None


def netcdf_image(
    coordinates: Mapping[str, Variable],
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
    more: Callable[[Any], None] | None = None,
) -> bytes:
    """The bytes of a netCDF-4 file, the same for the same content.

    Args:
      coordinates: one per dimension, by its name, in the order of dimensions.
      variables: over these dimensions. attributes: of the file.
      more: called with the open h5py file, to add what is not an array.
    """
    h5py = require("h5py", "files")
    # The name is never seen on a disk. Files of h5py 1.10 and newer can be read everywhere.
    with h5py.File(
        "image.nc", "w", driver="core", backing_store=False, libver=("earliest", "v110")
    ) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, coordinate in coordinates.items():
            _add(h5py, file, name, coordinate)
            file[name].make_scale(name)
        for name, variable in variables.items():
            attach(_add(h5py, file, name, variable), variable.dims, variable.meaning)
        if more is not None:
            more(file)
        file.flush()
        return bytes(file.id.get_file_image())


def attach(dataset: Any, dims: tuple[str, ...], meaning: str) -> None:
    """Name the axes of a dataset after coordinates that are there, and say what it means."""
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(dataset.file[dim])
    dataset.attrs["long_name"], dataset.attrs["units"] = meaning, "1"


def _add(h5py: Any, file: Any, name: str, variable: Variable) -> Any:
    values = variable.values
    dtype = h5py.string_dtype() if values.dtype.kind in "OU" else values.dtype
    dataset = file.create_dataset(name, data=values, dtype=dtype, **(variable.encoding or {}))
    if variable.meaning:
        dataset.attrs["long_name"] = variable.meaning
    return dataset
