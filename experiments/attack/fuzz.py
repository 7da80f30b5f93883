"""Mutated files for every reader: none may give a traceback, hang, crash or reach another file.

    python -m experiments.attack.fuzz --inputs 20000 --out fuzz.json

A mutation is a few changes at random places of a small valid file: flipped bits, other bytes,
zeros, extreme numbers of 1 to 8 bytes, digits of text, pieces cut out or doubled, the end cut off.
Input k of a reader depends on `--seed` and k alone, so any of them can be made again. Each reader
runs in a process of its own, with a limit of memory; an input that takes longer than `--seconds` is
a hang. What Python opens, runs or connects to beyond the input itself is counted by an audit hook
(what C libraries open is not seen).

An error that the command line prints as one line is right (`attempts.REFUSED`).
"""

from __future__ import annotations

import dataclasses
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro

import esv_jax as ej
from experiments.attack.attempts import attempt_all

_SMALL = np.float32(0.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to try."""

    inputs: int = 2000
    """Of all readers together."""
    seconds: float = 10.0
    """That one input may take."""
    seed: int = 0
    readers: tuple[str, ...] = ()
    """Some of them; default all."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


class Reader(NamedTuple):
    """A reader with a valid file: `make` writes it, `read` reads a file to its end."""

    suffix: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]


def read_sequences(path: Path) -> None:
    inputs = ej.data.open_inputs(path)
    for i in range(min(len(inputs), 20)):
        inputs.read(i, None)


def _make_hdf(path: Path) -> None:
    items = [(f"v{n}", np.full((n, 3), _SMALL), {"action": n}) for n in (2, 3)]
    ej.data.write_features(path, items, 3)


def _make_npy(path: Path) -> None:
    np.save(path, np.full((3, 4), _SMALL))


def _make_ts(path: Path) -> None:
    head = ("problemName x", "timeStamps false", "univariate false", "dimensions 2")
    lines = [f"@{line}" for line in (*head, "classLabel true a b", "data")]
    path.write_text("\n".join([*lines, "1,2,3:4,5,6:a", "1.5,-2:4,5e-1:b", ""]))


def _make_video(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    ej.data.write_video(path, frames, fps=6)


def _read_video(path: Path) -> None:
    ej.data.probe_video(path)
    ej.data.decode_frames(path, n=None)


def _make_classes(path: Path) -> None:
    path.write_text("name,id\nlift,0\ndrop,1\n")


def _make_priors(path: Path) -> None:
    path.write_text("class,prior\n0,0.25\n1,0.75\n")


def _make_model(path: Path) -> None:
    heads = [
        {
            "w1": np.full((s * 3, 4), _SMALL),
            "b1": np.zeros(4, np.float32),
            "w2": np.full((4, 2), _SMALL),
            "b2": np.zeros(2, np.float32),
        }
        for s in (1, 2)
    ]
    stack = ej.models.stack_heads(heads)
    trained = ej.models.TrainedModel(stack, np.full(2, 0.5, np.float32), ("a", "b"))
    ej.models.save_model(path, trained)


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


def read_results(path: Path) -> None:
    dataset = ej.results.open(path)
    for uid in list(dataset["video"].values)[:20]:
        ej.results.load_attribution(dataset, str(uid))
    ej.results.to_dataframe(dataset)


def _make_pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"a": [1, 2.5, "x"], "b": np.arange(6.0).reshape(2, 3)}))


_TENSOR = (
    b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n"
    b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tRs."
)


def _make_torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (
            ("data.pkl", _TENSOR),
            ("byteorder", b"little"),
            ("data/0", bytes(24)),
        ):
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), content)  # without the time


def _make_torch_legacy(path: Path) -> None:
    import pickle

    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [*(pickle.dumps(value, 2) for value in head), _TENSOR, pickle.dumps(["0"], 2)]
    path.write_bytes(b"".join(parts) + struct.pack("<q", 6) + bytes(24))


READERS = {
    "HDF5 features": Reader(".hdf", _make_hdf, read_sequences),
    "npy features": Reader(".npy", _make_npy, read_sequences),
    "ts sequences": Reader(".ts", _make_ts, read_sequences),
    "MP4 video": Reader(".mp4", _make_video, _read_video),
    "GIF video": Reader(".gif", _make_video, _read_video),
    "class names": Reader(".csv", _make_classes, ej.data.read_classes),
    "class priors": Reader(".csv", _make_priors, ej.data.read_class_priors),
    "model file": Reader(".safetensors", _make_model, ej.models.load_model),
    "netCDF results": Reader(".nc", _make_results, read_results),
    "pickle": Reader(".pkl", _make_pickle, ej.checkpoints.load_pickle),
    "torch zip": Reader(".pth", _make_torch_zip, ej.checkpoints.load_torch),
    "torch legacy": Reader(".pt", _make_torch_legacy, ej.checkpoints.load_torch),
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with a few changes, one in half of the cases."""
    data = bytearray(content)
    extremes = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
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
                texts = (b"-1", b"9" * 20, b"nan", b"inf", b"1e999", b"", b"0")
                data[where : where + 1] = texts[int(rng.integers(len(texts)))]
        elif kind == 5:
            del data[at : at + size]
        elif kind == 6:
            other = int(rng.integers(len(data)))
            data[other:other] = data[at : at + size]
        else:
            del data[at:]
    return bytes(data)


def input_of(content: bytes, seed: int, name: str, k: int) -> bytes:
    """Input k of a reader."""
    return mutated(content, np.random.default_rng([seed, k, *name.encode()]))


@dataclasses.dataclass(frozen=True)
class Mutations:
    """The inputs of one reader; see `Attempts`."""

    name: str
    content: bytes
    folder: Path
    seed: int
    seconds: float

    @property
    def own(self) -> str:
        """The folder."""
        return str(self.folder)

    def begin(self) -> None:
        """Read the valid file, which imports what that needs."""
        self._path.write_bytes(self.content)
        READERS[self.name].read(self._path)

    def make(self, k: int) -> None:
        """Write input k."""
        self._path.write_bytes(input_of(self.content, self.seed, self.name, k))

    def read(self, k: int) -> None:
        """Read it."""
        READERS[self.name].read(self._path)

    def reached(self) -> list[str]:
        """Nothing that the audit hook does not see."""
        return []

    @property
    def _path(self) -> Path:
        return self.folder / f"input{READERS[self.name].suffix}"


def attack(name: str, n: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Counts of outcomes of one reader, and the first few inputs that went wrong."""
    path = folder / f"valid{READERS[name].suffix}"
    READERS[name].make(path)
    content = path.read_bytes()
    path.unlink()
    return attempt_all(Mutations(name, content, folder, settings.seed, settings.seconds), n)


def attack_all(settings: Settings) -> dict[str, dict[str, Any]]:
    """What `attack` gives of every reader, printed as it comes."""
    names = settings.readers or tuple(READERS)
    results = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = attack(name, settings.inputs // len(names), settings, Path(folder))
        counts = {k: v for k, v in results[name].items() if k != "wrong"}
        print(f"{name:16}", ", ".join(f"{k} {v}" for k, v in counts.items()), flush=True)
        for each in results[name]["wrong"][:5]:
            print("   ", each)
    return results


def main(settings: Settings) -> int:
    """Attack all readers and print a table; 1 where anything went wrong."""
    results = attack_all(settings)
    if settings.out:
        settings.out.write_text(json.dumps(results, indent=1))
    return int(any(result["wrong"] for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
