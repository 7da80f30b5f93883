"""Layout of files of results: variables, attributes, checks on opening."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from esv_jax.checks import expect, message
from esv_jax.extras import require
from esv_jax.files import JSONObject
from esv_jax.hdf5 import naming, open_hdf5

if TYPE_CHECKING:
    import xarray

Encoding = dict[str, object]  # of a variable, as by xarray

ELEMENT, SCORE, VIDEO = ("video", "element", "class"), ("video", "class"), ("video",)

LAYOUT = {  # name: dimensions, meaning
    "esv": (ELEMENT, "Element Shapley Value: share of score - prior"),
    "std_error": (ELEMENT, "standard error of the ESV"),
    "marginals": (("video", "scale", "element", "class"), "mean marginal contribution at a scale"),
    "scores": (SCORE, "score of the whole sequence"),
    "prior": (SCORE, "score of the empty sequence"),
    "length": (VIDEO, "number of elements"),
    "label": (VIDEO, "true class, -1 where unknown"),
    "prediction": (VIDEO, "class of the highest score"),
    "exact": (VIDEO, "whether every subsequence was evaluated"),
    "n_evaluations": (VIDEO, "model evaluations of distinct subsequences"),
    "efficiency_gap": (VIDEO, "largest |sum of ESVs - (score - prior)| of all classes"),
    "element_index": (("video", "element"), "index in the original sequence, -1 beyond its length"),
    "chosen": (("video", "choice"), "class that a choice stands for, -1 where there is none"),
    "failed": (VIDEO, "whether it could not be explained"),
}

PER_CLASS = ("esv", "std_error", "marginals")
"""Variables that a sweep may store for some classes only: `choice` in place of `class`."""

OTHER_METHOD = "other_method"
"""Attribute of a variable with another method's values: its name. Dimensions are those of `esv`."""

_ALWAYS = ("esv", "scores", "prior", "length", "label", "prediction", "exact", "efficiency_gap")
_JSON = {"settings": dict, "failures": dict, "warnings": list}  # attributes


def other_methods(dataset: xarray.Dataset) -> tuple[str, ...]:
    """Names of the other methods whose values a dataset holds."""
    kept = dataset.data_vars.items()
    return tuple(str(name) for name, variable in kept if OTHER_METHOD in variable.attrs)


def dimensions(name: str, chosen: bool = False) -> tuple[str, ...]:
    """Dimensions of a variable; `chosen`: values of some classes only are stored."""
    dims = LAYOUT[name][0]
    return (*dims[:-1], "choice") if chosen and name in PER_CLASS else dims


def expect_layout(dataset: xarray.Dataset, where: str) -> None:
    """Refuse a file whose variables, dimensions or attributes readers cannot rely on.

    Args:
      where: name of the file in messages.
    Raises:
      ValueError: a variable or attribute that is missing or of another kind, a length or label out
        of range, repeated names of videos.
    Cost: reads names, lengths and labels.
    """
    chosen = "choice" in dataset.sizes
    for name in ("video", "class", *_ALWAYS):
        expect(name in dataset.variables, where, f"a variable {name!r}", "none")
    for name in LAYOUT:
        if name in dataset.variables:
            variable, full = dataset.variables[name], dimensions(name, chosen)
            short = full[1:] if name == "prior" else full  # the same for all videos
            fits = variable.dims in (full, short) and variable.dtype.kind in "iufb"
            got = f"{variable.dtype} {variable.dims}"
            expect(fits, f"{where}, {name}", f"numbers {full}", got)
    for name, kind in _JSON.items():
        text = dataset.attrs.get(name, "{}" if kind is dict else "[]")
        expect(_holds(text, kind), f"{where}, attribute {name}", f"JSON, a {kind.__name__}", "none")
    expect("settings" in dataset.attrs, where, "an attribute 'settings'", "none")
    n_classes = dataset.sizes["class"]
    for name, low, top in (("length", 0, dataset.sizes["element"]), ("label", -1, n_classes - 1)):
        with naming(f"{where}, {name}", "readable values"):
            values = dataset[name].values
        wrong = values[(values < low) | (values > top)]
        expect(not wrong.size, f"{where}, {name}", f"numbers in {low}..{top}", str(wrong[:1]))
    with naming(f"{where}, names of videos", "distinct names"):
        distinct = bool(dataset.indexes["video"].is_unique)
    expect(distinct, f"{where}, names of videos", "distinct names", "one twice")


def _holds(text: object, kind: type) -> bool:
    """Return whether a text is JSON of this kind."""
    try:
        return isinstance(text, str) and isinstance(json.loads(text), kind)
    except ValueError:
        return False


@contextmanager
def reading(dataset: xarray.Dataset) -> Iterator[None]:
    """Turn errors of reading values into a ValueError of one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, IndexError, OverflowError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # about another file, which it names
        raise unreadable(dataset, "damage") from error


def unreadable(dataset: xarray.Dataset, got: str) -> ValueError:
    """Return the error for values that cannot be read; it names the file."""
    where = str(dataset.encoding.get("source", "results"))
    way_out = "Of a sweep, esv-jax results --verify names the shard."
    return ValueError(message(where, "readable values", got, way_out))


# Attributes


def provenance(
    title: str, kind: str, values: object, settings: Mapping[str, object] | None
) -> JSONObject:
    """Attributes of a file: versions, device, time, settings.

    Args:
      title: for people. kind: name and version of the format.
      values: an array of the results, whose device is stored.
      settings: of the computation, as JSON.
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


# Files


def compressed(chunk: tuple[int, ...]) -> Encoding:
    """Light compression with a checksum, as xarray's `encoding`."""
    return {
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
        "chunksizes": chunk,
    }


def write_dataset(path: Path, dataset: xarray.Dataset, encoding: Mapping[str, Encoding]) -> None:
    """Write a netCDF-4 file, built in memory: on a full disk HDF5 itself may crash the process."""
    require("h5netcdf", "files")
    path.write_bytes(dataset.to_netcdf(engine="h5netcdf", encoding=encoding))


def open_format(path: str | os.PathLike[str], kind: str, writer: str) -> xarray.Dataset:
    """Open a file of the format `kind`, which its attribute `format` has to name.

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


def open_dataset(path: str | os.PathLike[str], expected: str) -> xarray.Dataset:
    """Open a netCDF-4 file that has been inspected; ValueError if it is damaged."""
    xarray = require("xarray", "files")
    require("h5netcdf", "files")
    with naming(str(path), expected):
        return xarray.open_dataset(path, engine="h5netcdf")
