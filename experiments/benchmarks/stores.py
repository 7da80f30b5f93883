"""Stores of results: HDF5 shards with a view, beside one Zarr array in chunks.

    python -m experiments.benchmarks.stores --out stores.json

Writes values like those of a sweep (8 frames, 174 classes; mostly noise) shard by
shard, opens them with xarray, reads videos at random and then everything. Zarr is measured where
it is installed. Times are wall seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tyro
import xarray

from experiments.benchmarks.common import Table, seconds

N_CLASSES, N_FRAMES, ROWS = 174, 8, 1024
SHAPE = (ROWS, N_FRAMES, N_CLASSES)
ENCODINGS: dict[str, dict[str, Any]] = {
    "HDF5": {},
    "HDF5, checksums": {"fletcher32": True, "chunksizes": (47, N_FRAMES, N_CLASSES)},
    "HDF5, gzip": {
        "fletcher32": True,
        "shuffle": True,
        "compression": "gzip",
        "compression_opts": 1,
        "chunksizes": (47, N_FRAMES, N_CLASSES),
    },
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes."""

    shards: int = 24
    """Shards of 1,024 videos."""
    reads: int = 20
    """Videos read at random."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def values() -> np.ndarray:
    """ESVs of one shard, with very different sizes by class."""
    rng = np.random.default_rng(0)
    size = np.exp(2 * rng.standard_normal((ROWS, 1, N_CLASSES)))
    return (1e-3 * size * rng.standard_normal(SHAPE)).astype(np.float32)


def write_hdf5(folder: Path, shards: int, shard: np.ndarray, encoding: dict[str, Any]) -> None:
    """Files, and a view of all files."""
    dims = ("video", "element", "class")
    layout = h5py.VirtualLayout((shards * ROWS, N_FRAMES, N_CLASSES), "f4")
    for k in range(shards):
        dataset = xarray.Dataset({"esv": (dims, shard)})
        dataset.to_netcdf(folder / f"{k}.nc", engine="h5netcdf", encoding={"esv": encoding})
        layout[k * ROWS : (k + 1) * ROWS] = h5py.VirtualSource(f"{k}.nc", "esv", SHAPE)
    with h5py.File(folder / "view.nc", "w", libver="latest") as file:
        view = file.create_virtual_dataset("esv", layout, fillvalue=np.nan)
        for axis, (dim, size) in enumerate(zip(dims, view.shape, strict=True)):
            file[dim] = np.arange(size)
            file[dim].make_scale(dim)
            view.dims[axis].attach_scale(file[dim])


def write_zarr(folder: Path, shards: int, shard: np.ndarray, compressed: bool) -> None:
    """One array, a chunk for each shard."""
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    array = group.create_array(
        "esv",
        shape=(shards * ROWS, N_FRAMES, N_CLASSES),
        chunks=SHAPE,
        dtype="f4",
        compressors="auto" if compressed else None,
        fill_value=np.nan,
        dimension_names=("video", "element", "class"),
    )
    for k in range(shards):
        array[k * ROWS : (k + 1) * ROWS] = shard


def measured(
    name: str, write: Callable[[Path], None], read: Callable[[Path], Any], settings: Settings
) -> dict[str, Any]:
    """Times of writing, opening and reading."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cpu = time.process_time()
        wall = seconds(lambda: write(folder))
        cpu = time.process_time() - cpu
        files = [path for path in folder.rglob("*") if path.is_file()]
        opened: list[Any] = []
        opening = seconds(lambda: opened.append(read(folder)))
        array = opened[0]["esv"]
        rng = np.random.default_rng(1)
        rows = rng.integers(0, array.shape[0], settings.reads).tolist()
        one = [seconds(lambda row=row: array[row].values) for row in rows]
        whole = seconds(lambda: array.values)
        case = {
            "case": name,
            "write_seconds": wall,
            "write_cpu_seconds": cpu,
            "megabytes": sum(os.path.getsize(path) for path in files) / 1e6,
            "files": len(files),
            "open_seconds": opening,
            "read_one_seconds": float(np.median(one)),
            "read_all_seconds": whole,
        }
        opened[0].close()
    return case


COLUMNS = {
    "case": "{case}",
    "write": "{write_seconds:.3g} s",
    "write, CPU": "{write_cpu_seconds:.3g} s",
    "size": "{megabytes:.3g} MB",
    "files": "{files}",
    "open": "{open_seconds:.3g} s",
    "read one": "{read_one_seconds:.3g} s",
    "read all": "{read_all_seconds:.3g} s",
}


def main(settings: Settings) -> None:
    shard, n, table = values(), settings.shards, Table(COLUMNS)
    for name, encoding in ENCODINGS.items():
        write = functools.partial(write_hdf5, shards=n, shard=shard, encoding=encoding)
        table.add(measured(name, write, _open_view, settings))
    if importlib.util.find_spec("zarr") is not None:
        for name, compressed in (("Zarr", False), ("Zarr, zstd", True)):
            write = functools.partial(write_zarr, shards=n, shard=shard, compressed=compressed)
            read = functools.partial(xarray.open_zarr, consolidated=False, chunks=None)
            table.add(measured(name, write, read, settings))
    table.store(settings.out)


def _open_view(folder: Path) -> xarray.Dataset:
    return xarray.open_dataset(folder / "view.nc", engine="h5netcdf")


if __name__ == "__main__":
    main(tyro.cli(Settings))
