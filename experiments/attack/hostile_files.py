"""Hostile files of 13 kinds, written from random numbers alone."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from experiments.attack.fuzz import valid

_NUMBERS = (0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1)
BAIT = ("bait.mp4", "bait.h5", "bait.raw", "pipe")

Rng = np.random.Generator


def _any(rng: Rng, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _bait(rng: Rng, folder: Path) -> str:
    """Name of a file that must not be opened, in one of several spellings."""
    name = _any(rng, BAIT)
    ways = (name, f"./{name}", f"{folder}/{name}", f"file:{name}", f"file://{folder}/{name}")
    return str(_any(rng, ways))


# Each kind writes a file and returns its path.


def playlist(rng: Rng, folder: Path) -> Path:
    bait = _bait(rng, folder)
    segment = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{bait}\n"
    texts = (
        segment,  # live: without an end
        segment + "#EXT-X-ENDLIST\n",
        f'#EXTM3U\n#EXT-X-MAP:URI="{bait}"\n#EXTINF:1,\n{bait}\n#EXT-X-ENDLIST\n',
        f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{bait}"\n#EXTINF:1,\nx.ts\n#EXT-X-ENDLIST\n',
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{bait}'\n",
        f"ffconcat version 1.0\nfile '{bait}'\ninpoint -1e300\nduration 1e300\n",
        f"<?xml version='1.0'?><MPD><Period><BaseURL>{bait}</BaseURL></Period></MPD>",
        f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{bait}'/></svg>",
        f"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=control:{bait}\n",
        f"subfile,,start,0,end,99,,:{bait}\n",
    )
    suffixes = (".m3u8", ".mp4", ".mkv", ".gif", ".avi", ".txt", ".ffconcat", ".png", ".mpd")
    path = folder / f"input{_any(rng, suffixes)}"
    path.write_text(_any(rng, texts))
    return path


def _hdf5(rng: Rng, path: Path) -> h5py.File:
    """A valid feature file, a valid result file, or a new one."""
    name = _any(rng, ("HDF5 features", "netCDF results", ""))
    if name:
        path.write_bytes(valid(name))
    return h5py.File(path, "a")


def hdf5_elsewhere(rng: Rng, folder: Path) -> Path:
    path = folder / f"input{_any(rng, ('.hdf', '.h5', '.nc'))}"
    bait = str(_any(rng, ("bait.h5", f"{folder}/bait.h5", "pipe", "bait.raw")))
    names = ("there", "validation/uids", "validation/features", "esv", "video", "a/b")
    name = str(_any(rng, names))
    with _hdf5(rng, path) as file:
        if name in file:
            del file[name]
        kind = int(rng.integers(5))
        if kind == 0:
            file[name] = h5py.ExternalLink(bait, "/x")
        elif kind == 1:
            file.create_dataset(name, (4,), "S8", external=[(bait, 0, 32)])
        elif kind == 2:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(bait, "x", (4,))
            file.create_virtual_dataset(name, layout)
        elif kind == 3:  # by way of another name
            file["first"] = h5py.ExternalLink(bait, "/")
            file[name] = h5py.SoftLink("/first/x")
        else:
            file[name] = h5py.SoftLink(str(_any(rng, (f"/{name}", "/", "..", "/no", "/" * 5000))))
    return path


def hdf5_sizes(rng: Rng, folder: Path) -> Path:
    path = folder / f"input{_any(rng, ('.hdf', '.nc'))}"
    names = ("validation/uids", "validation/features", "validation/lengths", "video", "esv", "x")
    with _hdf5(rng, path) as file:
        name, size = str(_any(rng, names)), int(_any(rng, _NUMBERS[2:7]))
        if name in file:
            del file[name]
        kind = _any(rng, ("f8", "S8", "i1", h5py.vlen_dtype(np.float32), h5py.string_dtype()))
        chunks = _any(rng, (None, (2**10,), (2**20,)))
        most = (None,) if chunks else None
        with contextlib.suppress(Exception):  # the library refuses some
            rows = file.create_dataset(name, (size,), kind, chunks=chunks, maxshape=most)
            rows.attrs["feature_dim"] = _any(rng, (0, -1, 2**62, np.inf, np.nan, "x", 10**9))
    return path


def npy(rng: Rng, folder: Path) -> Path:
    path = folder / "input.npy"
    kind = int(rng.integers(4))
    if kind == 0:
        np.save(path, np.array([_evil(rng, folder)], object), allow_pickle=True)
        return path
    shapes = ((2**40, 2**20), (-1, 4), (0, 4), (4,) * 64, (2**63, 2), (10**9, 10**9), ("x", 1))
    types = ("<f4", "|O", "<U999999999", "|V2147483647", "<m8[s]", "__import__('os')", "<f4" * 99)
    shape, code = _any(rng, shapes), _any(rng, types)
    head = f"{{'descr': {code!r}, 'fortran_order': False, 'shape': {shape}, }}"
    if kind == 1:
        head = _any(rng, ("(" * 9000, "{" * 60000, "9" * 60000, "-" * 50000, head + "\0" * 999))
    text = head.encode() + b" " * int(rng.integers(64)) + b"\n"
    version = _any(rng, (b"\1\0", b"\2\0", b"\3\0", b"\x09\0"))
    size = len(text) if kind == 2 else int(_any(rng, _NUMBERS[:5]))
    length = struct.pack("<H", size % 2**16) if version == b"\1\0" else struct.pack("<I", size)
    path.write_bytes(b"\x93NUMPY" + version + length + text + bytes(64))
    return path


class Evil:
    """Its pickle makes a call that creates a file called `ran`."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def _evil(rng: Rng, folder: Path) -> Evil:
    ran = str(folder / "ran")
    calls: tuple[tuple[Any, ...], ...] = (
        (os.system, (f"touch {ran}",)),
        (eval, (f"open({ran!r}, 'w')",)),
        (exec, (f"open({ran!r}, 'w')",)),
        (open, (ran, "w")),
        (subprocess.call, (["touch", ran],)),
        (np.memmap, (ran, "u1", "w+", 0, (1,))),
        (functools.partial, (os.system, f"touch {ran}")),
        (Path.touch, (Path(ran),)),
        (shutil.copy, (str(folder / "bait.raw"), ran)),
        (np.load, (str(folder / "bait.raw"), None, True)),
    )
    return Evil(_any(rng, calls))


def pickled(rng: Rng, folder: Path) -> Path:
    path = folder / f"input{_any(rng, ('.pkl', '.pth', '.pt'))}"
    kind, ran = int(rng.integers(8)), folder / "ran"
    if kind < 3:
        evil: Any = _evil(rng, folder)
        evil = _any(rng, (evil, {"state_dict": {"w": evil}}, [evil] * 3, {evil: 1}))
        content = pickle.dumps(evil, int(rng.integers(6)))
    elif kind == 3:
        content = f"(S'touch {ran}'\nios\nsystem\n.".encode()  # INST
    elif kind == 4:
        content = f"(cos\nsystem\nS'touch {ran}'\no.".encode()  # OBJ
    elif kind == 5:  # doubles 60 times
        content = b"\x80\x02X\1\0\0\0a" + b"2\x86" * 60 + b"."
    elif kind == 6:
        content = _any(rng, (b"(" * 10**6, b"]" * 10**6 + b"a" * (10**6 - 1) + b".", b"}." * 10**5))
    else:
        code = _any(rng, (b"\x8e", b"\x8d", b"\x8a\x7f", b"\x8b\xff\xff\xff\x7f", b"B", b"\x96"))
        content = b"\x80\x05" + code + struct.pack("<Q", int(_any(rng, _NUMBERS))) + b"x."
    path.write_bytes(_zipped(rng, content) if rng.random() < 0.3 else content)
    return path


def _zipped(rng: Rng, content: bytes) -> bytes:
    """A zip archive in the layout of torch checkpoints."""
    buffer, name = io.BytesIO(), str(_any(rng, ("archive/data/0", "../../bait.raw", "/ran")))
    with zipfile.ZipFile(buffer, "w") as file:
        for entry, data in (("archive/data.pkl", content), (name, bytes(64))):
            file.writestr(zipfile.ZipInfo(entry), data)  # without the time
        file.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
    return buffer.getvalue()


def zip_bomb(rng: Rng, folder: Path) -> Path:
    """An entry of 4 GiB of zeros, 4 MB compressed; or one that declares a size."""
    name = str(_any(rng, ("archive/data.pkl", "archive/data/0", "x.npy")))
    path = folder / f"input{_any(rng, ('.pth', '.npz', '.npy', '.pkl', '.hdf', '.mp4'))}"
    packed, crc, size = zeros()
    if rng.random() < 0.3:
        packed, size = packed[:9999], int(_any(rng, _NUMBERS[:5]))
    entry, n = name.encode(), len(packed)
    sizes = struct.pack("<HHIIIHH", 8, 0, crc, n, size % 2**32, len(entry), 0)
    local = struct.pack("<4sHH", b"PK\3\4", 20, 0) + sizes[:2] + bytes(2) + sizes[2:]
    head = struct.pack("<4sHHH", b"PK\1\2", 20, 20, 0) + sizes[:2] + bytes(2) + sizes[2:]
    head += struct.pack("<HHHII", 0, 0, 0, 0, 0) + entry
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 1, 1, len(head), len(local) + len(entry) + n, 0)
    path.write_bytes(local + entry + packed + head + end)
    return path


@functools.cache
def zeros() -> tuple[bytes, int, int]:
    """Compressed zeros, their checksum and their number."""
    block, times = bytes(2**20), 4095
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    coder.compress(block)
    coder.flush(zlib.Z_FULL_FLUSH)
    packed, crc = coder.compress(block) + coder.flush(zlib.Z_FULL_FLUSH), 0
    for _ in range(times):
        crc = zlib.crc32(block, crc)
    return packed * times + b"\3\0", crc, times * len(block)


def safetensors(rng: Rng, folder: Path) -> Path:
    path = folder / f"input{_any(rng, ('.safetensors', '.safetensors', '.npy'))}"
    far = int(_any(rng, _NUMBERS))
    shape = _any(rng, ([far], [2, 2], [-1], [2**32, 2**32], [], [1] * 999, "x", None))
    ends = _any(rng, ([0, 16], [0, far], [far, 0], [8, 4], [-4, 0], [], None))
    tensor = {"dtype": _any(rng, ("F32", "F8", "Q99", 4, "BF16")), "shape": shape}
    tensor["data_offsets"] = ends
    about = _any(rng, ({}, {"esv_jax": "{" * 5000}, {"esv_jax": "[" * 90000}, {"esv_jax": 1}, []))
    kinds = json.dumps({"kind": "multi_scale", "class_names": ["x"] * 9, "version": far})
    about = {"esv_jax": kinds} if rng.random() < 0.3 else about
    text = json.dumps({"w1": tensor, "b1": tensor, "__metadata__": about}).encode()
    text = _any(rng, (text, text, text, b"[" * 10**6, b'{"a":' * 10**5, b"\xff" * 99, b"{}"))
    size = len(text) if rng.random() < 0.7 else far
    path.write_bytes(struct.pack("<Q", size) + text + bytes(16))
    return path


def ts(rng: Rng, folder: Path) -> Path:
    path, far = folder / "input.ts", int(_any(rng, _NUMBERS))
    heads = (
        f"@dimensions {far}",
        f"@equalLength true\n@seriesLength {far}",
        "@classLabel true " + " ".join(map(str, range(10**6))),
        "@classLabel true " + "a" * 10**6,
        "@problemName " + "\x00" * 10**6,
        "@timeStamps true",
        "@" * 10**5,
        "@univariate true\n@dimensions -1\n@missing true",
        "@data\n" * 10**5,
    )
    rows = ("1,2:3,4:a", ":" * 10**6, "," * 10**6, "1e999,nan:-inf:a", "9" * 10**6 + ":a", "(1,2)")
    text = f"{_any(rng, heads)}\n@data\n{_any(rng, rows)}\n" + "1,2:3,4:a\n" * int(rng.integers(9))
    path.write_bytes(text.encode() + _any(rng, (b"", b"\xff\xfe", bytes(10**6))))
    return path


def boxes(rng: Rng, folder: Path) -> Path:
    """A video whose boxes declare other sizes and numbers, or samples in another file."""
    path = folder / f"input{_any(rng, ('.mp4', '.mov', '.m4v'))}"
    content = bytearray(valid("MP4 video"))
    names = (b"moov", b"trak", b"stsz", b"stts", b"stco", b"stsc", b"dref", b"mdat", b"stsd")
    for _ in range(int(rng.integers(1, 4))):
        at = content.find(_any(rng, names))
        if at < 4:
            continue
        field = at + int(_any(rng, (-4, 8, 12)))
        content[field : field + 4] = struct.pack(">I", int(_any(rng, _NUMBERS)) % 2**32)
    at = content.find(b"url \0\0\0\1")
    if at > 0 and rng.random() < 0.5:
        content[at + 7] = 0  # not in this file
        content[at + 8 : at + 8] = _bait(rng, folder).encode() + b"\0"
    if rng.random() < 0.2:
        content = bytearray(struct.pack(">I4s", 2**31, b"moov") * 10**5)
    path.write_bytes(content)
    return path


def pictures(rng: Rng, folder: Path) -> Path:
    """A picture or GIF that declares more than it contains."""
    w, h = (int(_any(rng, (0, 1, 30_000, 65_535, 2**31 - 1, 2**32 - 1))) for _ in range(2))
    if rng.random() < 0.5:
        path = folder / "input.png"
        head = struct.pack(">4sIIBBBBB", b"IHDR", w, h, int(_any(rng, (1, 8, 16))), 2, 0, 0, 0)
        pixels = b"IDAT" + zlib.compress(bytes(10**6))
        chunks = (head, b"tEXtx\0" + b"a" * 99, pixels, b"IEND")
        content = b"\x89PNG\r\n\x1a\n"
        for chunk in chunks:
            content += struct.pack(">I", len(chunk) - 4) + chunk
            content += struct.pack(">I", zlib.crc32(chunk))
    else:
        path = folder / "input.gif"
        content = b"GIF89a" + struct.pack("<HH", w % 2**16, h % 2**16) + b"\x80\0\0" + bytes(6)
        box = struct.pack("<HHHH", 0, 0, w % 2**16, h % 2**16)
        frame = b"!\xf9\4\0\0\0\0\0," + box + b"\0\2\2\x4c\1\0"
        content += frame * int(_any(rng, (1, 10**4))) + b";"
    path.write_bytes(content)
    return path


def special(rng: Rng, folder: Path) -> Path:
    """A pipe, an endless device, a link to itself, or a folder."""
    suffixes = (".mp4", ".ts", ".npy", ".hdf", ".nc", ".safetensors", ".pth", ".pkl", ".csv")
    path, kind = folder / f"input{_any(rng, suffixes)}", int(rng.integers(4))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.symlink_to(path)
    else:
        path.mkdir()
    return path


def table(rng: Rng, folder: Path) -> Path:
    path, far = folder / "input.csv", int(_any(rng, _NUMBERS))
    head = str(_any(rng, ("name,id", "class,prior", "id,name", "name,id," * 10**5)))
    rows = (
        f"x,{far}",
        f"{far},1e999",
        "x," + "9" * 5000,
        "a" * 10**7,
        '"',
        "x,²",
        "\0,0",
        "," * 10**6,
    )
    path.write_text("\n".join([head, *(str(_any(rng, rows)) for _ in range(int(rng.integers(4))))]))
    return path


def sweep(rng: Rng, folder: Path) -> Path:
    """A folder of results with an arbitrary manifest."""
    path = folder / "input.sweep"
    (path / "shards").mkdir(parents=True)
    far = int(_any(rng, _NUMBERS))
    shard = {"start": 0, "rows": far, "n": far, "sampled": bool(rng.integers(2))}
    about = {"format": "esv_jax sweep, version 1", "identity": {}, "digest": "x"}
    shards = _any(rng, ([shard], [shard] * 2, [{}], [None], far, "x", [shard | {"start": -1}]))
    text = json.dumps(about | {"shards": shards, "view": _any(rng, ("x", None, 4))})
    text = _any(rng, (text, text, "[" * 10**6, '{"a":' * 10**5, text[:-2]))
    (path / "sweep.json").write_text(text)
    if rng.random() < 0.5:
        os.mkfifo(path / "results.nc")
    else:
        (path / "results.nc").write_bytes(valid("netCDF results"))
    os.mkfifo(path / "shards" / "00000.nc")
    return path


KINDS: dict[str, Callable[[Rng, Path], Path]] = {
    "playlists": playlist,
    "HDF5 that leads elsewhere": hdf5_elsewhere,
    "HDF5 of huge sizes": hdf5_sizes,
    "npy": npy,
    "pickles": pickled,
    "zip bombs": zip_bomb,
    "safetensors": safetensors,
    "ts": ts,
    "films": boxes,
    "pictures": pictures,
    "no files": special,
    "tables": table,
    "sweeps": sweep,
}
