"""The two layouts of torch checkpoints: a zip archive, and before torch 1.6 a row of pickles.

    zip     <folder>/data.pkl, <folder>/data/<key> for each storage, <folder>/byteorder
    legacy  pickles of a magic number, 1001, the writer's sizes, the object and the storage keys;
            then for each key the number of elements (int64) and their bytes

Nothing is unpacked: members are stored as they are, and only their place in the file is noted.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from esv_jax.checkpoints.files import mapped
from esv_jax.checkpoints.inert import CheckpointError, expect, short
from esv_jax.checkpoints.opcodes import interpret
from esv_jax.checkpoints.tensors import TORCH, Storage, storage_of
from esv_jax.checks import message

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_DIRECTORY = 2**23  # bytes of a zip directory: some 100,000 storages
_END = struct.Struct("<4s4HIIH")  # of a zip archive
_LOCAL = struct.Struct("<4s5H3I2H")  # before a member
_WAY_OUT = "The download may be incomplete."


@dataclass(frozen=True)
class Archive:
    """A torch checkpoint that is open.

    Attributes:
      layout: "zip" or "legacy".
      root: the object, its tensors as `Tensor`, what is not on the allow-list as `Unknown`.
      read: all bytes of a storage.
      n_bytes: size of the file.
    """

    layout: Literal["zip", "legacy"]
    root: Any
    read: Callable[[Storage], bytes]
    n_bytes: int


@contextmanager
def open_archive(path: str | PathLike[str]) -> Iterator[Archive]:
    """Read what a checkpoint says of itself; numbers can be read within the `with` block.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: (a ValueError) anything but a whole torch checkpoint of a known layout in
        little-endian order.
    """
    name = str(path)
    with mapped(path) as data:
        head = data[:512]
        if head.startswith(b"PK"):
            yield _open_zip(data, name)
            return
        way_out = "Load it with torch and save it again."
        is_tar = head[257:262] == b"ustar"
        expect(not is_tar, name, "a checkpoint of torch 0.1.10 or later", "an older tar", way_out)
        is_page = head.lstrip()[:1] == b"<"
        expect(not is_page, name, "a torch checkpoint", "a web page", "Was the link still there?")
        is_pickle = head[:1] == b"\x80"
        expect(is_pickle, name, "a torch checkpoint", f"a file that starts with {head[:12]!r}")
        yield _open_legacy(data, name)


@dataclass(frozen=True)
class _Member:
    """Position of a member's bytes in a zip archive."""

    start: int
    size: int
    checksum: int


def _open_zip(data: mmap.mmap, name: str) -> Archive:
    members = _members(data, name)
    pickles = [member for member in members if member.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl") if pickles else ""
    expected = "one data.pkl in one folder, as torch writes it"
    expect(len(pickles) == 1 and folder.count("/") == 1, name, expected, f"{len(pickles)} in all")
    if f"{folder}byteorder" in members:
        order = _content(data, members[f"{folder}byteorder"], name)
        expect(order == b"little", name, "little-endian numbers", short(order))

    def member_of(storage: Storage) -> _Member:
        key = f"{folder}data/{storage.key}"
        expect(key in members, name, f"a member {short(key)}", "none", _WAY_OUT)
        got = f"{members[key].size}"
        expected = f"{storage.nbytes} bytes of storage {short(storage.key)}"
        expect(members[key].size == storage.nbytes, name, expected, got)
        return members[key]

    def noted(identifier: Any) -> Any:
        storage = storage_of(identifier, name)
        if isinstance(storage, Storage):
            member_of(storage)
        return storage

    def read(storage: Storage) -> bytes:
        return _content(data, member_of(storage), name)

    content = _content(data, members[pickles[0]], name)
    root, _ = interpret(content, name, TORCH, persistent=noted)
    return Archive("zip", root, read, len(data))


def _members(data: mmap.mmap, name: str) -> dict[str, _Member]:
    """The members of a zip archive by name, each known to lie in the file as it is."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    whole = 0 <= at <= len(data) - _END.size
    expect(whole, name, "a whole zip archive", "one without its end", _WAY_OUT)
    directory = _END.unpack_from(data, at)[5]
    expected = f"a zip directory of at most {_MAX_DIRECTORY} bytes"
    expect(directory <= _MAX_DIRECTORY, name, expected, directory)
    try:
        with zipfile.ZipFile(_AsFile(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error, ValueError) as error:
        got = f"a damaged one ({short(str(error))})"
        raise CheckpointError(message(name, "a whole zip archive", got, _WAY_OUT)) from error
    is_script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
    way_out = "Save the state_dict() of the model instead."
    expect(not is_script, name, "a torch checkpoint", "a program of TorchScript", way_out)
    members: dict[str, _Member] = {}
    for entry in entries:
        what = short(entry.filename)
        is_plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        is_plain = is_plain and entry.file_size == entry.compress_size
        expected = f"{what} uncompressed, as torch writes it"
        expect(is_plain, name, expected, "it compressed or encrypted", "Unpack and store it.")
        expect(entry.filename not in members, name, f"one {what}", "two")
        at = entry.header_offset
        fits = 0 <= at <= len(data) - _LOCAL.size and data[at : at + 4] == b"PK\x03\x04"
        expect(fits, name, f"{what} within the file", "another place", _WAY_OUT)
        *_, name_size, extra_size = _LOCAL.unpack_from(data, at)
        start = at + _LOCAL.size + name_size + extra_size
        fits = start + entry.file_size <= len(data)
        expect(fits, name, f"{entry.file_size} bytes of {what}", "fewer", _WAY_OUT)
        members[entry.filename] = _Member(start, entry.file_size, entry.CRC)
    total = sum(member.size for member in members.values())
    expect(total <= len(data), name, f"members of at most {len(data)} bytes in all", total)
    return members


class _AsFile:
    """The mapped bytes as the file that `zipfile` asks for; it closes nothing."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._data))[whence]
        if at < 0:
            raise OSError("a place before the start")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        chunk = self._data[self._at : end]
        self._at += len(chunk)
        return chunk


def _content(data: mmap.mmap, member: _Member, name: str) -> bytes:
    """The bytes of a member, checked where torch was asked to write a checksum."""
    content = data[member.start : member.start + member.size]
    intact = member.checksum in (0, zlib.crc32(content))
    expect(intact, name, "members as they were written", "others (checksum)", _WAY_OUT)
    return content


def _open_legacy(data: mmap.mmap, name: str) -> Archive:
    magic, at = interpret(data, name, TORCH)
    way_out = "A plain pickle is read by load_pickle."
    expect(type(magic) is int and magic == _MAGIC, name, "a torch checkpoint", "others", way_out)
    protocol, at = interpret(data, name, TORCH, start=at)
    expect(
        type(protocol) is int and protocol == _PROTOCOL,
        name,
        f"protocol {_PROTOCOL}",
        short(protocol),
    )
    system, at = interpret(data, name, TORCH, start=at)
    little = isinstance(system, dict) and system.get("little_endian") is True
    expect(little, name, "little-endian numbers", "others")

    storages: dict[str, Storage] = {}

    def noted(identifier: Any) -> Any:
        storage = storage_of(identifier, name)
        if isinstance(storage, Storage):
            known = storages.setdefault(storage.key, storage)
            same = (known.kind, known.numel) == (storage.kind, storage.numel)
            expect(same, name, f"one storage {short(storage.key)}", "two of different sizes")
        return storage

    root, at = interpret(data, name, TORCH, start=at, persistent=noted)
    keys, at = interpret(data, name, TORCH, start=at)
    fits = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    expect(fits, name, "the keys of the storages", short(keys))
    expected = "every storage in the file, once, of a known type"
    expect(len(set(keys)) == len(keys) and set(keys) == set(storages), name, expected, "others")

    starts: dict[str, int] = {}
    for key in keys:
        storage = storages[key]
        expect(at + 8 <= len(data), name, f"storage {short(key)}", "the end", _WAY_OUT)
        numel = int.from_bytes(data[at : at + 8], "little", signed=True)
        expected = f"{storage.numel} elements of storage {short(key)}"
        expect(numel == storage.numel, name, expected, numel)
        starts[key] = at + 8
        at = starts[key] + storage.nbytes
        expected = f"{storage.nbytes} bytes of storage {short(key)}"
        expect(at <= len(data), name, expected, "fewer", _WAY_OUT)

    def read(storage: Storage) -> bytes:
        start = starts[storage.key]
        return data[start : start + storage.nbytes]

    return Archive("legacy", root, read, len(data))
