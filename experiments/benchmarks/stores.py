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
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray

from experiments.benchmarks.common import Common, command, seconds

N_CLASSES, N_FRAMES, ROWS = 174, 8, 1024
SHAPE = (ROWS, N_FRAMES, N_CLASSES)
DIMS = ("video", "element", "class")
CHECKED = {"fletcher32": True, "chunksizes": (47, N_FRAMES, N_CLASSES)}
ENCODINGS: dict[str, dict[str, Any]] = {
    "HDF5": {},
    "HDF5, checksums": CHECKED,
    "HDF5, gzip": {**CHECKED, "shuffle": True, "compression": "gzip", "compression_opts": 1},
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Sizes."""

    reads: int = 20
    """Videos read at random."""
    shards: int = 24
    """Shards of 1,024 videos."""


def values() -> np.ndarray:
    """ESVs of one shard, with very different sizes by class."""
    rng = np.random.default_rng(0)
    size = np.exp(2 * rng.standard_normal((ROWS, 1, N_CLASSES)))
    return (1e-3 * size * rng.standard_normal(SHAPE)).astype(np.float32)


def write_hdf5(folder: Path, shards: int, encoding: dict[str, Any]) -> None:
    """Files, and a view of all files."""
    layout = h5py.VirtualLayout((shards * ROWS, *SHAPE[1:]), "f4")
    dataset = xarray.Dataset({"esv": (DIMS, values())})
    for k in range(shards):
        dataset.to_netcdf(folder / f"{k}.nc", engine="h5netcdf", encoding={"esv": encoding})
        layout[k * ROWS : (k + 1) * ROWS] = h5py.VirtualSource(f"{k}.nc", "esv", SHAPE)
    with h5py.File(folder / "view.nc", "w", libver="latest") as file:
        view = file.create_virtual_dataset("esv", layout, fillvalue=np.nan)
        for axis, (dim, size) in enumerate(zip(DIMS, view.shape, strict=True)):
            file[dim] = np.arange(size)
            file[dim].make_scale(dim)
            view.dims[axis].attach_scale(file[dim])


def write_zarr(folder: Path, shards: int, compressors: str | None) -> None:
    """One array, a chunk for each shard."""
    import zarr

    shard = values()
    array = zarr.open_group(str(folder), mode="w", zarr_format=3).create_array(
        "esv",
        shape=(shards * ROWS, *SHAPE[1:]),
        chunks=SHAPE,
        dtype="f4",
        compressors=compressors,
        fill_value=np.nan,
        dimension_names=DIMS,
    )
    for k in range(shards):
        array[k * ROWS : (k + 1) * ROWS] = shard


def open_view(folder: Path) -> xarray.Dataset:
    return xarray.open_dataset(folder / "view.nc", engine="h5netcdf")


def measure(
    name: str, write: Callable[[Path], None], read: Callable[[Path], Any], reads: int
) -> dict[str, Any]:
    """Times of writing, opening and reading."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cpu = time.process_time()
        wall = seconds(lambda: write(folder))
        cpu = time.process_time() - cpu
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        start = time.perf_counter()
        with read(folder) as opened:
            opening, array = time.perf_counter() - start, opened["esv"]
            rows = np.random.default_rng(1).integers(0, array.shape[0], reads).tolist()
            one = [seconds(lambda row=row: array[row].values) for row in rows]
            whole = seconds(lambda: array.values)
    return {
        "case": name,
        "write_seconds": wall,
        "write_cpu_seconds": cpu,
        "megabytes": sum(sizes) / 1e6,
        "files": len(sizes),
        "open_seconds": opening,
        "read_one_seconds": float(np.median(one)),
        "read_all_seconds": whole,
    }


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    n, reads = settings.shards, settings.reads
    for name, encoding in ENCODINGS.items():
        write = functools.partial(write_hdf5, shards=n, encoding=encoding)
        yield measure(name, write, open_view, reads)
    if importlib.util.find_spec("zarr") is not None:
        read = functools.partial(xarray.open_zarr, consolidated=False, chunks=None)
        for name, compressors in (("Zarr", None), ("Zarr, zstd", "auto")):
            write = functools.partial(write_zarr, shards=n, compressors=compressors)
            yield measure(name, write, read, reads)


if __name__ == "__main__":
    command(Settings, __doc__, measured)
