"""Torch checkpoints as NumPy arrays, in both layouts: a zip archive, and pickles in a row.

    zip     <folder>/data.pkl, <folder>/data/<key> for each storage, <folder>/byteorder
    legacy  (before torch 1.6) pickles of a magic number, 1001, sizes of the writer, the object and
            the storage keys; then for each key the number of elements (int64) and their bytes

Nothing is unpacked: members are stored uncompressed, and only their offset in the file is kept.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, cast

import numpy as np

from esv_jax.checkpoints.tensors import TORCH, Storage, Tensor, storage_of, to_array
from esv_jax.checkpoints.unpickle import (
    CheckpointError,
    StrPath,
    Unknown,
    Value,
    expect,
    mapped,
    short,
    unpickle,
)
from esv_jax.checks import message

Layout = Literal["zip", "legacy"]

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_MAX_KEYS_SHOWN = 8
_SPREAD = 8  # bytes of arrays per byte of the file
_MIN_BYTES = 2**24  # bytes of arrays that any file may have
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_DIRECTORY = 2**23  # bytes of a zip directory: some 100,000 storages
_LOCAL = struct.Struct("<4s5H3I2H")  # before a member
_WAY_OUT = "The download may be incomplete."


@dataclass(frozen=True, eq=False)
class TorchCheckpoint:
    """Content of a torch checkpoint.

    Attributes:
      arrays: the state dict, names as stored.
      layout: "zip" or "legacy" (before torch 1.6).
      found_under: the entry that held the state dict, "" where it is the whole file.
      ignored: entries that were not read, e.g. "optimizer".
    """

    arrays: dict[str, np.ndarray]
    layout: Layout
    found_under: str
    ignored: tuple[str, ...]


def load_torch(path: StrPath) -> dict[str, np.ndarray]:
    """The state dict of a `.pth` file by name, without torch and without running the file.

    It is looked up under "state_dict", "model_state_dict", "model", "net", "network" and
    "weights", in this order, then at the top. All other entries (optimiser, epoch, arguments) are
    ignored, and so are entries of the state dict other than arrays.

    Args:
      path: a checkpoint of torch 0.1.10 or later, in either layout.
    Returns:
      Names exactly as stored, a prefix "module." of parallel training included. Each array is a
      contiguous copy in native byte order, in the dtype of the tensor; bfloat16 becomes float32.
    Raises:
      FileNotFoundError: no such file.
      CheckpointError: (a ValueError) a file of another kind, damaged, or in big-endian order; no
        state dict; a sparse, quantised or otherwise special tensor in it; tensors that share
        bytes so often that their arrays would take over 8 times the size of the file.
    Cost: reads the entries of the state dict, each once.
    """
    return read_torch(path).arrays


def read_torch(path: StrPath) -> TorchCheckpoint:
    """Same as `load_torch`, with the layout, the entry and the ignored entries."""
    name = str(path)
    with _open_archive(path) as archive:
        found_under, state = _state_dict(archive.root, name)
        ignored = [short(key) for key in archive.root if key != found_under] if found_under else []
        entries: dict[str, Tensor | np.ndarray] = {}
        for key, value in state.items():
            # A state dict without a tensor that is not dense would look complete.
            is_torch = isinstance(value, Unknown) and value.module.split(".")[0] == "torch"
            if is_torch and value.name.startswith("_rebuild"):
                raise CheckpointError(message(name, f"a dense tensor {short(key)}", short(value)))
            if isinstance(key, str) and isinstance(value, Tensor | np.ndarray):
                entries[key] = value
            else:
                ignored.append(f"{found_under}: {short(key)}" if found_under else short(key))
        arrays = _arrays(entries, archive, name)
    return TorchCheckpoint(arrays, archive.layout, found_under, tuple(ignored))


def _state_dict(root: Value, name: str) -> tuple[str, dict[Value, Value]]:
    """The dict of arrays, and its key in `root`."""
    got, way_out = f"a whole object ({short(root)})", "Save its state_dict() instead."
    expect(not isinstance(root, Unknown), name, "a state dict", got, way_out)
    expect(isinstance(root, dict), name, "a dict with a state dict", short(root))
    for key, entry in [*((key, root.get(key)) for key in STATE_KEYS), ("", root)]:
        values = entry.values() if isinstance(entry, dict) else ()
        if any(isinstance(value, Tensor | np.ndarray) for value in values):
            return key, entry
    got = "entries " + ", ".join(short(key) for key in list(root)[:_MAX_KEYS_SHOWN])
    got += ", ..." if len(root) > _MAX_KEYS_SHOWN else ""
    expected = "a state dict at the top or under " + ", ".join(STATE_KEYS)
    raise CheckpointError(message(name, expected, got if root else "an empty dict"))


def _arrays(
    entries: dict[str, Tensor | np.ndarray], archive: _Archive, name: str
) -> dict[str, np.ndarray]:
    bound = _SPREAD * archive.n_bytes + _MIN_BYTES
    total = sum(entry.nbytes for entry in entries.values())
    expect(total <= bound, name, f"tensors of at most {bound} bytes in all", total)
    tensors: dict[str, dict[str, Tensor]] = {}  # by storage, so that each is read once
    for key, entry in entries.items():
        if isinstance(entry, Tensor):
            tensors.setdefault(entry.storage.key, {})[key] = entry
    arrays = {key: entry for key, entry in entries.items() if isinstance(entry, np.ndarray)}
    for views in tensors.values():
        raw = archive.read(next(iter(views.values())).storage)
        arrays |= {key: to_array(tensor, raw) for key, tensor in views.items()}
    return {key: arrays[key] for key in entries}


@dataclass(frozen=True)
class _Archive:
    """An open torch checkpoint."""

    layout: Layout
    root: Value  # the object, with tensors as `Tensor` and unknown objects as `Unknown`
    read: Callable[[Storage], bytes]  # all bytes of a storage
    n_bytes: int  # of the file


@contextmanager
def _open_archive(path: StrPath) -> Iterator[_Archive]:
    """Read the pickle of a checkpoint; storages can be read within the `with` block."""
    name = str(path)
    with mapped(path) as data:
        head = data[:512]
        if head.startswith(b"PK"):
            yield _open_zip(data, name)
            return
        way_out, is_tar = "Load it with torch and save it again.", head[257:262] == b"ustar"
        expect(not is_tar, name, "a checkpoint of torch 0.1.10 or later", "an older tar", way_out)
        is_page = head.lstrip()[:1] == b"<"
        expect(not is_page, name, "a torch checkpoint", "a web page", "Was the link still there?")
        got = f"a file that starts with {head[:12]!r}"
        expect(head[:1] == b"\x80", name, "a torch checkpoint", got)
        yield _open_legacy(data, name)


# Zip archives


class _Member(NamedTuple):
    """Offset, size and checksum of a member of a zip archive."""

    start: int
    size: int
    checksum: int


def _open_zip(data: mmap.mmap, name: str) -> _Archive:
    members = _members(data, name)
    pickles = [member for member in members if member.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl") if pickles else ""
    expected = "one data.pkl in one folder, as torch writes it"
    expect(len(pickles) == 1 and folder.count("/") == 1, name, expected, f"{len(pickles)} in all")
    if f"{folder}byteorder" in members:
        order = _content(data, members[f"{folder}byteorder"], name)
        expect(order == b"little", name, "little-endian numbers", short(order))

    def persistent(identifier: Value) -> Storage | Unknown:
        storage = storage_of(identifier, name)
        if isinstance(storage, Storage):
            key = f"{folder}data/{storage.key}"
            expect(key in members, name, f"a member {short(key)}", "none", _WAY_OUT)
            expected = f"{storage.nbytes} bytes of storage {short(storage.key)}"
            size = members[key].size
            expect(size == storage.nbytes, name, expected, size)
        return storage

    def read(storage: Storage) -> bytes:
        return _content(data, members[f"{folder}data/{storage.key}"], name)

    content = _content(data, members[pickles[0]], name)
    root, _ = unpickle(content, name, TORCH, persistent=persistent)
    return _Archive("zip", root, read, len(data))


def _members(data: mmap.mmap, name: str) -> dict[str, _Member]:
    """The members of a zip archive by name, each uncompressed and within the file."""
    try:
        with zipfile.ZipFile(cast(IO[bytes], _DirectoryReader(data))) as archive:
            entries = archive.infolist()
    except Exception as error:  # of any kind: BadZipFile, struct.error, NotImplementedError, ...
        got = f"a damaged one ({short(str(error))})"
        raise CheckpointError(message(name, "a whole zip archive", got, _WAY_OUT)) from error
    is_script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
    way_out = "Save the state_dict() of the model instead."
    expect(not is_script, name, "a torch checkpoint", "a program of TorchScript", way_out)
    members: dict[str, _Member] = {}
    for entry in entries:
        what, size = short(entry.filename), entry.file_size
        is_plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        is_plain = is_plain and size == entry.compress_size
        expected = f"{what} uncompressed, as torch writes it"
        expect(is_plain, name, expected, "it compressed or encrypted", "Unpack and store it.")
        expect(entry.filename not in members, name, f"one {what}", "two")
        at = entry.header_offset
        fits = 0 <= at <= len(data) - _LOCAL.size and data[at : at + 4] == b"PK\x03\x04"
        expect(fits, name, f"{what} within the file", "another offset", _WAY_OUT)
        start = at + _LOCAL.size + sum(_LOCAL.unpack_from(data, at)[-2:])  # name, extra field
        expect(start + size <= len(data), name, f"{size} bytes of {what}", "fewer", _WAY_OUT)
        members[entry.filename] = _Member(start, size, entry.CRC)
    total = sum(member.size for member in members.values())
    expect(total <= len(data), name, f"members of at most {len(data)} bytes in all", total)
    return members


class _DirectoryReader:
    """A mapped file for `zipfile`, which would read and parse a directory of any size."""

    def __init__(self, data: mmap.mmap) -> None:
        self.seek, self.tell, self._data = data.seek, data.tell, data

    def read(self, n: int = -1) -> bytes:
        if n > _MAX_DIRECTORY:
            raise ValueError(f"a directory of {n} bytes, over {_MAX_DIRECTORY}")
        return self._data.read(n)


def _content(data: mmap.mmap, member: _Member, name: str) -> bytes:
    """The bytes of a member; its checksum is compared if torch wrote one."""
    content = data[member.start : member.start + member.size]
    is_intact = member.checksum in (0, zlib.crc32(content))
    expect(is_intact, name, "members as they were written", "others (checksum)", _WAY_OUT)
    return content


# The legacy layout


def _open_legacy(data: mmap.mmap, name: str) -> _Archive:
    magic, at = unpickle(data, name, TORCH)
    way_out = "A plain pickle is read by load_pickle."
    expect(type(magic) is int and magic == _MAGIC, name, "a torch checkpoint", "others", way_out)
    protocol, at = unpickle(data, name, TORCH, start=at)
    fits = type(protocol) is int and protocol == _PROTOCOL
    expect(fits, name, f"protocol {_PROTOCOL}", short(protocol))
    system, at = unpickle(data, name, TORCH, start=at)
    is_little = isinstance(system, dict) and system.get("little_endian") is True
    expect(is_little, name, "little-endian numbers", "others")
    storages: dict[str, Storage] = {}

    def persistent(identifier: Value) -> Storage | Unknown:
        storage = storage_of(identifier, name)
        if isinstance(storage, Storage):
            known = storages.setdefault(storage.key, storage)
            is_one = (known.kind, known.numel) == (storage.kind, storage.numel)
            expected = f"one storage {short(storage.key)}"
            expect(is_one, name, expected, "two of different sizes")
        return storage

    root, at = unpickle(data, name, TORCH, start=at, persistent=persistent)
    keys, at = unpickle(data, name, TORCH, start=at)
    fits = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    expect(fits, name, "the keys of the storages", short(keys))
    expected = "every storage in the file, once, of a known type"
    expect(len(set(keys)) == len(keys) and set(keys) == set(storages), name, expected, "others")

    starts: dict[str, int] = {}
    for key in keys:
        storage, what = storages[key], f"of storage {short(key)}"
        expect(at + 8 <= len(data), name, f"storage {short(key)}", "the end", _WAY_OUT)
        numel = int.from_bytes(data[at : at + 8], "little", signed=True)
        expect(numel == storage.numel, name, f"{storage.numel} elements {what}", numel)
        starts[key], at = at + 8, at + 8 + storage.nbytes
        expect(at <= len(data), name, f"{storage.nbytes} bytes {what}", "fewer", _WAY_OUT)

    def read(storage: Storage) -> bytes:
        start = starts[storage.key]
        return data[start : start + storage.nbytes]

    return _Archive("legacy", root, read, len(data))
