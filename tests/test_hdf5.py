"""Opening of HDF5 files that hang, crash, refer to other files or declare too large sizes."""

import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from esv_jax import hdf5, hdf5_inspection
from esv_jax.data import FeatureStore, open_inputs, write_features
from esv_jax.hdf5 import open_hdf5

WHAT = "an HDF5 file"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.h5"


def endless(path, fill):
    """A file on which the library loops forever: the free space of its heap has size 0."""
    with h5py.File(path, "w") as file:
        fill(file)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    at = heap + 16
    while number := struct.unpack_from("<H", content, at)[0]:
        at += 16 + -(-struct.unpack_from("<Q", content, at + 8)[0] // 8) * 8
    assert number == 0 and at < heap + 4096
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)


def refused(path, got, **options):
    with pytest.raises(ValueError, match=rf"^{path}: expected {WHAT}, got {got}") as caught:
        open_hdf5(path, WHAT, **options)
    assert "\n" not in str(caught.value)


def test_a_good_file_is_opened(path):
    with h5py.File(path, "w") as file:
        file["a/b"] = np.arange(3)
        file["a"].attrs["unit"] = "m"
        file["alias"] = h5py.SoftLink("/a/b")
        file["a/up"] = file["/"]  # a circle
    with open_hdf5(path, WHAT) as file:
        assert file["alias"][()].tolist() == [0, 1, 2]
        assert file.mode == "r"


def note(file):
    file.attrs["note"] = ["some text"]


def names_beside_much_else(file):
    file["rows"] = np.random.default_rng(0).integers(256, size=(17_000, 1_000), dtype=np.uint8)
    file.create_dataset("names", data=[["a", "b"], ["c", "d"]], dtype=h5py.string_dtype())


@pytest.mark.parametrize("fill", [note, names_beside_much_else])
def test_a_file_that_hangs_the_library_is_refused_in_time(path, monkeypatch, fill):
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    endless(path, fill)
    began = time.monotonic()
    refused(path, r"damage \(the HDF5 library takes more than 1 seconds\)\.$")
    assert time.monotonic() - began < 60
    test_a_good_file_is_opened(path)


@pytest.mark.parametrize("code", ["os.abort()", "sys.exit()"])
def test_a_crash_is_reported_as_damage(path, tmp_path, monkeypatch, code):
    program = tmp_path / "program.py"
    program.write_text(f"import os, resource, sys\nsys.stdin.readline()\n{code}\n")
    monkeypatch.setattr(hdf5, "_PROGRAM", program)
    monkeypatch.setattr(hdf5, "_INSPECTOR", hdf5._Inspector())
    path.touch()
    for _ in range(2):
        refused(path, r"damage \(the HDF5 library crashes\)\.$")


def test_threads_share_the_process(tmp_path):
    paths = [tmp_path / f"{k}.hdf" for k in range(8)]
    for k, each in enumerate(paths):
        write_features(each, [(f"v{k}", np.full((1, 2), k, np.float32), {})], 2)

    def first(each):
        with FeatureStore(each) as store:
            return store[store.uids[0]][0][0, 0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(first, paths)) == list(range(8))


# Files that lead elsewhere


def link_outside(file):
    file["there"] = h5py.ExternalLink("other.h5", "/x")


def link_below(file):
    file.create_group("deep/er")["there"] = h5py.ExternalLink("other.h5", "/x")


def values_outside(file):
    file.create_dataset("x", (4,), "f4", external=[("other.raw", 0, 16)])


def view_outside(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("kind", ["nothing", "a file", "a pipe"])
@pytest.mark.parametrize(
    ("lead", "got"),
    [
        (link_outside, r"a link to another file \('/there' to 'other.h5'\)"),
        (link_below, r"a link to another file \('/deep/er/there' to 'other.h5'\)"),
        (values_outside, r"values in another file \('/x' in 'other.raw'\)"),
        (view_outside, r"values in another file \('/x' in 'other.h5'\)"),
    ],
)
def test_references_to_other_files_are_refused(path, lead, got, kind):
    """Whether or not the other file exists; opening a pipe would wait forever."""
    with h5py.File(path, "w") as file:
        lead(file)
    for name in ("other.h5", "other.raw"):
        if kind == "a pipe":
            os.mkfifo(path.with_name(name))
        elif kind == "a file":
            with h5py.File(path.with_name(name), "w") as file:
                file["x"] = np.ones(4, np.float32)
    refused(path, got)
    refused(path, got, views=True)


def test_views_of_shards_are_allowed_on_request(path):
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("shards/00000.nc", "x", (4,))
        file.create_virtual_dataset("x", layout)
    open_hdf5(path, WHAT, views=True).close()
    refused(path, "values in another file")
    (path.parent / "shards").mkdir()
    os.mkfifo(path.parent / "shards" / "00000.nc")
    refused(path, "values in another file", views=True)


def test_pipes_and_folders_are_refused(path):
    os.mkfifo(path)
    for place in (path, path.parent):
        with pytest.raises(FileNotFoundError, match=rf"^{place}: expected {WHAT}, got no such"):
            open_hdf5(place, WHAT)
        with pytest.raises(FileNotFoundError, match=rf"^{place}: expected an HDF5 file"):
            FeatureStore(place)


# Files that declare more than they hold


@pytest.mark.parametrize("chunks", [True, (10**8,), None])
def test_declared_sizes_without_stored_data_are_refused(path, chunks):
    with h5py.File(path, "w") as file:
        size = (10,) if chunks == (10**8,) else (3 * 10**8,)
        file.create_dataset("uids", size, "S8", chunks=chunks, maxshape=(None,) if chunks else None)
    assert path.stat().st_size < 10_000
    refused(path, r"'/uids' of [\d,]+ bytes, of which 0 are stored\.$")


def test_compressible_data_is_accepted(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((2, 9 * 10**6), np.float32), compression="gzip")
    assert path.stat().st_size < 500_000
    open_hdf5(path, WHAT).close()


def test_duplicate_uids_are_refused_at_the_first_one(path):
    """A small file with many compressed names, all equal."""
    n = 10**5
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("a/features", (n,), h5py.vlen_dtype(np.float32), chunks=(n,))
        rows.attrs["feature_dim"] = 2
        file.create_dataset("a/uids", data=np.zeros(n, "S8"), compression="gzip")
    with pytest.raises(ValueError, match=r"uids: expected distinct uids, got '' twice\.$"):
        open_inputs(path)


def test_a_group_without_a_listing_or_an_address_is_refused(path, monkeypatch):
    with h5py.File(path, "w") as file:
        file["a/b"] = np.arange(3)

    def failing(*args):
        raise RuntimeError("addr overflow")

    with monkeypatch.context() as patched:
        patched.setattr(h5py.Group, "__iter__", failing)
        with pytest.raises(hdf5_inspection.Refused, match=r"damage .'/' cannot be listed"):
            hdf5_inspection.inspect(str(path), False)
    address = hdf5_inspection._address
    monkeypatch.setattr(
        hdf5_inspection,
        "_address",
        lambda item: failing() if item.name == "/a" else address(item),
    )
    with pytest.raises(hdf5_inspection.Refused, match=r"damage .'/a' has no address"):
        hdf5_inspection.inspect(str(path), False)


def test_objects_after_a_damaged_one_are_inspected(path, monkeypatch):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
        file.create_dataset("b", (4,), "u1", external=[("/etc/hostname", 0, 4)])
    address = hdf5_inspection._address

    def failing(item):
        if item.name == "/a":
            raise RuntimeError("Can't get deprecated info for object")
        return address(item)

    monkeypatch.setattr(hdf5_inspection, "_address", failing)
    with pytest.raises(hdf5_inspection.Refused, match="values in another file"):
        hdf5_inspection.inspect(str(path), False)
