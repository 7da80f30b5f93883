"""Provenance attributes of files of results, and the check of them on opening."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from esv_jax.checks import expect, message
from esv_jax.extras import require
from esv_jax.hdf5 import naming, open_hdf5

if TYPE_CHECKING:
    import xarray


def provenance(
    title: str, kind: str, values: Any, settings: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Attributes of a file: versions, device, time, settings.

    Args:
      title: for people. kind: name and version of the format.
      values: an array of the results, for the device that it is on.
      settings: what they were made with, as JSON allows.
    Raises:
      TypeError: settings that JSON cannot hold.
    """
    try:
        text = json.dumps(dict(settings or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(message("settings", "what JSON can hold", error)) from error
    device = min(values.devices(), key=str) if isinstance(values, jax.Array) else jax.devices()[0]
    return {
        "title": title,
        "format": kind,
        "esv_jax_version": metadata.version("esv-jax"),
        "jax_version": jax.__version__,
        "python_version": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform}: {device.device_kind}",
        "settings": text,
    }


def compressed(chunk: tuple[int, ...]) -> dict[str, Any]:
    """Light compression with a checksum, as xarray's `encoding` has it."""
    return {
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
        "chunksizes": chunk,
    }


def open_format(path: str | os.PathLike[str], kind: str, writer: str) -> xarray.Dataset:
    """The dataset in a file of one of our formats, by the name that it says.

    Raises:
      ValueError: naming the file: missing, damaged, of another format, or one that leads to other
        files; see `esv_jax.hdf5.open_hdf5`.
    """
    expected = f"a file written by {writer} ({kind})"
    expect(Path(path).is_file(), str(path), expected, "no such file")
    with open_hdf5(path, expected) as file, naming(str(path), expected):
        found = str(file.attrs.get("format"))
    expect(found == kind, str(path), expected, f"another file (format {found})")
    return open_dataset(path, expected)


def write_dataset(
    path: Path, dataset: xarray.Dataset, encoding: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a netCDF-4 file, made in memory: on a full disk HDF5 itself may crash the process.

    Raises:
      OSError: a file that cannot be written, a full disk.
    """
    require("h5netcdf", "files")
    path.write_bytes(dataset.to_netcdf(engine="h5netcdf", encoding=encoding))


def open_dataset(path: str | os.PathLike[str], expected: str) -> xarray.Dataset:
    """Open a netCDF-4 file that was inspected or checked before, by xarray.

    Raises:
      ValueError: naming the file, where it is damaged.
    """
    xarray = require("xarray", "files")
    require("h5netcdf", "files")
    with naming(str(path), expected):
        return xarray.open_dataset(path, engine="h5netcdf")
