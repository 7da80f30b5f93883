"""Mutated files for every reader: none may give a traceback, hang, crash or reach another file.

    python -m experiments.attack.fuzz --inputs 20000 --out fuzz.json

A mutation is a few changes at random places of a small valid file: flipped bits, other bytes,
zeros, extreme numbers of 1 to 8 bytes, digits of text, pieces cut out or doubled, the end cut off.
Input k of a reader depends on `--seed` and k alone, so any of them can be made again. Each reader
runs in a process of its own, with a limit of memory; an input that takes longer than `--seconds` is
a hang. What Python opens, runs or connects to beyond the input itself is counted by an audit hook
(what C libraries open is not seen).

An error that the command line prints as one line is right (`REFUSED`).
"""

from __future__ import annotations

import collections
import dataclasses
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

import esv_jax as ej

REFUSED = (ValueError, TypeError, KeyError, OSError, ImportError, MemoryError)
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect", "pty.spawn")
_MEMORY = 6 * 2**30  # bytes of address space
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


def _sequences(path: Path) -> None:
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
        values=np.full((3, 2), _SMALL),
        scores=np.full(2, _SMALL),
        prior=np.full(2, _SMALL),
        marginals=np.full((3, 3, 2), _SMALL),
        n_evaluations=7,
        exact=True,
    )
    ej.results.save(path, [att, att], uids=["a", "b"], class_names=["x", "y"], labels=[0, 1])


def _read_results(path: Path) -> None:
    dataset = ej.results.open(path)
    for uid in list(dataset["video"].values)[:20]:
        ej.results.load_attribution(dataset, str(uid))
    ej.results.to_dataframe(dataset)


def _make_pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"a": [1, 2.5, "x"], "b": np.arange(6.0).reshape(2, 3)}))


READERS = {
    "HDF5 features": Reader(".hdf", _make_hdf, _sequences),
    "npy features": Reader(".npy", _make_npy, _sequences),
    "ts sequences": Reader(".ts", _make_ts, _sequences),
    "MP4 video": Reader(".mp4", _make_video, _read_video),
    "GIF video": Reader(".gif", _make_video, _read_video),
    "class names": Reader(".csv", _make_classes, ej.data.read_classes),
    "class priors": Reader(".csv", _make_priors, ej.data.read_class_priors),
    "model file": Reader(".safetensors", _make_model, ej.models.load_model),
    "netCDF results": Reader(".nc", _make_results, _read_results),
    "pickle": Reader(".pkl", _make_pickle, ej.checkpoints.load_pickle),
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


def _work(
    name: str,
    content: bytes,
    folder: Path,
    seed: int,
    span: tuple[int, int],
    progress: Any,
    pipe: Any,
) -> None:
    """Try the inputs of a span, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    reader, path = READERS[name], folder / f"input{READERS[name].suffix}"
    path.write_bytes(content)
    reader.read(path)  # imports what it needs
    beyond: list[str] = []
    is_on = True

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if not is_on:
            return
        ours = event == "subprocess.Popen" and "hdf5_inspection" in str(args[1])
        if event in _FORBIDDEN and not ours:  # the package's own reader of doubtful HDF5 files
            beyond.append(f"{event} {args[:1]}"[:200])
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            opened = os.fsdecode(args[0])
            known = (str(folder), sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/dev/null")
            inside = opened.startswith((*known, str(Path(ej.__file__).parent)))
            if not inside and os.path.isabs(opened):
                beyond.append(f"open {opened}"[:200])

    sys.addaudithook(audit)
    warnings.simplefilter("ignore")
    for k in range(*span):
        is_on = False
        path.write_bytes(input_of(content, seed, name, k))
        beyond.clear()
        with progress.get_lock():
            progress.value = k
        is_on = True
        outcome, text = "read", ""
        try:
            reader.read(path)
        except REFUSED as error:
            outcome = "refused"
            if "\n" in str(error).strip() or not str(error).strip():
                outcome, text = "unclear", f"{type(error).__name__}: {error}"[:300]
        except Exception as error:
            outcome, text = "traceback", f"{type(error).__name__}: {error}"[:300]
        if beyond:
            outcome, text = "reached outside", beyond[0]
        pipe.send((k, outcome, text))
    pipe.send(None)


def attack(name: str, n: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Counts of outcomes of one reader, and the first few inputs that went wrong."""
    reader = READERS[name]
    path = folder / f"valid{reader.suffix}"
    reader.make(path)
    content = path.read_bytes()
    path.unlink()
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    start, began = 0, time.monotonic()
    while start < n:
        progress = context.Value("q", -1)
        ours, theirs = context.Pipe(duplex=False)
        given = (name, content, folder, settings.seed, (start, n), progress, theirs)
        process = context.Process(target=_work, args=given)
        process.start()
        theirs.close()
        done = False
        while True:
            try:
                if not ours.poll(settings.seconds + (60 if progress.value < start else 0)):
                    end = "hang"
                    break
                message = ours.recv()
            except EOFError:
                process.join()
                end = f"crash ({process.exitcode})"
                break
            if message is None:
                done = True
                break
            k, outcome, text = message
            counts[outcome] += 1
            start = k + 1
            if outcome not in ("read", "refused"):
                wrong.append({"input": k, "outcome": outcome, "text": text})
        process.kill()
        process.join()
        if done:
            break
        if progress.value < start:
            raise RuntimeError(f"{name}: the worker did not begin ({end}).")
        counts[end.split()[0]] += 1
        wrong.append({"input": int(progress.value), "outcome": end, "text": ""})
        start = int(progress.value) + 1
    seconds = time.monotonic() - began
    return {"inputs": n, **counts, "seconds": round(seconds, 1), "wrong": wrong[:20]}


def main(settings: Settings) -> int:
    """Attack all readers and print a table; 1 where anything went wrong."""
    names = settings.readers or tuple(READERS)
    results = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = attack(name, settings.inputs // len(names), settings, Path(folder))
        counts = {k: v for k, v in results[name].items() if k != "wrong"}
        print(f"{name:16}", ", ".join(f"{k} {v}" for k, v in counts.items()), flush=True)
        for each in results[name]["wrong"][:5]:
            print("   ", each)
    if settings.out:
        settings.out.write_text(json.dumps(results, indent=1))
    return int(any(result["wrong"] for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
