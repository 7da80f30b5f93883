"""Mutated files for every reader: no traceback, hang, crash or access to another file.

A mutation is a few changes at random offsets of a small valid file: flipped bits, other bytes,
zeros, extreme numbers of 1 to 8 bytes, changed digits, pieces cut out or doubled, a cut end. Input
k of a reader depends on the seed and k alone. An error that the command line prints as one line
(`harness.REFUSED`) is a correct answer. An audit hook counts what Python opens, runs or connects to
beyond the input; `hostile` also observes C libraries.

    python -m experiments.attack --sections fuzz --fuzz 20000
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import esv_jax as ej
from experiments.attack.harness import Attempts, Outcome, attempt_all
from experiments.random_models import random_heads, with_names

_SMALL = np.float32(0.5)
_TENSOR = (
    b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n"
    b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tRs."
)
_TS = """@problemName x
@timeStamps false
@univariate false
@dimensions 2
@classLabel true a b
@data
1,2,3:4,5,6:a
1.5,-2:4,5e-1:b
"""


class Reader(NamedTuple):
    """A reader: `make` writes a valid file, `read` reads a file completely."""

    suffix: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]


def read_sequences(path: Path) -> None:
    inputs = ej.data.open_inputs(path)
    for i in range(min(len(inputs), 20)):
        inputs.read(i, None)


def read_video(path: Path, n: int | None = None) -> None:
    ej.data.probe_video(path)
    ej.data.decode_frames(path, n=n)


def read_results(path: Path) -> None:
    dataset = ej.results.open(path)
    for uid in list(dataset["video"].values)[:20]:
        ej.results.load_attribution(dataset, str(uid))
    ej.results.to_dataframe(dataset)


def _make_hdf(path: Path) -> None:
    items = [(f"v{n}", np.full((n, 3), _SMALL), {"action": n}) for n in (2, 3)]
    ej.data.write_features(path, items, 3)


def _make_video(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    ej.data.write_video(path, frames, fps=6)


def _make_model(path: Path) -> None:
    ej.models.save_model(path, with_names(random_heads(0, 2, 3, 4, 2), "ab"))


def _make_results(path: Path) -> None:
    att = ej.Attribution(
        values=jnp.full((3, 2), _SMALL),
        scores=jnp.full(2, _SMALL),
        prior=jnp.full(2, _SMALL),
        marginals=jnp.full((3, 3, 2), _SMALL),
        n_evaluations=7,
        exact=True,
    )
    ej.results.save(path, [att, att], uids=["a", "b"], class_names=["x", "y"], labels=[0, 1])


def _make_torch_zip(path: Path) -> None:
    entries = {"data.pkl": _TENSOR, "byteorder": b"little", "data/0": bytes(24)}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), content)  # without the time


def _make_torch_legacy(path: Path) -> None:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [*(pickle.dumps(value, 2) for value in head), _TENSOR, pickle.dumps(["0"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", 6) + bytes(24))


def _writes(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


_PICKLED = pickle.dumps({"a": [1, 2.5, "x"], "b": np.arange(6.0).reshape(2, 3)})
_NPY = functools.partial(np.save, arr=np.full((3, 4), _SMALL))
READERS = {
    "HDF5 features": Reader(".hdf", _make_hdf, read_sequences),
    "npy features": Reader(".npy", _NPY, read_sequences),
    "ts sequences": Reader(".ts", _writes(_TS), read_sequences),
    "MP4 video": Reader(".mp4", _make_video, read_video),
    "GIF video": Reader(".gif", _make_video, read_video),
    "class names": Reader(
        ".csv", _writes("name,id\nlift,0\ndrop,1\n"), ej.data.classes.read_classes
    ),
    "class priors": Reader(
        ".csv", _writes("class,prior\n0,0.25\n1,0.75\n"), ej.data.classes.read_class_priors
    ),
    "model file": Reader(".safetensors", _make_model, ej.models.load_model),
    "netCDF results": Reader(".nc", _make_results, read_results),
    "pickle": Reader(".pkl", _writes(_PICKLED), ej.checkpoints.load_pickle),
    "torch zip": Reader(".pth", _make_torch_zip, ej.checkpoints.load_torch),
    "torch legacy": Reader(".pt", _make_torch_legacy, ej.checkpoints.load_torch),
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with a geometric number of changes, one in half of the cases."""
    data = bytearray(content)
    extremes = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
    texts = (b"-1", b"9" * 20, b"nan", b"inf", b"1e999", b"", b"0")
    for _ in range(int(rng.geometric(0.5))):
        if not data:
            break
        at, kind = int(rng.integers(len(data))), int(rng.integers(8))
        size = int(2 ** rng.integers(0, 8))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif kind == 3:
            width = int(2 ** rng.integers(0, 4))
            number = extremes[int(rng.integers(len(extremes)))] % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, ["little", "big"][int(rng.integers(2))])
        elif kind == 4:
            digits = [k for k, byte in enumerate(data) if 48 <= byte < 58]
            if digits:
                where = digits[int(rng.integers(len(digits)))]
                data[where : where + 1] = texts[int(rng.integers(len(texts)))]
        elif kind == 5:
            del data[at : at + size]
        elif kind == 6:
            other = int(rng.integers(len(data)))
            data[other:other] = data[at : at + size]
        else:
            del data[at:]
    return bytes(data)


@dataclasses.dataclass(frozen=True)
class Mutations(Attempts):
    """Inputs of one reader: mutations of `content`."""

    name: str = ""
    content: bytes = b""

    def begin(self) -> None:
        """Reads the valid file."""
        self._path.write_bytes(self.content)
        self.read(0)

    def make(self, k: int) -> None:
        """Writes input k."""
        rng = np.random.default_rng([self.seed, k, *self.name.encode()])
        self._path.write_bytes(mutated(self.content, rng))

    def read(self, k: int) -> None:
        """Reads it."""
        READERS[self.name].read(self._path)

    @property
    def _path(self) -> Path:
        return self.folder / f"input{READERS[self.name].suffix}"


@functools.cache
def valid(name: str) -> bytes:
    """A valid file of a reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{READERS[name].suffix}"
        READERS[name].make(path)
        return path.read_bytes()


def fuzz(folder: Path, seed: int, n: int) -> Outcome:
    """At least n mutated inputs, of all readers together; prints counts by reader."""
    tried, n_read, faults = 0, 0, list[str]()
    for name in READERS:
        own = folder / name
        own.mkdir()
        found = attempt_all(
            Mutations(own, seed, name=name, content=valid(name)), -(-n // len(READERS))
        )
        outcome = found.outcome(lambda _, name=name: f"{name},")
        tried, n_read = tried + outcome.tried, n_read + found.counts["read"]
        faults += outcome.faults
        print(f"{name:16} {outcome.detail}", flush=True)
    return Outcome(tried, tuple(faults), f"{len(READERS)} readers, {n_read} read")
